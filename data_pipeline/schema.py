"""What one recording is, in memory and on disk: names, dtypes, shapes, units; and a recording's rows as an Action."""

import base64
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch

from wm.batch import Action, ActionSpace
from wm.config import config

SCHEMA_VERSION = 1

# Members of one sample: <key>.<suffix>, adjacent and in this order.
VIDEO, LATENTS, TEXT, ACTIONS, META = "mp4", "latents.npy", "text.npy", "actions.npz", "json"

# Axes of Sample.actions after T; "n" is as many as the ActionSpace names.
ACTION_SHAPES: dict[str, tuple[int | str, ...]] = {
    "pointer": (2,),
    "buttons": ("n", 3),
    "keys": ("n", 3),
    "wheel": (2,),
    "axes": ("n",),
}

# Entries of Sample.meta that hold one value a frame, and are cut with the frames. "times", where a recorder has a clock of
# its own, are the seconds at which the frames were taken; "change" is what data_pipeline/change.py says of each frame;
# "redacted", where a person recorded, whether typed text was replaced.
PER_FRAME = ("events", "state", "changed", "change", "times", "redacted")

_SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.tar")  # a file of the folder itself, and no command
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # no dot: WebDataset splits a name at its first


class DataError(ValueError):
    """Data on disk that is not what its manifest says; the message names the file and what to do."""


@dataclass(frozen=True)
class Sample:
    """One recorded clip. Row i of `actions` is what happened between frame i-1 and frame i."""

    key: str  # letters, digits, - and _
    actions: dict[str, np.ndarray]  # pointer (T, 2), buttons (T, nb, 3), keys (T, nk, 3), wheel (T, 2), axes (T, na)
    # fps, num_frames, source, environment, version, seed, perhaps a caption, ...; values of PER_FRAME are T long
    meta: dict[str, Any]
    video: np.ndarray | None = None  # (T, H, W, 3) uint8
    latents: np.ndarray | None = None  # (T, C, h, w) float16, raw
    text: np.ndarray | None = None  # (L, width) its caption as an encoder left it, as in encoded_text.py

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.actions["pointer"])

    def window(self, start: int, count: int) -> Self:
        """Frames [start, start + count) of everything that has one value a frame."""
        cut = slice(start, start + count)
        meta = {name: value[cut] if name in PER_FRAME else value for name, value in self.meta.items()}
        return replace(
            self,
            actions={name: rows[cut] for name, rows in self.actions.items()},
            meta={**meta, "num_frames": len(self.actions["pointer"][cut])},
            video=None if self.video is None else self.video[cut],
            latents=None if self.latents is None else self.latents[cut],
        )


@config
class ShardEntry:
    """One tar file as the manifest knows it."""

    name: str  # file name inside the dataset's folder
    num_samples: int
    num_frames: int
    size: int  # bytes
    sha256: str

    def __post_init__(self) -> None:
        if not _SHARD.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a shard: letters, digits, '.', '-' and '_', then .tar")


@config
class CursorImage:
    """One shape of the pointer, to find it in generated frames."""

    name: str
    hotspot: tuple[int, int]  # x, y of the pixel that points
    height: int
    width: int
    rgba: str  # base64 of height * width * 4 bytes

    @classmethod
    def from_array(cls, name: str, hotspot: tuple[int, int], rgba: np.ndarray) -> Self:
        """From `rgba` (h, w, 4) uint8."""
        text = base64.b64encode(np.ascontiguousarray(rgba, dtype=np.uint8).tobytes()).decode()
        height, width = rgba.shape[:2]
        return cls(name=name, hotspot=(int(hotspot[0]), int(hotspot[1])), height=height, width=width, rgba=text)

    def array(self) -> np.ndarray:
        """(h, w, 4) uint8."""
        return np.frombuffer(base64.b64decode(self.rgba), np.uint8).reshape(self.height, self.width, 4)


@config
class LatentStatistics:
    """What latents need to be used: their channels' mean and standard deviation, and the VAE that they belong to."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    vae_hash: str
    stride: int  # pixels a latent cell is wide


@config
class TextFacts:
    """Which encoder left the captions of a dataset, and what it made of the empty one."""

    encoder: str  # its hash
    precision: Literal["float32", "bfloat16"]
    width: int
    empty: str  # base64 of the bytes of its rows (L, width), as in encoded_text.py


@config
class DatasetManifest:
    """`dataset.json`: written last, so a folder that has one is whole."""

    action_space: ActionSpace
    fps: float
    height: int  # pixels, of the video even where latents are stored
    width: int
    kind: Literal["video", "latents"]
    shards: tuple[ShardEntry, ...]
    source: dict[str, Any]  # environment, version, policy, seeds
    cursors: tuple[CursorImage, ...] = ()
    latents: LatentStatistics | None = None
    text: TextFacts | None = None  # of datasets whose captions are encoded
    schema_version: int = SCHEMA_VERSION


def to_action(rows: dict[str, np.ndarray]) -> Action:
    """The rows of one clip, each (T, ...), as an Action of shape (1, T, ...) float32."""
    return Action(**{name: torch.from_numpy(np.array(rows[name], np.float32))[None] for name in ACTION_SHAPES})


def to_rows(action: Action) -> dict[str, np.ndarray]:
    """The rows (T, ...) of an Action of shape (1, T, ...): the inverse of `to_action`."""
    return {name: getattr(action, name)[0].cpu().numpy() for name in ACTION_SHAPES}


def changed_fraction(video: np.ndarray) -> np.ndarray:
    """(T,) fraction of the pixels (T, H, W, 3) that differ from the frame before; 0 for the first frame."""
    changed = np.zeros(len(video), np.float32)
    for i in range(1, len(video)):
        changed[i] = (video[i] != video[i - 1]).any(axis=-1).mean()
    return changed


def check(sample: Sample) -> None:
    """DataError in one line if `sample` is not as its class says."""
    if not _KEY.fullmatch(sample.key):
        raise DataError(f"sample key {sample.key!r}: a key is 1 to 80 letters, digits, '-' or '_', without dots")
    if sample.text is not None and (sample.text.ndim != 2 or sample.text.dtype not in (np.float32, np.uint16)):
        given = f"{sample.text.dtype} {sample.text.shape}"
        raise DataError(f"sample {sample.key}: its encoded caption is {given}, need (L, width) float32 or uint16")
    missing = ACTION_SHAPES.keys() ^ sample.actions.keys()
    if missing:
        raise DataError(f"sample {sample.key}: actions have {sorted(sample.actions)}, need {sorted(ACTION_SHAPES)}")
    for name, axes in ACTION_SHAPES.items():
        _check_rows(sample, name, axes)
    _check_frames(sample)
    if not isinstance(sample.meta.get("caption", ""), str):
        raise DataError(f"sample {sample.key}: its caption is {sample.meta['caption']!r}, need text")
    for name in PER_FRAME:
        num_values = len(sample.meta.get(name, sample))
        if num_values != len(sample):
            raise DataError(f"sample {sample.key}: meta {name} has {num_values} values, {len(sample)} frames")


def _check_rows(sample: Sample, name: str, axes: tuple[int | str, ...]) -> None:
    rows = sample.actions[name]
    given = rows.shape[1:]
    fits = len(given) == len(axes) and all(want in ("n", got) for want, got in zip(axes, given, strict=True))
    if rows.dtype != np.float32 or not fits or len(rows) != len(sample):
        shape = ", ".join(map(str, (len(sample), *axes)))
        raise DataError(f"sample {sample.key}: actions {name} are {rows.dtype} {rows.shape}, need float32 ({shape})")
    if not np.isfinite(rows).all():
        raise DataError(f"sample {sample.key}: actions {name} are not finite in row {_first_bad_row(rows)}")


def _first_bad_row(rows: np.ndarray) -> int:
    return int(np.argmin(np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))))


def _check_frames(sample: Sample) -> None:
    if (sample.video is None) == (sample.latents is None):
        raise DataError(f"sample {sample.key}: needs either video or latents, not both and not neither")
    if len(sample) == 0:
        raise DataError(f"sample {sample.key}: has no frames")
    frames, kind, dtype = (
        (sample.video, "video (T, H, W, 3)", np.uint8)
        if sample.video is not None
        else (sample.latents, "latents (T, C, h, w)", np.float16)
    )
    assert frames is not None
    if frames.ndim != 4 or frames.dtype != dtype or (dtype == np.uint8 and frames.shape[-1] != 3):
        raise DataError(f"sample {sample.key}: frames are {frames.dtype} {frames.shape}, need {kind} {dtype.__name__}")
    if len(frames) != len(sample):
        raise DataError(f"sample {sample.key}: {len(frames)} frames but {len(sample)} action rows")
