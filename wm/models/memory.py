"""What a model knows of the frames before: the last one, and the keys and values of those in its window."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Past:
    """For each frame the one before it: as it is shown, at which level, and as it was; before the first, nothing at level 1.

    What is shown is noised a little, so that a model does not rely on every detail of frames that it drew itself. What is
    copied is copied from the frame as it was: noise would pile up from frame to frame.
    """

    x_t: Tensor  # (B, T, C, H, W)
    level: Tensor  # (B, T)
    x: Tensor  # (B, T, C, H, W)

    @classmethod
    def of(cls, x_t: Tensor, level: Tensor, x: Tensor) -> "Past":
        """The past of a clip `x` (B, T, C, H, W) whose frames are shown as `x_t`, at `level` (B, T)."""
        x_t, x = (torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], dim=1) for part in (x_t, x))
        return cls(x_t, torch.cat([torch.ones_like(level[:, :1]), level[:, :-1]], dim=1), x)

    def parted(self, frame: int) -> tuple["Past", "Past"]:
        """The pasts of the frames before number `frame`, and of those from there on."""
        whole = self.x_t, self.level, self.x
        return Past(*(part[:, :frame] for part in whole)), Past(*(part[:, frame:] for part in whole))


class Memory:
    """Keys and values of past frames, a layer a pair (B * N, heads, T, head_dim), at most `limit` frames.

    Keys are kept without position: what a frame's age is changes with every step, so positions are given at reading.
    Forwards with the same memory do not see each other until one of them is kept.
    """

    def __init__(self, depth: int, limit: int) -> None:
        self.limit = limit
        self.frames: list[tuple[Tensor, Tensor] | None] = [None] * depth
        self.pending: list[tuple[Tensor, Tensor] | None] = [None] * depth
        self.held: list[tuple[Tensor, Tensor] | None] = [None] * depth

    def __len__(self) -> int:
        first = self.frames[0]
        return 0 if first is None else first[0].shape[2]

    @property
    def last(self) -> int:
        """The number of the last layer."""
        return len(self.frames) - 1

    def extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values that the new frames may see; the new ones wait for `commit`."""
        self.pending[layer] = key, value
        past = self.frames[layer]
        if past is None:
            return key, value
        return torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)

    def hold(self) -> None:
        """Set the frames of the last forward aside for `commit`."""
        self.held = list(self.pending)

    def commit(self) -> None:
        """Remember the frames that were set aside, forgetting the oldest beyond the limit."""
        for layer, held in enumerate(self.held):
            assert held is not None, "commit follows hold, and hold a forward"
            key, value = self.extended(layer, *held)
            self.frames[layer] = key[:, :, -self.limit :], value[:, :, -self.limit :]
