"""From noise to data: functions of `predict(x_t, t)` and a falling grid of levels. No formula of its own: see flow.py.

Each takes `x` (B, T, C, H, W) at level times[0] (`noise` where b(1) = 1, `b(1) noise` on the exploding path) and
returns the state at level times[-1]; with a grid that ends at 0, that is data. All frames are at one level. Where the
chosen prediction is singular at the first level, the model is asked LEVEL_MARGIN below it (Flow.usable).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wm.flow import Flow, Predict

# Fresh(i) -> standard normal like x, for step i: a caller keys it, so that a seed gives the same frames again.
Fresh = Callable[[int], Tensor]


def euler(flow: Flow, predict: Predict, x: Tensor, times: Tensor) -> Tensor:
    """First order, one call a step; DDIM on the variance preserving paths (Song et al. 2021, arXiv:2010.02502)."""
    for step in _steps(flow, x, times):
        clean, noise = flow.solve(x, predict(x, step.t), step.t)
        x = flow.step(clean, noise, step.s)
    return x


def heun(flow: Flow, predict: Predict, x: Tensor, times: Tensor) -> Tensor:
    """Second order, two calls a step and one in the last step to 0 (Karras et al. 2022, arXiv:2206.00364, alg. 1).

    Averages (clean, noise) of both ends and integrates the path's own change exactly: on the rectified path this is
    Heun's rule for the velocity.
    """
    for _, t, s, ends in _steps(flow, x, times):
        clean, noise = flow.solve(x, predict(x, t), t)
        ahead = flow.step(clean, noise, s)
        if not ends:
            clean_ahead, noise_ahead = flow.solve(ahead, predict(ahead, s), s)
            clean, noise = (clean + clean_ahead) / 2, (noise + noise_ahead) / 2
            ahead = x + flow.step(clean, noise, s) - flow.step(clean, noise, t)
        x = ahead
    return x


def ancestral(flow: Flow, predict: Predict, x: Tensor, times: Tensor, eta: float, fresh: Fresh) -> Tensor:
    """Euler with part of the noise replaced at each step: eta 0 is `euler`, eta 1 is DDPM (Ho et al. 2020)."""
    for i, t, s, ends in _steps(flow, x, times):
        clean, noise = flow.solve(x, predict(x, t), t)
        if eta > 0 and not ends:
            noise = flow.renewed(noise, fresh(i), t, s, eta)
        x = flow.step(clean, noise, s)
    return x


def consistency(flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
    """Jump to clean, add wholly fresh noise, repeat (Song et al. 2023, arXiv:2303.01469, alg. 1)."""
    for i, t, s, ends in _steps(flow, x, times):
        x = flow.clean(x, predict(x, t), t)
        if not ends:
            x = flow.step(x, fresh(i), s)
    return x


def guided(predict: Predict, predict_null: Predict, scale: float) -> Predict:
    """Classifier-free guidance: null + scale (conditional - null) (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).

    Scale 1 is `predict` itself and 0 is `predict_null` itself, without the other's cost.
    """
    if scale == 1:
        return predict
    if scale == 0:
        return predict_null

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        null = predict_null(x_t, t)
        return null + scale * (predict(x_t, t) - null)

    return guide


def guided_by_each(predicts: Sequence[Predict], scales: Sequence[float]) -> Predict:
    """Guidance with a scale for each condition: p0 + s1 (p1 - p0) + s2 (p2 - p1) + ..., one scale less than predicts.

    `predicts` are given more and more, the first one nothing (Brooks et al. 2023, arXiv:2211.09800, eq. 3). Scales of 1 give
    the last one; with two predicts it is `guided`.
    """
    if len(scales) != len(predicts) - 1:
        raise ValueError(
            f"{len(scales)} scales for {len(predicts)} predictions: one is needed for each step between them"
        )

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        y = [predict(x_t, t) for predict in predicts]
        return y[0] + sum(
            (s * (more - less) for s, less, more in zip(scales, y, y[1:], strict=False)), torch.zeros_like(y[0])
        )

    return guide if scales else predicts[0]


class _Step(NamedTuple):
    number: int
    t: Tensor  # (B, T) where the model is asked
    s: Tensor  # (B, T) where the step goes
    ends: bool  # s is 0: what comes out is data, nothing is added


def _steps(flow: Flow, x: Tensor, times: Tensor) -> Iterator[_Step]:
    levels = times.tolist()
    if any(t <= s for t, s in itertools.pairwise(levels)):
        raise ValueError(f"times must fall at every step, got {[round(level, 4) for level in levels]}")
    full = torch.ones(x.shape[:2], device=x.device, dtype=times.dtype)
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        yield _Step(i, flow.usable(full * t), full * s, s == 0)
