"""One clip as the checks see it: read once, what several of them need computed once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wm.batch import HELD, PRESSED, RELEASED, ActionSpace


@dataclass(frozen=True)
class Clip:
    """A whole recording in memory. `video` is None where the dataset holds latents."""

    where: str  # shard and key
    key: str
    space: ActionSpace
    fps: float  # of the manifest
    rows: dict[str, np.ndarray]  # action rows by name, each (T, ...) float32
    meta: dict[str, Any]
    video: np.ndarray | None = None  # (T, H, W, 3) uint8
    latents: np.ndarray | None = None  # (T, C, h, w) float16

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.rows["pointer"])

    @cached_property
    def differs(self) -> np.ndarray:
        """(T, H, W) whether a pixel is another than in the frame before; nothing is in the first frame."""
        assert self.video is not None
        differs = np.zeros(self.video.shape[:3], bool)
        for i in range(1, len(self.video)):
            differs[i] = (self.video[i] != self.video[i - 1]).any(-1)
        return differs

    @cached_property
    def changed(self) -> np.ndarray:
        """(T,) the part of each frame that is another than in the frame before."""
        if self.video is not None:
            part: np.ndarray = self.differs.mean((1, 2))
            return part
        return np.asarray(self.meta.get("changed", np.zeros(len(self))), np.float64)

    @cached_property
    def pixels(self) -> np.ndarray:
        """(T, 2) x, y of the pixel that an absolute pointer is on."""
        assert self.video is not None
        height, width = self.video.shape[1:3]
        place = np.floor(self.rows["pointer"] * (width, height)).astype(np.int64)
        return np.clip(place, 0, (width - 1, height - 1))

    @cached_property
    def acted(self) -> np.ndarray:
        """(T,) whether anything was done between a frame and the one before it; what is held counts."""
        pointer = self.rows["pointer"]
        if self.space.pointer == "absolute":
            moved = np.concatenate([[False], (np.diff(pointer, axis=0) != 0).any(-1)])
        else:
            moved = (pointer != 0).any(-1) if self.space.pointer == "relative" else np.zeros(len(self), bool)
        presses = [self.rows[name].reshape(len(self), -1).any(-1) for name in ("buttons", "keys", "wheel", "axes")]
        acted: np.ndarray = np.logical_or.reduce([moved, *presses])
        return acted

    def presses(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is held, and the numbers of presses and releases, each (T, n), of "buttons" or "keys"."""
        rows = self.rows[name]
        return rows[..., HELD], rows[..., PRESSED], rows[..., RELEASED]
