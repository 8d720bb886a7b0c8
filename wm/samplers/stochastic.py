"""Samplers that put fresh noise in on the way: ancestral (DDPM), churned (EDM), consistency."""

import math
from typing import Literal

import torch
from torch import Tensor

from wm.config import config
from wm.flow import Flow, Predict
from wm.samplers.single_step import heun_step
from wm.samplers.steps import Fresh, steps


@config
class Ancestral:
    kind: Literal["ancestral"] = "ancestral"
    eta: float = 1.0  # 0 is euler (DDIM), 1 is DDPM

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must lie in [0, 1]: a step cannot renew more noise than it has")

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return ancestral(flow, predict, x, times, self.eta, fresh)


def ancestral(flow: Flow, predict: Predict, x: Tensor, times: Tensor, eta: float, fresh: Fresh) -> Tensor:
    """Euler with part of the noise replaced at each step: eta 0 is `euler`, eta 1 is DDPM (Ho et al. 2020)."""
    for step in steps(flow, x, times):
        clean, noise = flow.solve(x, predict(x, step.t), step.t)
        if eta > 0 and not step.ends:
            noise = flow.renewed(noise, fresh(step.number), step.t, step.s, eta)
        x = flow.step(clean, noise, step.s)
    return x


@config
class Churned:
    """EDM's settings; its own for ImageNet are churn 40, lowest 0.05, highest 50, scale 1.003 (table 5)."""

    kind: Literal["churned"] = "churned"
    churn: float = 40.0  # over all steps; 0 is heun
    lowest: float = 0.05  # noise ratios between which noise is added
    highest: float = 50.0
    scale: float = 1.003  # deviation of what is added: a model takes out a little too much

    def __post_init__(self) -> None:
        if self.churn < 0 or not 0 <= self.lowest < self.highest or self.scale <= 0:
            raise ValueError(
                f"churn {self.churn}, lowest {self.lowest}, highest {self.highest}, scale {self.scale}: churn must not "
                "be below 0, 0 <= lowest < highest, and scale must be above 0"
            )

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return churned(flow, predict, x, times, self, fresh)


def churned(flow: Flow, predict: Predict, x: Tensor, times: Tensor, settings: Churned, fresh: Fresh) -> Tensor:
    """Up by some noise, then down by Heun's step (Karras et al. 2022, arXiv:2206.00364, alg. 2), on any path.

    A step raises the noise ratio by the factor 1 + min(churn / steps, sqrt(2) - 1), not beyond the path's end.
    """
    factor = 1 + min(settings.churn / (len(times) - 1), math.sqrt(2) - 1)
    for step in steps(flow, x, times):
        t, ratio = step.t, flow.noise_ratio(torch.tensor(step.level, dtype=torch.float64))
        if factor > 1 and settings.lowest <= float(ratio) <= settings.highest:
            up = flow.usable(torch.full_like(t, min(float(flow.path.level_of(ratio * factor)), 1)))
            x, t = flow.raised(x, settings.scale * fresh(step.number), t, up), up
        x = heun_step(flow, predict, x, t, step.s, step.ends)
    return x


@config
class Consistency:
    kind: Literal["consistency"] = "consistency"

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return consistency(flow, predict, x, times, fresh)


def consistency(flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
    """Jump to clean, add wholly fresh noise, repeat (Song et al. 2023, arXiv:2303.01469, alg. 1)."""
    for step in steps(flow, x, times):
        x = flow.clean(x, predict(x, step.t), step.t)
        if not step.ends:
            x = flow.step(x, fresh(step.number), step.s)
    return x
