"""LeRobot datasets v3.0, without the lerobot package: many episodes to a parquet file and to a video.

`action` t was done on seeing frame t, so it is the row of frame t + 1. Its numbers become axes, brought to [-1, 1] by
the least and the greatest of the whole dataset, which the manifest keeps. A dataset that this project exported says so
and comes back as it was (data_pipeline/exporting/lerobot.py).
"""

import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipeline.action_vectors import OWN_SPACE, from_vectors
from data_pipeline.importing.films import Film, open_film
from data_pipeline.importing.recording import BadEpisode, Episode, Recording, Rows, Source, after_the_first, idle_rows
from data_pipeline.schema import DataError
from data_pipeline.tables import column_names, parquet_column, parquet_rows
from wm.batch import ActionSpace
from wm.config import ConfigError, from_dict

INFO, STATS, EPISODES = "meta/info.json", "meta/stats.json", "meta/episodes"
_EARLY = 0.5  # of a frame: how far a time stamp may be from where it should be


@dataclass(frozen=True)
class _Meta:
    """What is the same for all episodes."""

    folder: Path
    info: dict[str, Any]
    view: str  # the feature that is the picture
    space: ActionSpace
    own: bool  # exported by this project
    low: np.ndarray  # (n,) of the actions
    high: np.ndarray

    def path(self, template: str, **numbers: Any) -> Path:
        """A file that `info.json` names by a template; BadEpisode for one outside of the dataset."""
        name = self.info[template].format(**numbers)
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise BadEpisode(f"{template} {name} is outside of the dataset")
        return path


def open_lerobot(folder: Path, view: str = "") -> Source:
    """The episodes of the dataset in `folder`, seen through the camera `view`, which must be named where there are several."""
    info = _info(folder)
    meta = _meta(folder, info, _view(info["features"], view))
    films = functools.lru_cache(maxsize=4)(open_film)
    about = {"name": folder.name, "view": meta.view, "robot": info.get("robot_type")}
    if not meta.own:
        about |= {"action_low": meta.low.tolist(), "action_high": meta.high.tolist()}
    return Source(meta.space, [_episode(meta, row, films) for row in _episode_rows(folder)], about)


def _info(folder: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads((folder / INFO).read_text())
        version, _, _, _ = info["codebase_version"], info["data_path"], info["fps"], info["features"]["action"]["shape"]
    except FileNotFoundError:
        raise DataError(f"has no {INFO}: it is not a LeRobot dataset") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{INFO} is not as LeRobot writes it: {type(error).__name__} {error}") from None
    if not str(version).startswith("v3."):
        raise DataError(f"is LeRobot {version}, this reads v3.0; LeRobot has a script that converts to it")
    return info


def _view(features: dict[str, Any], wanted: str) -> str:
    views = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    if wanted and wanted not in views:
        raise DataError(f"has no view {wanted!r}; it has {', '.join(views) or 'none'}")
    if not wanted and len(views) != 1:
        raise DataError(f"has {len(views)} views ({', '.join(views)}); choose one with --view")
    return wanted or views[0]


def _meta(folder: Path, info: dict[str, Any], view: str) -> _Meta:
    action = info["features"]["action"]
    own = (action.get("info") or {}).get(OWN_SPACE)
    count = int(np.prod(action["shape"]))
    if own is not None:
        try:
            return _Meta(folder, info, view, from_dict(ActionSpace, own), True, np.zeros(count), np.ones(count))
        except ConfigError as error:
            raise DataError(f"{INFO}: {OWN_SPACE}: {error}") from None
    space = ActionSpace(pointer="none", axes=_axis_names(action.get("names"), count), fps=float(info["fps"]))
    return _Meta(folder, info, view, space, False, *_range(folder, count))


def _axis_names(names: Any, count: int) -> tuple[str, ...]:
    """LeRobot's names of the numbers of an action, which come as a list, or as lists by group, or not at all."""
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if not isinstance(names, list) or len(names) != count or len(set(map(str, names))) != count:
        return tuple(f"action.{i}" for i in range(count))
    return tuple(map(str, names))


def _range(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        stats = json.loads((folder / STATS).read_text())["action"]
        low, high = (np.array(stats[name], np.float64).reshape(count) for name in ("min", "max"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{STATS} does not say the range of the actions: {type(error).__name__} {error}") from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise DataError(f"{STATS}: the least and the greatest action are not finite and in order")
    return low, high


def _episode_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of `meta/episodes`, without their statistics."""
    paths = sorted((folder / EPISODES).glob("*/*.parquet"))
    for path in paths:
        names = [name for name in column_names(path) if not name.startswith("stats/")]
        yield from parquet_rows(path, names)


def _episode(meta: _Meta, row: dict[str, Any], films: Callable[[Path], Film]) -> Episode:
    return Episode(f"episode {row.get('episode_index')}", lambda: _open(meta, row, films))


def _open(meta: _Meta, row: dict[str, Any], films: Callable[[Path], Film]) -> Recording:
    try:
        number, length = int(row["episode_index"]), int(row["length"])
        file = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        columns = _columns(meta, number, length, meta.path("data_path", **file))
        times = np.array(columns["timestamp"], np.float64).reshape(length)
        if meta.info["features"][meta.view]["dtype"] == "video":
            frames = _filmed(meta, row, times, films)
        else:
            frames = functools.partial(_pictured, columns[meta.view])
        tasks = [task for task in row.get("tasks") or () if task]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise BadEpisode(f"is not as LeRobot writes it: {type(error).__name__} {error}") from None
    caption = {"caption": ", ".join(tasks)} if tasks else {}
    return Recording(float(meta.info["fps"]), times - times[0], frames, _rows(meta, columns), caption)


def _columns(meta: _Meta, number: int, length: int, path: Path) -> dict[str, list[Any]]:
    """The columns of one episode, in the order of its frames and all there."""
    names = ["frame_index", "timestamp", "action"]
    if meta.own:
        names.append("observation.state")
    if meta.info["features"][meta.view]["dtype"] == "image":
        names.append(meta.view)
    columns = parquet_column(path, names, ("episode_index", number))
    if columns["frame_index"] != list(range(length)):
        raise BadEpisode(f"says it has {length} frames, {path.name} has {len(columns['frame_index'])} or not in order")
    return columns


def _filmed(
    meta: _Meta, row: dict[str, Any], times: np.ndarray, films: Callable[[Path], Film]
) -> Callable[[], Iterator[np.ndarray]]:
    """The frames of an episode inside of a film that others share; BadEpisode where the film has none at their times."""
    prefix = f"videos/{meta.view}"
    file = {"chunk_index": row[f"{prefix}/chunk_index"], "file_index": row[f"{prefix}/file_index"]}
    film = films(meta.path("video_path", video_key=meta.view, **file))
    fps = float(meta.info["fps"])
    wanted = float(row[f"{prefix}/from_timestamp"]) + times
    start = int(np.searchsorted(film.times, wanted[0] - _EARLY / fps))
    there = film.times[start : start + len(times)]
    if len(there) < len(times):
        raise BadEpisode(f"its film has {len(there)} frames from {wanted[0]:.3f} s on, it needs {len(times)}")
    late = np.abs(there - wanted) * fps > _EARLY
    if late.any():
        i = int(late.argmax())
        raise BadEpisode(f"frame {i} should be at {wanted[i]:.3f} s of its film, which has one at {there[i]:.3f} s")
    return lambda: film.frames(start, start + len(times))


def _pictured(pictures: list[Any]) -> Iterator[np.ndarray]:
    """Frames that are stored as the bytes of a picture each."""
    for i, picture in enumerate(pictures):
        try:
            yield np.array(Image.open(io.BytesIO(picture["bytes"])).convert("RGB"))
        except (TypeError, KeyError, UnidentifiedImageError, OSError) as error:
            raise BadEpisode(f"frame {i} is not a picture: {error}") from None


def _rows(meta: _Meta, columns: dict[str, list[Any]]) -> Rows:
    actions = np.array(columns["action"], np.float64).reshape(len(columns["action"]), -1)
    if meta.own:
        states = np.array(columns["observation.state"], np.float64)
        return from_vectors(np.concatenate([states[:1], actions[:-1]]), meta.space)
    if actions.shape[1] != len(meta.low) or not np.isfinite(actions).all():
        raise BadEpisode(f"actions are {actions.shape}, need ({len(actions)}, {len(meta.low)}) finite numbers")
    rows = idle_rows(meta.space, len(actions))
    wide = np.where(meta.high > meta.low, meta.high - meta.low, 1.0)
    middle = np.where(meta.high > meta.low, (actions - meta.low) / wide * 2 - 1, 0.0)
    rows["axes"] = middle.clip(-1, 1).astype(np.float32)
    return after_the_first(rows, meta.space)
