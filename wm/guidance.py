"""Guidance: two or more answers of models made into one, which is again a `predict`.

Every rule is linear in the predictions, so on one state it holds for velocity, x, noise and v alike, and for the score.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wm.config import config
from wm.flow import Flow, Predict


def guided(predict: Predict, predict_null: Predict, scale: float, rescale: float = 0.0) -> Predict:
    """Classifier-free guidance: null + scale (conditional - null) (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).

    Scale 1 is `predict` itself and 0 is `predict_null` itself, without the other's cost. With a weaker model under the
    same condition as `predict_null` it is autoguidance (Karras et al. 2024, arXiv:2406.02507, eq. 3). `rescale` goes that
    share of the way to the deviation that `predict` has in a frame: large scales overexpose (Lin et al. 2024,
    arXiv:2305.08891, eq. 15-16).
    """
    if scale == 1:
        return predict
    if scale == 0 and rescale == 0:
        return predict_null

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        null, told = predict_null(x_t, t), predict(x_t, t)
        return _rescaled(null + scale * (told - null), told, rescale)

    return guide


def _rescaled(y: Tensor, told: Tensor, share: float) -> Tensor:
    """`y` brought that share of the way to the deviation of `told` in each frame."""
    if share == 0:
        return y
    ratio = told.std(dim=(2, 3, 4), keepdim=True) / y.std(dim=(2, 3, 4), keepdim=True)
    return y * (share * ratio + (1 - share))


def within(guided: Predict, predict: Predict, lowest: float, highest: float) -> Predict:
    """`guided` in frames at levels from lowest to highest, elsewhere `predict` (Kynkaanniemi et al. 2024, 2404.07724).

    Where no frame lies within, only `predict` is called, and where all do, only `guided`.
    """
    if lowest <= 0 and highest >= 1:
        return guided

    def choose(x_t: Tensor, t: Tensor) -> Tensor:
        inside = (t >= lowest) & (t <= highest)
        if not bool(inside.any()):
            return predict(x_t, t)
        if bool(inside.all()):
            return guided(x_t, t)
        return torch.where(inside[..., None, None, None], guided(x_t, t), predict(x_t, t))

    return choose


@config
class GuidanceLimits:
    """Where a guidance scale counts, and how far its result is brought back to the deviation of the unguided one."""

    lowest: float = 0.0  # level
    highest: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.lowest < self.highest <= 1:
            raise ValueError(f"guidance from level {self.lowest} to {self.highest}: give 0 <= lowest < highest <= 1")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale is {self.rescale}; it must lie in [0, 1]")

    def guided(self, predict: Predict, predict_null: Predict, scale: float) -> Predict:
        return within(guided(predict, predict_null, scale, self.rescale), predict, self.lowest, self.highest)

    def limited(self, guide: Predict, predict: Predict) -> Predict:
        """`guide`, whatever it was made of, held to the limits by `predict`, the one that is told everything."""

        def rescaled(x_t: Tensor, t: Tensor) -> Tensor:
            y = guide(x_t, t)
            return _rescaled(y, predict(x_t, t), self.rescale) if self.rescale else y

        return within(rescaled, predict, self.lowest, self.highest)


class Scaled(NamedTuple):
    predict: Predict
    scale: float


def chained(predict_null: Predict, conditions: Sequence[Scaled]) -> Predict:
    """A scale for each condition, each predict knowing one more of them than the one before: null, text, text and action.

    null + s_1 (p_1 - null) + s_2 (p_2 - p_1) ... (Brooks et al. 2023, arXiv:2211.09800, eq. 3): to the power of its scale,
    each condition's likelihood *given the ones before it* sharpens the distribution. One call a predict that counts.
    """
    # p_k counts s_k times by its own condition and is taken back s_(k+1) times by the next.
    scales = [1.0, *(part.scale for part in conditions), 0.0]
    predicts = [predict_null, *(part.predict for part in conditions)]
    return _sum([Scaled(p, scales[k] - scales[k + 1]) for k, p in enumerate(predicts)])


def composed(predict_null: Predict, conditions: Sequence[Scaled]) -> Predict:
    """null + sum of s_i (p_i - null): conditions that do not know of each other (Liu et al. 2022, arXiv:2206.01714, eq. 11).

    With the same clip after histories of different levels as `conditions` and after none as `predict_null`, this is
    history guidance (Song et al. 2025, arXiv:2502.06764): see `after_history`.
    """
    rest = 1 - sum(part.scale for part in conditions)
    return _sum([Scaled(predict_null, rest), *conditions])


def _sum(parts: Sequence[Scaled]) -> Predict:
    counting = [part for part in parts if part.scale != 0]
    if len(counting) == 1 and counting[0].scale == 1:
        return counting[0].predict

    def add(x_t: Tensor, t: Tensor) -> Tensor:
        first, *others = (part.scale * part.predict(x_t, t) for part in counting)
        return sum(others, first)

    return add


def after_history(
    flow: Flow,
    predict: Predict,  # of whole clips
    history: Tensor,  # (B, K, C, H, W) clean frames before those that are sampled
    noise: Tensor,  # like history
    level: float | Tensor,  # 0 shows the history as it is, 1 hides it; (B, K) for a level a frame
) -> Predict:
    """`predict` for the frames after `history`, which is shown at `level` (Chen et al. 2024, arXiv:2407.01392).

    History guidance: `guided` or `composed` of this at level 0 over this at level 1; levels between guide by the slow
    parts of the past alone (fractional), levels of 1 in some frames only by parts of it (temporal).
    """
    dtype = torch.promote_types(history.dtype, torch.float32)
    levels = torch.as_tensor(level, dtype=dtype, device=history.device).expand(history.shape[:2])
    shown = flow.noised(history, noise, levels)

    def go_on(x_t: Tensor, t: Tensor) -> Tensor:
        both = torch.cat([shown.to(x_t.dtype), x_t], dim=1)
        return predict(both, torch.cat([levels.to(t.dtype), t], dim=1))[:, history.shape[1] :]

    return go_on
