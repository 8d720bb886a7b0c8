"""Decoded clips kept in memory, the least recently used thrown out first; safe to share between threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DecodedClip:
    """One clip as arrays with a row per frame."""

    frames: np.ndarray  # (T, 3, H, W) uint8 or (T, C, h, w) float16
    rows: dict[str, np.ndarray]  # action rows by name, each (T, ...) float32
    caption: str | None = None
    text: np.ndarray | None = None  # the caption, encoded

    @property
    def size(self) -> int:
        text = 0 if self.text is None else self.text.nbytes
        return self.frames.nbytes + sum(rows.nbytes for rows in self.rows.values()) + text


class ClipCache:
    """At most `max_bytes` of clips, and always the newest one; what two threads ask for at once is loaded once."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._clips: OrderedDict[int, Future[DecodedClip]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, clip: int, load: Callable[[int], DecodedClip]) -> DecodedClip:
        """The clip, by `load(clip)` if it is not here; an error of `load` is raised to all who wait and not kept."""
        with self._lock:
            future = self._clips.get(clip)
            mine = future is None
            if future is None:
                future = self._clips[clip] = Future()
            self._clips.move_to_end(clip)
        if mine:
            self._fill(clip, future, load)
        return future.result()

    def _fill(self, clip: int, future: Future[DecodedClip], load: Callable[[int], DecodedClip]) -> None:
        try:
            loaded = load(clip)
        except BaseException as error:
            with self._lock:
                del self._clips[clip]
            future.set_exception(error)
            return
        future.set_result(loaded)
        with self._lock:
            self._bytes += loaded.size
            for other in list(self._clips):
                if self._bytes <= self.max_bytes or other == clip:
                    break
                if self._clips[other].done():
                    self._bytes -= self._clips.pop(other).result().size
