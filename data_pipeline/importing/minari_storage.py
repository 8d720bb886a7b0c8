"""How Minari keeps episodes below `data/`: all in `main_data.hdf5`, a group each, or as Arrow files, a folder each."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipeline.importing.hdf5 import array, length, open_hdf5
from data_pipeline.importing.recording import BadEpisode
from data_pipeline.schema import DataError
from data_pipeline.tables import arrow_length, arrow_rows


@dataclass(frozen=True)
class Picture:
    """The observation that becomes the frames."""

    path: str  # "observations", or "observations/name"; the parts of a tuple are _index_0, _index_1, ...
    shape: tuple[int, ...]  # (H, W) or (H, W, 1 or 3)


@dataclass(frozen=True)
class Stored:
    """One episode."""

    actions: np.ndarray  # (T, ...)
    num_pictures: int
    frames: Callable[[], Iterator[np.ndarray]]  # (H, W, 3) uint8, one at a time: an episode may not fit into memory
    seed: int | None


Episodes = list[tuple[str, Callable[[], Stored]]]


def hdf5_episodes(data: Path, picture: Picture) -> Episodes:
    """The name of each episode, and what reads it."""
    path = data / "main_data.hdf5"
    with open_hdf5(path) as file:
        groups = sorted((name for name in file if name.startswith("episode_")), key=_number)
    return [(group, _reader(_from_hdf5, path, group, picture)) for group in groups]


def arrow_episodes(data: Path, picture: Picture) -> Episodes:
    """The name of each episode, and what reads it."""
    folders = sorted((folder for folder in data.iterdir() if folder.name.isdecimal()), key=lambda f: int(f.name))
    return [(f"episode_{folder.name}", _reader(_from_arrow, folder, picture)) for folder in folders]


STORAGES: dict[str, Callable[[Path, Picture], Episodes]] = {"hdf5": hdf5_episodes, "arrow": arrow_episodes}


def _reader(read: Callable[..., Stored], *arguments: Any) -> Callable[[], Stored]:
    return lambda: read(*arguments)


def _number(group: str) -> tuple[int, str]:
    digits = group.rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else 0, group)


def _from_hdf5(path: Path, group: str, picture: Picture) -> Stored:
    name = f"{group}/{picture.path}"
    with open_hdf5(path) as file:
        done, seen = array(file, f"{group}/actions"), length(file, name)
        seed = file[group].attrs.get("seed")

    def frames() -> Iterator[np.ndarray]:
        with open_hdf5(path) as file:
            for i in range(seen):
                yield _rgb(array(file, name, slice(i, i + 1))[0], i)

    return Stored(done, seen, frames, None if seed is None else int(seed))


def _from_arrow(folder: Path, picture: Picture) -> Stored:
    """Actions are filled up to the number of observations; what is true of the whole episode is in `metadata.json`."""
    parts = sorted(folder.glob("*.arrow"), key=lambda part: (len(part.name), part.name))
    name = picture.path.replace("_index_", "")
    try:
        about = json.loads((folder / "metadata.json").read_text())
        seen = sum(map(arrow_length, parts))
        done = np.array([row for part in parts for row in arrow_rows(part, "actions")][:-1])
    except (OSError, ValueError) as error:  # a DataError is one
        raise BadEpisode(f"cannot be read: {error}") from None
    if seen != about["total_steps"] + 1:
        raise BadEpisode(
            f"has {seen} observations, its metadata.json tells of {about['total_steps']} steps: a part is lost"
        )

    def frames() -> Iterator[np.ndarray]:
        try:
            for i, stored in enumerate(row for part in parts for row in arrow_rows(part, name)):
                yield _rgb(_unfolded(stored, picture.shape), i)
        except DataError as error:
            raise BadEpisode(str(error)) from None

    return Stored(done, seen, frames, about.get("seed"))


def _unfolded(stored: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A picture that was stored as one row of numbers, or the bytes of a JPEG as numbers."""
    if isinstance(stored, bytes):
        return np.frombuffer(stored, np.uint8)
    values = np.asarray(stored, np.uint8)
    return values.reshape(shape) if values.size == np.prod(shape) else values


def _rgb(stored: np.ndarray, i: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 from an array as it is, grey or coloured, or from the bytes of a JPEG."""
    if stored.ndim == 1:
        try:
            return np.array(Image.open(io.BytesIO(stored.astype(np.uint8).tobytes())).convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise BadEpisode(f"picture {i} is not a JPEG: {error}") from None
    grey = stored[..., None] if stored.ndim == 2 else stored
    if grey.ndim != 3 or grey.shape[2] not in (1, 3) or grey.dtype != np.uint8:
        raise BadEpisode(f"picture {i} is {stored.dtype} {stored.shape}, need uint8 (height, width, 1 or 3)")
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
