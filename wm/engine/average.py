"""The average of the weights over training (EMA), kept in float32 over the part of the weights that a rank owns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """`tensors` follow `masters` by average <- decay * average + (1 - decay) * master after every applied step.

    Float32 whatever the weights are: at decay 0.999 the change of one step is below what bfloat16 can hold.
    """

    def __init__(self, masters: Sequence[Tensor], decay: float):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"average_decay {decay} is not in [0, 1); 0 keeps no average")
        self.decay = decay
        self.tensors = [master.detach().clone().float() for master in masters]

    @torch.no_grad()
    def update(self, masters: Sequence[Tensor]) -> None:
        """One step towards `masters`, element by element, so a rank needs only what it owns."""
        torch._foreach_lerp_(self.tensors, [m.detach() for m in masters], 1.0 - self.decay)


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
