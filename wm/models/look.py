"""A closer look at one place: what lies under the pointer decides what a click does to the whole screen."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wm.nn.layers import zero_initialised


class Look(nn.Module):
    """The levels that `Down` leaves, read at Condition.place (B, T, H, W) -> (B, T, D) for the frame's state.

    All tokens then know at once what was clicked; attention would first have to carry it to each of them.
    """

    def __init__(self, widths: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sum(widths))
        self.read = nn.Sequential(nn.Linear(sum(widths), size), nn.SiLU(), zero_initialised(nn.Linear(size, size)))

    def forward(self, levels: list[Tensor], place: Tensor) -> Tensor:
        at = rearrange(place.to(levels[0].dtype), "b t h w -> (b t) 1 h w")
        seen = torch.cat([_read(level, at) for level in levels], dim=1)
        return self.read(self.norm(seen)).unflatten(0, place.shape[:2])


def _read(level: Tensor, at: Tensor) -> Tensor:
    """`level` (B, C, H / k, W / k) under the weights `at` (B, 1, H, W), which sum to 1: (B, C)."""
    cells = F.avg_pool2d(at, at.shape[-1] // level.shape[-1], divisor_override=1)
    return (level * cells).sum((-2, -1))
