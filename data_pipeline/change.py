"""How much happens in a frame and in a window of frames, for drawing busy windows more often than idle ones."""

import numpy as np

from data_pipeline.schema import Sample
from wm.batch import PRESSED, RELEASED, ActionSpace

_SURROUNDINGS = 1 / 10  # half a side of the square around the pointer that a cursor may change, as a part of the height


def change_scores(sample: Sample, space: ActionSpace) -> np.ndarray:
    """(T,) scores in [0, 1] of a sample with video: the square root of the part of the pixels that changed.

    Where nothing was pressed, released or scrolled, what changed around the pointer is the cursor and does not count.
    The root keeps a typed letter, a thousandth of the screen, from vanishing beside a window that opens.
    """
    assert sample.video is not None
    video, used = sample.video, _used(sample.actions)
    height, width = video.shape[1:3]
    places = np.floor(sample.actions["pointer"] * (width, height)).astype(int)
    scores = np.zeros(len(video))
    for i in range(1, len(video)):
        differs = (video[i] != video[i - 1]).any(-1)
        if space.pointer == "absolute" and not used[i]:
            for x, y in places[i - 1 : i + 1]:
                side = round(_SURROUNDINGS * height)
                differs[max(y - side, 0) : y + side + 1, max(x - side, 0) : x + side + 1] = False
        scores[i] = np.sqrt(differs.mean())
    return scores


def _used(rows: dict[str, np.ndarray]) -> np.ndarray:
    """(T,) whether a button, a key or the wheel did something between a frame and the one before it."""
    edges = [rows[name][..., [PRESSED, RELEASED]].any((1, 2)) for name in ("buttons", "keys")]
    used: np.ndarray = np.logical_or.reduce([*edges, rows["wheel"].any(-1)])
    return used


def window_scores(
    scores: np.ndarray,  # (T,) of the frames of a clip
    starts: np.ndarray,  # (N,) first frames of windows
    length: int,
) -> np.ndarray:
    """(N,) the sum over each window's frames but its first, whose change came before the window."""
    total = np.concatenate([[0.0], np.cumsum(scores)])
    sums: np.ndarray = total[starts + length] - total[starts + 1]
    return sums


def weights(scores: np.ndarray, fraction: float) -> np.ndarray:
    """Weights with mean 1: `fraction` of each epoch is drawn in proportion to `scores` (N,), the rest evenly."""
    mean = scores.mean()
    if mean <= 0:
        return np.ones(len(scores))
    return 1 - fraction + fraction * scores / mean


def drawn(
    weights: np.ndarray,  # (N,) 0 or more
    offset: float,  # in [0, 1)
) -> np.ndarray:
    """N numbers of windows in rising order; window i comes floor(w) or ceil(w) times, w its weight over their mean.

    Systematic sampling (Madow 1949): equally far steps through the heaped weights, begun at `offset`.
    """
    heap = np.cumsum(weights)
    steps = (np.arange(len(weights)) + offset) * (heap[-1] / len(weights))
    return np.minimum(np.searchsorted(heap, steps, side="right"), len(weights) - 1)
