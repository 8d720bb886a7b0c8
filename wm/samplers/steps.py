"""Walking down a falling grid of levels: what every sampler shares."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wm.flow import Flow

# Fresh(i) -> standard normal like x, for step i: a caller keys it, so that a seed gives the same frames again.
Fresh = Callable[[int], Tensor]


class Step(NamedTuple):
    """One step; `level` and `next_level` are t and s as numbers, to be asked without waiting for the device."""

    number: int
    t: Tensor  # (B, T) where the model is asked
    s: Tensor  # (B, T) where the step goes
    ends: bool  # s is 0: what comes out is data, nothing is added
    level: float
    next_level: float


def steps(flow: Flow, x: Tensor, times: Tensor) -> Iterator[Step]:
    """The steps from times[0] to times[-1], all frames of `x` (B, T, C, H, W) at one level. ValueError if one rises."""
    levels = times.tolist()
    if any(t <= s for t, s in itertools.pairwise(levels)):
        raise ValueError(f"times must fall at every step, got {[round(level, 4) for level in levels]}")
    full = torch.ones(x.shape[:2], device=x.device, dtype=times.dtype)
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        asked = float(flow.usable(torch.tensor(t, dtype=torch.float64)))
        yield Step(i, full * asked, full * s, s == 0, asked, s)
