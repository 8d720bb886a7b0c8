"""Held-out clips that were trained on: the same recording again, or the same screens.

A screen is known by which parts of a coarse picture of it are brighter than their right neighbour (a difference hash), so
a copy that was encoded anew is known again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Finding, Limits

_ROWS, _COLUMNS = 8, 9  # cells of the coarse picture
_MARGIN = 8  # levels of 255; less is what an encoder changes


@dataclass(frozen=True)
class Trace:
    """What of a clip is compared."""

    where: str
    screens: frozenset[bytes]  # hashes of its different screens
    deeds: bytes  # all its action rows


def trace(clip: Clip) -> Trace:
    """Hashes of the screens of a clip; none for latents."""
    screens = frozenset() if clip.video is None else frozenset(screen_hash(frame) for frame in clip.video)
    deeds = b"".join(np.ascontiguousarray(clip.rows[name]).tobytes() for name in sorted(clip.rows))
    return Trace(clip.where, screens, deeds if clip.acted.any() else b"")


def screen_hash(
    frame: np.ndarray,  # (H, W, 3) uint8
) -> bytes:
    """The same for frames that look the same; a moved cursor of a few percent of the screen's width is another screen."""
    grey = frame.astype(np.float32).mean(-1)
    lines = [part.mean(0) for part in np.array_split(grey, min(_ROWS, grey.shape[0]), axis=0)]
    coarse = np.stack(
        [part.mean(1) for part in np.array_split(np.stack(lines), min(_COLUMNS, grey.shape[1]), axis=1)], 1
    )
    steps = np.diff(coarse, axis=1)
    return np.packbits(np.stack([steps > _MARGIN, steps < -_MARGIN])).tobytes()


def leaks(train: Sequence[Trace], heldout: Sequence[Trace], limits: Limits) -> Iterator[Finding]:
    """Held-out clips whose actions are those of a training clip, or most of whose screens are in the training set."""
    deeds = {trace.deeds: trace.where for trace in train if trace.deeds}
    screens = frozenset().union(*(trace.screens for trace in train))
    for clip in heldout:
        shared = len(clip.screens & screens) / max(len(clip.screens), 1)
        if clip.deeds in deeds:
            yield _leak(clip, f"the same was done in {deeds[clip.deeds]}")
        elif len(clip.screens) >= limits.distinct_screens and shared >= limits.shared_screens:
            yield _leak(clip, f"{shared:.0%} of its {len(clip.screens)} different screens are in the training set")


def _leak(clip: Trace, evidence: str) -> Finding:
    return Finding(
        "error",
        "leakage",
        clip.where,
        f"{evidence}: what is measured on it says nothing; record it again with another seed",
    )
