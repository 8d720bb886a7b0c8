"""Which levels a sampler passes: a falling grid from 1 to 0, chosen in a config."""

import itertools
from typing import Annotated, Literal

import torch
from torch import Tensor

from wm.config import Kind, config
from wm.flow import Flow, time_grid
from wm.levels import SizeShift, total_shift


@config
class ShiftedTimes:
    """Equal steps of t, pushed towards noise by a shift above 1 (SD3, arXiv:2403.03206, eq. 23); uniform at 1."""

    kind: Literal["shifted"] = "shifted"
    shift: float = 1.0
    size_shift: SizeShift | None = None

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; it must be above 0")

    def times(self, flow: Flow, num_steps: int, tokens: int | None = None) -> Tensor:
        return time_grid(num_steps, total_shift(self.shift, self.size_shift, tokens))


@config
class KarrasTimes:
    """Noise ratios in equal steps of their root (Karras et al. 2022, arXiv:2206.00364, eq. 5) as levels of any path.

    The first level is t = 1 itself and not only that of `highest`: a sample starts from noise without data in it.
    """

    kind: Literal["karras"] = "karras"
    lowest: float = 0.002  # noise ratio of the last level before 0
    highest: float = 80.0
    root: float = 7.0  # rho: the larger, the more of the levels lie near data

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest or self.root <= 0:
            raise ValueError(
                f"lowest {self.lowest}, highest {self.highest}, root {self.root}: give 0 < lowest < highest, root above 0"
            )

    def times(self, flow: Flow, num_steps: int, tokens: int | None = None) -> Tensor:
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; a time grid needs at least 1")
        inner = flow.path.level_of(self.ratios(num_steps)[1:])
        if len(inner) and float(inner[0]) >= 1:
            raise ValueError(f"highest {self.highest} lies beyond the path's largest noise ratio: give a lower one")
        return torch.cat([torch.ones(1), inner.float(), torch.zeros(1)])

    def ratios(self, num_steps: int) -> Tensor:
        """(num_steps,) float64 from `highest` to `lowest`."""
        ends = [ratio ** (1 / self.root) for ratio in (self.highest, self.lowest)]
        return torch.linspace(ends[0], ends[1], num_steps, dtype=torch.float64) ** self.root


@config
class ListedTimes:
    """Levels as they are written, falling from 1 to 0."""

    kind: Literal["listed"] = "listed"
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        falls = all(t > s for t, s in itertools.pairwise(self.levels))
        if len(self.levels) < 2 or not falls or (self.levels[0], self.levels[-1]) != (1, 0):
            raise ValueError(f"levels are {list(self.levels)}; they must fall from 1 to 0 at every step")

    def times(self, flow: Flow, num_steps: int, tokens: int | None = None) -> Tensor:
        if num_steps != len(self.levels) - 1:
            raise ValueError(
                f"{num_steps} steps asked of {len(self.levels)} listed levels, which are {len(self.levels) - 1} steps"
            )
        return torch.tensor(self.levels)


TimesConfig = Annotated[ShiftedTimes | KarrasTimes | ListedTimes, Kind]
