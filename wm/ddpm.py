"""Discrete diffusion, steps 0 to N - 1 with a beta each, to and from levels of any path.

What a step and a level have in common is the ratio of noise to signal, so the conversion is exact: step i of DDPM is the
level t with b(t)^2 / a(t)^2 = (1 - alpha_bar_i) / alpha_bar_i, and there x_t is sqrt(a^2 + b^2) times DDPM's x_i, which is
1 on the variance preserving paths. So a model trained on either side is sampled on the other.
"""

import torch
from torch import Tensor

from wm.paths import Path


def linear_betas(num_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """(N,) float64 (Ho et al. 2020, arXiv:2006.11239, section 4)."""
    return torch.linspace(first, last, num_steps, dtype=torch.float64)


def cosine_betas(num_steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """(N,) float64 of the cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17)."""
    angle = (torch.arange(num_steps + 1, dtype=torch.float64) / num_steps + offset) / (1 + offset) * torch.pi / 2
    alpha_bar = torch.cos(angle) ** 2
    return betas_of(alpha_bar[1:] / alpha_bar[0]).clamp(max=largest)


def alpha_bar_of(betas: Tensor) -> Tensor:
    """(N,): the share of the data's variance that is left after each step (Ho et al. 2020, eq. 4)."""
    return torch.cumprod(1 - betas, 0)


def betas_of(alpha_bar: Tensor) -> Tensor:
    """(N,): the inverse of `alpha_bar_of`."""
    before = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
    return 1 - alpha_bar / before


def levels_of(path: Path, alpha_bar: Tensor) -> Tensor:
    """The levels, of the same shape, at which `path` has these alpha_bar.

    Just above 1 where the discrete schedule ends with more noise than the path: `a` and `b` go on there.
    """
    return path.level_of(torch.sqrt((1 - alpha_bar) / alpha_bar))


def alpha_bar_at(path: Path, t: Tensor) -> Tensor:
    """alpha_bar of levels `t`, the inverse of `levels_of`: with `betas_of`, the discrete schedule of a grid of levels."""
    return path.a(t) ** 2 / (path.a(t) ** 2 + path.b(t) ** 2)


def state_scale(path: Path, t: Tensor) -> Tensor:
    """By what DDPM's state is multiplied to be that of `path` at the same noise ratio."""
    return torch.sqrt(path.a(t) ** 2 + path.b(t) ** 2)
