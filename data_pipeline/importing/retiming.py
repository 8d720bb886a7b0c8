"""Frames and action rows at another rate: a frame is the one that was on the screen, and no press is lost."""

from collections.abc import Iterable, Iterator

import numpy as np

from data_pipeline.importing.recording import Rows
from wm.batch import HELD, ActionSpace

_EARLY = 0.05  # of a frame: a time stamp rounded to milliseconds must not cost a frame
_EVEN = 0.5  # of a frame: a clock that stays so near to the rate asked for keeps it, and every frame is taken once


def shown(
    times: np.ndarray,  # (T,) seconds, ascending from 0
    fps: float,
) -> np.ndarray:
    """(n,) int: which of the frames was on the screen at 0, 1/fps, 2/fps, ... up to the last one's time."""
    places = times * fps
    if (np.abs(places - np.arange(len(times))) < _EVEN).all():
        return np.arange(len(times))
    num_frames = int(np.floor(places[-1] + _EARLY)) + 1
    moments = (np.arange(num_frames) + _EARLY) / fps
    return np.searchsorted(times, moments, side="right") - 1


def combine(
    rows: Rows,
    chosen: np.ndarray,  # (n,) frames that are kept, not descending
    space: ActionSpace,
) -> Rows:
    """The rows of the chosen frames, each with all that happened since the one before.

    Presses, releases, wheel and a relative pointer add up, axes are averaged, what is held and an absolute pointer are
    those of the frame. A frame that is shown twice has nothing happen before its second time.
    """
    since = np.diff(chosen, prepend=-1)[:, None]
    made = {name: values[chosen] for name, values in rows.items()}
    for name in ("buttons", "keys"):
        sums = _sums(rows[name], chosen)
        sums[..., HELD] = made[name][..., HELD]
        made[name] = sums
    made["wheel"] = _sums(rows["wheel"], chosen)
    if space.pointer == "relative":
        made["pointer"] = _sums(rows["pointer"], chosen)
    mean = _sums(rows["axes"], chosen) / np.maximum(since, 1)
    made["axes"] = np.where(since > 0, mean, made["axes"])
    return {name: values.astype(np.float32) for name, values in made.items()}


def pick(frames: Iterable[np.ndarray], chosen: np.ndarray) -> Iterator[np.ndarray]:
    """The chosen ones of `frames`, whose numbers do not descend; fewer where `frames` ends before."""
    place = 0
    for number, frame in enumerate(frames):
        while place < len(chosen) and chosen[place] == number:
            yield frame
            place += 1
        if place == len(chosen):
            return


def _sums(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Sums of `values` (T, ...) over the frames after each chosen one's predecessor, up to itself."""
    return np.diff(np.cumsum(values, axis=0, dtype=np.float64)[chosen], axis=0, prepend=0.0)
