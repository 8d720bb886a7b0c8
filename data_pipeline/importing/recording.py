"""What every importer gives: a source of episodes, each of which opens as frames, times and action rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.schema import DataError
from wm.batch import HELD, PRESSED, RELEASED, ActionSpace

Rows = dict[str, np.ndarray]  # as in schema.ACTION_SHAPES, each (T, ...) float32


class BadEpisode(DataError):
    """One episode that cannot be used; it is named in the report and the import goes on without it."""


@dataclass(frozen=True)
class Recording:
    """An episode as it was recorded. Row i of `rows` is what happened between frame i-1 and frame i."""

    fps: float  # frames a second, nominal; 0 where the format does not say, and `times` are then numbers of frames
    times: np.ndarray  # (T,) seconds from the first frame to each
    # T frames (H, W, 3) uint8, or latents (C, h, w) float16, from the first again at each call
    frames: Callable[[], Iterator[np.ndarray]]
    rows: Rows
    meta: dict[str, Any] = field(default_factory=dict)  # what a sample's meta says besides: caption, task, seed, ...


@dataclass(frozen=True)
class Episode:
    """One recording of a source, not opened yet."""

    name: str  # unique in its source, for keys and reports
    open: Callable[[], Recording]  # DataError where it cannot be used


@dataclass(frozen=True)
class LatentFacts:
    """What is known of the tokenizer whose latents a source holds in the place of pictures."""

    maker: str  # stands for its hash: latents of different makers are not to be mixed
    stride: int  # pixels a latent cell is wide


@dataclass(frozen=True)
class Source:
    """All that an importer found."""

    space: ActionSpace  # its frame rate is that of the dataset in the end, whatever stands here
    episodes: Sequence[Episode]
    about: dict[str, Any] = field(default_factory=dict)  # for the manifest: name, version, licence, ...
    latents: LatentFacts | None = None  # where frames are latents (C, h, w) float16


def even_times(num_frames: int, fps: float) -> np.ndarray:
    """(T,) seconds of frames that come at a constant rate."""
    return np.arange(num_frames) / fps


def idle_rows(space: ActionSpace, num_frames: int) -> Rows:
    """Nothing done in any frame: the rows of a video that nobody steered, or what an importer fills in."""
    rest = 0.0 if space.pointer == "relative" else 0.5
    return {
        "pointer": np.full((num_frames, 2), rest, np.float32),
        "buttons": np.zeros((num_frames, len(space.buttons), 3), np.float32),
        "keys": np.zeros((num_frames, len(space.keys), 3), np.float32),
        "wheel": np.zeros((num_frames, 2), np.float32),
        "axes": np.zeros((num_frames, len(space.axes)), np.float32),
    }


def edges_of_held(held: np.ndarray) -> np.ndarray:
    """(T, n, 3) rows of what is held (T, n) at each frame: a press where it begins, a release where it ends."""
    down = held.astype(np.float32)
    change = np.diff(down, axis=0, prepend=np.zeros_like(down[:1]))
    rows = np.zeros((*down.shape, 3), np.float32)
    rows[..., HELD], rows[..., PRESSED], rows[..., RELEASED] = down, change > 0, change < 0
    return rows


def after_the_first(rows: Rows, space: ActionSpace) -> Rows:
    """Rows moved one frame later, behind an idle one.

    For formats in which action t is what was done on seeing frame t: it led to frame t + 1, and the last one to no frame.
    """
    idle = idle_rows(space, 1)
    return {name: np.concatenate([idle[name], rows[name][:-1]]) for name in rows}
