"""The average of the weights over training (EMA), kept in float32 over the part of the weights that a rank owns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wm.engine.offload import Shelf, kept_on
from wm.engine.posthoc import power_exponent, power_kind


class Average:
    """`tensors` follow `masters` by average <- decay * average + (1 - decay) * master after every applied step.

    Float32 whatever the weights are: at decay 0.999 the change of one step is below what bfloat16 can hold.
    """

    def __init__(self, masters: Sequence[Tensor], decay: float, shelf: Shelf | None = None):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"average_decay {decay} is not in [0, 1); 0 keeps no average")
        self.decay, self._shelf = decay, shelf
        self.tensors = _copies(masters, shelf)

    @torch.no_grad()
    def update(self, masters: Sequence[Tensor]) -> None:
        """One step towards `masters`, element by element, so a rank needs only what it owns."""
        _approach(self.tensors, masters, 1.0 - self.decay, self._shelf)


class PowerAverages:
    """Averages whose weight of step tau grows as tau^gamma: one for each relative length (posthoc.py says what that is).

    average(t) = beta average(t - 1) + (1 - beta) master, beta = (1 - 1/t)^(gamma + 1), t counted from 1 (Karras et al.
    2024, arXiv:2312.02696, equation 2). From what checkpoints hold of two of them any other length can be had afterwards.
    """

    def __init__(self, masters: Sequence[Tensor], lengths: Sequence[float], shelf: Shelf | None = None):
        self._shelf = shelf
        self._exponents = {power_kind(length): power_exponent(length) for length in lengths}
        self.tensors = {kind: _copies(masters, shelf) for kind in self._exponents}

    @torch.no_grad()
    def update(self, masters: Sequence[Tensor], step: int) -> None:
        """Take in the masters after applied step number `step`, the first being 1."""
        for kind, exponent in self._exponents.items():
            kept = (1.0 - 1.0 / step) ** (exponent + 1.0)
            _approach(self.tensors[kind], masters, 1.0 - kept, self._shelf)


def _copies(masters: Sequence[Tensor], shelf: Shelf | None) -> list[Tensor]:
    return [kept_on(shelf, master.detach().clone().float()) for master in masters]


def _approach(averages: list[Tensor], masters: Sequence[Tensor], share: float, shelf: Shelf | None) -> None:
    """averages <- averages + share (masters - averages)."""
    if shelf is None:
        torch._foreach_lerp_(averages, [m.detach() for m in masters], share)
        return
    for average, master in zip(averages, masters, strict=True):
        for values, kept in shelf.pieces([master], [average]):
            torch._foreach_lerp_(kept, values, share)


@contextmanager
def swapped(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """`parameters` hold `values`, cast to their types, until the context ends; then exactly what they held before."""
    kept = [p.data for p in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value.detach().to(parameter.dtype).view(parameter.shape)
    try:
        yield
    finally:
        for parameter, data in zip(parameters, kept, strict=True):
            parameter.data = data
