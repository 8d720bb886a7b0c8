"""What a tokenizer's frames are held to: terms of one loss, each a file's, chosen and weighted in the config."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from wm.config import Kind, Named
from wm.losses.gradient import Edge, Gradient
from wm.losses.perceptual import Perceptual
from wm.losses.pixel import L1, Charbonnier, Mixed

# (made, video, importance) -> a scalar; videos (B, T, 3, H, W) in [-1, 1], importance (B, T, 1, H, W), 1 where nothing is.
Term = Callable[[Tensor, Tensor, Tensor], Tensor]
TermConfig = Annotated[Mixed | L1 | Charbonnier | Edge | Gradient | Perceptual, Kind, Named]

__all__ = ["L1", "Charbonnier", "Edge", "Gradient", "Mixed", "Perceptual", "Reconstruction", "Term", "TermConfig"]


class Reconstruction:
    """(made, video, importance) -> the weighted sum of the terms, and each term as it is, by its kind."""

    def __init__(self, terms: Sequence[TermConfig], device: torch.device | str = "cpu") -> None:
        if not terms or len({term.kind for term in terms}) < len(terms):
            kinds = ", ".join(term.kind for term in terms) or "none"
            raise ValueError(f"terms of the reconstruction are {kinds}: give at least one, and each once")
        self._terms = [(term.kind, term.weight, term.build(device)) for term in terms]

    def __call__(self, made: Tensor, video: Tensor, importance: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        made = made.float()
        found = {kind: term(made, video, importance) for kind, _, term in self._terms}
        total = torch.stack([weight * found[kind] for kind, weight, _ in self._terms]).sum()
        return total, {kind: value.detach() for kind, value in found.items()}
