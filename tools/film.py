"""Frames of a session on their way into an mp4: kept on disk, so a long recording needs no memory."""

import contextlib
import math
import os
import tempfile
from pathlib import Path

import numpy as np

from data_pipeline.video import encode

MAX_BYTES = 2 << 30  # of frames as they are: an hour at ten frames a second and 96x64 is a third of it


class Film:
    """Frames (height, width, 3) uint8 in order; `save` makes them one lossless mp4."""

    def __init__(self, folder: Path, height: int, width: int) -> None:
        """Keeps its frames in an unnamed file in `folder`, made here where it is missing. OSError where it cannot."""
        folder.mkdir(parents=True, exist_ok=True)
        self.shape = (height, width, 3)
        self.num_frames = 0
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the film

    @property
    def full(self) -> bool:
        return self.num_frames * math.prod(self.shape) >= MAX_BYTES

    def append(self, frame: np.ndarray) -> None:
        assert frame.shape == self.shape
        assert frame.dtype == np.uint8
        self._spool.write(np.ascontiguousarray(frame).tobytes())
        self.num_frames += 1

    def frames(self) -> np.ndarray:
        """All frames (T, H, W, 3) uint8, read from disk when they are used; for a film that has some."""
        self._spool.flush()
        return np.memmap(self._spool, np.uint8, "r", shape=(self.num_frames, *self.shape))

    def save(self, path: Path, fps: float) -> None:
        """Write `path`, under another name until it is whole. ValueError for a film without frames."""
        if self.num_frames == 0:
            raise ValueError(f"no frame was made, so there is no {path}")
        unfinished = path.with_name(path.name + ".partial")
        try:
            with unfinished.open("wb") as file:
                file.write(encode(self.frames(), fps))
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()

    def close(self) -> None:
        self._spool.close()
