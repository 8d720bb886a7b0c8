"""Which clips of a dataset are prepared for training, and why the others are not."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np

from wm.config import config


@config
class ClipFilterConfig:
    """Limits that a clip must keep. All are of its json, so that nothing is decoded of a clip that is left out."""

    min_frames: int = 1
    max_frames: int = 0  # 0 has no limit
    min_change: float = 0.0  # mean over frames of the part of the pixels that differ from the frame before
    max_change: float = 1.0
    min_words: int = 0  # of its caption
    # Lowest and highest number under a name in the json, such as {aesthetic_score: [4.5, null]}; a clip without it is left out.
    bounds: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = {"frames": (self.min_frames, self.max_frames or None), "change": (self.min_change, self.max_change)}
        for name, (low, high) in {**pairs, **self.bounds}.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"nothing has {name} of at least {low:g} and at most {high:g}: exchange the two")

    def reason(self, meta: Mapping[str, Any]) -> str | None:
        """Why the clip with that json is left out, the first of several; None where it is kept."""
        measured: dict[str, tuple[Any, float | None, float | None]] = {
            "frames": (meta.get("num_frames"), self.min_frames, self.max_frames or None),
            "change": (float(np.mean(meta.get("changed", 0.0))), self.min_change, self.max_change),
            "words": (len(meta.get("caption", "").split()), self.min_words, None),
        }
        measured |= {name: (meta.get(name), *limits) for name, limits in self.bounds.items()}
        return next((why for name, found in measured.items() if (why := _outside(name, *found))), None)


def _outside(name: str, value: Any, low: float | None, high: float | None) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return f"no {name}"
    if low is not None and value < low:
        return f"{name} below {low:g}"
    return f"{name} above {high:g}" if high is not None and value > high else None
