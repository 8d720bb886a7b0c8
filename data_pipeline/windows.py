"""Where in a clip a window starts: how many windows a clip has, and which frame each begins with in which epoch."""

from dataclasses import dataclass

import numpy as np

from data_pipeline.order import uniform

_SHIFT, _CHOOSE, _EVENT, _PLACE = range(4)  # what a random number is for


@dataclass(frozen=True)
class Windows:
    """Windows of `clip_frames` frames, one every `clip_stride`; a pure function of (seed, epoch, clip, window).

    In each epoch all starts of a clip are shifted by the same random number of frames, modulo the number of starts:
    over the epochs every start is equally likely, and within one no two windows are the same. `event_fraction` of the
    windows start so that a frame of which at least `event_area` changed lies in their later half, where it has a past.
    Clips that are shorter than a window are one each, whole, from `shortest` frames on; if that is 0, they have none.
    With `from_start` a clip has the window that begins where it does, and no other.
    """

    clip_frames: int
    clip_stride: int
    seed: int
    event_fraction: float = 0.0
    event_area: float = 0.03
    shortest: int = 0
    from_start: bool = False

    def length(self, num_frames: int) -> int:
        """Frames of a window of a clip of `num_frames` frames."""
        return min(self.clip_frames, num_frames) if self.shortest else self.clip_frames

    def count(self, num_frames: int) -> int:
        """Windows of a clip of `num_frames` frames; 0 if it is too short."""
        if num_frames < self.shortest:
            return 0
        return max(0, (self._num_starts(num_frames) - 1) // self.clip_stride + 1)

    def events(self, changed: tuple[float, ...]) -> np.ndarray:
        """Numbers of the frames that a window can be laid around, given the part of each frame that changed."""
        frames = np.flatnonzero(np.asarray(changed) >= self.event_area)
        return frames[frames >= self.clip_frames // 2]

    def start(self, num_frames: int, events: np.ndarray, epoch: int, clip: int, window: int) -> int:
        """First frame of `window`; the window lies inside the clip."""
        num_starts = self._num_starts(num_frames)
        if len(events) and uniform(self.seed, epoch, clip, window, _CHOOSE) < self.event_fraction:
            return self._around_event(num_starts, events, (self.seed, epoch, clip, window))
        shift = int(uniform(self.seed, epoch, clip, _SHIFT) * num_starts)
        return (window * self.clip_stride + shift) % num_starts

    def starts(self, num_frames: int, epoch: int, clip: int) -> np.ndarray:
        """First frames of all windows of a clip in `epoch`, those that are laid around events aside."""
        num_starts = max(1, self._num_starts(num_frames))
        shift = int(uniform(self.seed, epoch, clip, _SHIFT) * num_starts)
        return (np.arange(self.count(num_frames)) * self.clip_stride + shift) % num_starts

    def _num_starts(self, num_frames: int) -> int:
        """Frames that a window may begin with; below 1 where the clip is too short."""
        places = num_frames - self.length(num_frames) + 1
        return min(1, places) if self.from_start else places

    def _around_event(self, num_starts: int, events: np.ndarray, key: tuple[int, int, int, int]) -> int:
        event = int(events[int(uniform(*key, _EVENT) * len(events))])
        first = self.clip_frames // 2  # place in the window where the event may lie: from here to the last frame
        place = first + int(uniform(*key, _PLACE) * (self.clip_frames - first))
        return min(max(event - place, 0), num_starts - 1)
