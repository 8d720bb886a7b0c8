"""Condition: the fields that a DiT reads, and what makes them."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wm.batch import Given


@dataclass(frozen=True)
class Condition:
    tokens: Tensor | None = None  # (B, L, D) attended to: text
    mask: Tensor | None = None  # (B, L) True where a token is real
    frames: Tensor | None = None  # (B, T, D) added to the modulation of frame i: keys, buttons
    maps: Tensor | None = None  # (B, T, M, H, W) joined to the latents: where the pointer is
    moved: Tensor | None = None  # (B, T, 2) int64 latents down and right that the pointer went since the frame before
    actions: Tensor | None = None  # (B, T, K, D) attended to by the frames that follow soon: what was done in frame i
    place: Tensor | None = None  # (B, T, H, W) weights that sum to 1 in a frame: the one place at which to look closer


class Conditioner(Protocol):
    """An nn.Module inside the denoiser, so its weights train with it."""

    num_maps: int  # M of Condition.maps, 0 without

    def __call__(self, given: Given) -> Condition: ...

    def null(self, given: Given) -> Condition:
        """The condition that says nothing, in the shapes of `given`, for dropping and for guidance."""
        ...


def _choose(keep: Tensor, condition: Tensor | None, null: Tensor | None) -> Tensor | None:
    if condition is None or null is None:
        return condition
    return torch.where(keep.view(-1, *(1,) * (condition.dim() - 1)), condition, null)


def dropped(condition: Condition, null: Condition, keep: Tensor) -> Condition:
    """`condition` where `keep` (B,) is True, `null` elsewhere (Ho & Salimans 2022, algorithm 1)."""
    return Condition(
        tokens=_choose(keep, condition.tokens, null.tokens),
        mask=_choose(keep, condition.mask, null.mask),
        frames=_choose(keep, condition.frames, null.frames),
        maps=_choose(keep, condition.maps, null.maps),
        moved=_choose(keep, condition.moved, null.moved),
        actions=_choose(keep, condition.actions, null.actions),
        place=_choose(keep, condition.place, null.place),
    )
