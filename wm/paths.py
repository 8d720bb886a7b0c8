"""Paths from data to noise: the coefficients of x_t = a(t) x + b(t) noise, their slopes, and the level of a noise ratio.

t = 0 is data, t = 1 is noise. Everything is computed in the dtype of `t`.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Path(Protocol):
    """x_t = a(t) x + b(t) noise with a(0) = 1, b(0) = 0; da and db are the derivatives by t.

    b / a, the noise ratio (EDM's sigma), rises with t: `level_of` gives back t, for ratios from 0 to that of t = 1.
    """

    def a(self, t: Tensor) -> Tensor: ...
    def b(self, t: Tensor) -> Tensor: ...
    def da(self, t: Tensor) -> Tensor: ...
    def db(self, t: Tensor) -> Tensor: ...
    def level_of(self, ratio: Tensor) -> Tensor: ...


class Rectified:
    """Straight lines from data to noise (Liu et al. 2022, arXiv:2209.03003, eq. 1)."""

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def b(self, t: Tensor) -> Tensor:
        return t

    def da(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def db(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def level_of(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio)  # right for a ratio of 0 and for an infinite one


class VariancePreservingCosine:
    """a = cos(pi t / 2), b = sin(pi t / 2) (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, without offset)."""

    def a(self, t: Tensor) -> Tensor:
        # The sine of the complement: the cosine of a rounded pi / 2 would be -4e-8 instead of 0 at t = 1.
        return torch.sin((1 - t) * (math.pi / 2))

    def b(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def da(self, t: Tensor) -> Tensor:
        return self.b(t) * (-math.pi / 2)

    def db(self, t: Tensor) -> Tensor:
        return self.a(t) * (math.pi / 2)

    def level_of(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio) / (math.pi / 2)


class VariancePreservingLinear:
    """DDPM's linear schedule in continuous time: beta from 0.1 to 20 (Song et al. 2021, arXiv:2011.13456, eq. 33).

    b grows like sqrt(t), so its derivative is infinite at t = 0. da and db are held at their values at t = 1e-5 below
    that level (the cut that Song et al. use), which keeps the velocity finite and its system solvable down to t = 0.
    """

    beta_min = 0.1
    beta_max = 20.0
    earliest = 1e-5

    def _half_integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min / 2 + t * (self.beta_max - self.beta_min) / 4)

    def a(self, t: Tensor) -> Tensor:
        return torch.exp(-self._half_integral(t))

    def b(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-2 * self._half_integral(t)))

    def da(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.earliest)
        return -self.a(t) * (self.beta_min + t * (self.beta_max - self.beta_min)) / 2

    def db(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.earliest)
        return -self.da(t) * self.a(t) / self.b(t)

    def level_of(self, ratio: Tensor) -> Tensor:
        integral, half = torch.log1p(ratio**2), self.beta_min / 2  # of beta up to t; then the root of a parabola
        return integral / (half + torch.sqrt(half**2 + integral * (self.beta_max - self.beta_min) / 2))


class VarianceExploding:
    """x + b noise, b growing geometrically from 0 to 80, with EDM's range (Karras et al. 2022, arXiv:2206.00364).

    b = s ((1 + 80/s)^t - 1) with s = 0.002: Song's geometric schedule made to start at 0, so t = 0 is data here too.
    a(1) is 1: a sample starts from b(1) noise, not from noise. Deviations of the data should be near 1.
    """

    sigma_min = 0.002
    sigma_max = 80.0

    @property
    def _growth(self) -> float:
        return math.log1p(self.sigma_max / self.sigma_min)

    def a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def b(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(t * self._growth)

    def da(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def db(self, t: Tensor) -> Tensor:
        return self.sigma_min * self._growth * torch.exp(t * self._growth)

    def level_of(self, ratio: Tensor) -> Tensor:
        return torch.log1p(ratio / self.sigma_min) / self._growth


PATHS: dict[str, Callable[[], Path]] = {
    "rectified": Rectified,
    "vp_linear": VariancePreservingLinear,
    "vp_cosine": VariancePreservingCosine,
    "ve": VarianceExploding,
}
