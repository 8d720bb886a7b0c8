"""Guidance: two or more answers of models made into one, which is again a `predict`.

Every rule is linear in the predictions, so on one state it holds for velocity, x, noise and v alike, and for the score.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wm.config import config
from wm.flow import Flow, Predict


def guided(predict: Predict, predict_null: Predict, scale: float, rescale: float = 0.0) -> Predict:
    """Classifier-free guidance: null + scale (conditional - null) (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).

    Scale 1 is `predict` itself and 0 is `predict_null` itself, without the other's cost. With a weaker model under the
    same condition as `predict_null` it is autoguidance (Karras et al. 2024, arXiv:2406.02507, eq. 3).
    """
    return predict_null if scale == 0 else guided_by_each([predict_null, predict], [scale], rescale)


def guided_by_each(predicts: Sequence[Predict], scales: Sequence[float], rescale: float = 0.0) -> Predict:
    """Guidance with a scale for each condition: p0 + s1 (p1 - p0) + s2 (p2 - p1) + ..., one scale less than predicts.

    `predicts` are given more and more: nothing, the text, the text and the action (Brooks et al. 2023, arXiv:2211.09800,
    eq. 3). So each condition's likelihood *given those before it* counts to the power of its scale; scales of 1 give the
    last predict itself. `rescale` goes that share of the way to the deviation that the last one has in a frame: large
    scales overexpose (Lin et al. 2024, arXiv:2305.08891, eq. 15-16).
    """
    _refuse_unpaired(predicts[1:], scales)
    if all(scale == 1 for scale in scales):
        return predicts[-1]

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        told = y = predicts[0](x_t, t)
        for predict, scale in zip(predicts[1:], scales, strict=True):
            less, told = told, predict(x_t, t)
            y = y + scale * (told - less)
        if rescale == 0:
            return y
        ratio = told.std(dim=(2, 3, 4), keepdim=True) / y.std(dim=(2, 3, 4), keepdim=True)
        return y * (rescale * ratio + (1 - rescale))

    return guide


def composed(predict_null: Predict, predicts: Sequence[Predict], scales: Sequence[float]) -> Predict:
    """null + sum of s_i (p_i - null): conditions that do not know of each other (Liu et al. 2022, arXiv:2206.01714, eq. 11).

    With the same clip after histories of different levels as `predicts` and after none as `predict_null`, this is
    history guidance (Song et al. 2025, arXiv:2502.06764): see `after_history`.
    """
    _refuse_unpaired(predicts, scales)

    def compose(x_t: Tensor, t: Tensor) -> Tensor:
        null = y = predict_null(x_t, t)
        for predict, scale in zip(predicts, scales, strict=True):
            y = y + scale * (predict(x_t, t) - null)
        return y

    return compose


def _refuse_unpaired(conditions: Sequence[Predict], scales: Sequence[float]) -> None:
    if len(conditions) != len(scales):
        raise ValueError(f"{len(scales)} scales for {len(conditions)} conditions: give one for each")


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

    def guided_by_each(self, predicts: Sequence[Predict], scales: Sequence[float]) -> Predict:
        """As the function of that name; outside the limits it is the last predict."""
        return within(guided_by_each(predicts, scales, self.rescale), predicts[-1], self.lowest, self.highest)


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
