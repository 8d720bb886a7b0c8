"""Errors of single pixels: squared with a little of the absolute, absolute, and Charbonnier's between the two."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wm.config import config


def weighted(error: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The mean of `error` of the difference of two videos, where each pixel counts by its importance."""

    def term(made: Tensor, video: Tensor, importance: Tensor) -> Tensor:
        return (error(made - video) * importance).mean()

    return term


@config
class Mixed:
    """d^2 + 0.1 |d|: the square learns fast, the absolute goes on where the square has no slope left."""

    kind: Literal["mixed"] = "mixed"
    weight: float = 1.0

    def build(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return weighted(lambda difference: difference.square() + 0.1 * difference.abs())


@config
class L1:
    kind: Literal["l1"] = "l1"
    weight: float = 1.0

    def build(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return weighted(torch.abs)


@config
class Charbonnier:
    """sqrt(d^2 + epsilon^2) - epsilon: |d| with a smooth bottom (Charbonnier et al. 1994)."""

    kind: Literal["charbonnier"] = "charbonnier"
    weight: float = 1.0
    epsilon: float = 1e-3  # of [-1, 1]

    def build(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return weighted(lambda difference: charbonnier(difference, self.epsilon))


def charbonnier(difference: Tensor, epsilon: float) -> Tensor:
    return (difference.square() + epsilon**2).sqrt() - epsilon
