"""Samplers without memory and without fresh noise: each step starts from the state alone."""

from typing import Literal

from torch import Tensor

from wm.config import config
from wm.flow import Flow, Predict
from wm.samplers.steps import Fresh, steps


@config
class Euler:
    kind: Literal["euler"] = "euler"

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return euler(flow, predict, x, times)


def euler(flow: Flow, predict: Predict, x: Tensor, times: Tensor) -> Tensor:
    """First order, one call a step; DDIM on the variance preserving paths (Song et al. 2021, arXiv:2010.02502)."""
    for step in steps(flow, x, times):
        clean, noise = flow.solve(x, predict(x, step.t), step.t)
        x = flow.step(clean, noise, step.s)
    return x


@config
class Heun:
    kind: Literal["heun"] = "heun"

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return heun(flow, predict, x, times)


def heun(flow: Flow, predict: Predict, x: Tensor, times: Tensor) -> Tensor:
    """Second order, two calls a step and one in the last step to 0 (Karras et al. 2022, arXiv:2206.00364, alg. 1)."""
    for step in steps(flow, x, times):
        x = heun_step(flow, predict, x, step.t, step.s, step.ends)
    return x


def heun_step(flow: Flow, predict: Predict, x: Tensor, t: Tensor, s: Tensor, ends: bool) -> Tensor:
    """One step of `heun`; Euler's where it `ends`, since the field cannot be asked at 0.

    Averages (clean, noise) of both ends and integrates the path's own change exactly: on the rectified path this is
    Heun's rule for the velocity, on the exploding one EDM's.
    """
    clean, noise = flow.solve(x, predict(x, t), t)
    ahead = flow.step(clean, noise, s)
    if ends:
        return ahead
    clean_ahead, noise_ahead = flow.solve(ahead, predict(ahead, s), s)
    clean, noise = (clean + clean_ahead) / 2, (noise + noise_ahead) / 2
    return x + flow.step(clean, noise, s) - flow.step(clean, noise, t)
