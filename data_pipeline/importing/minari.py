"""Minari datasets with pictures, in either of their storages (minari_storage.py). There is one observation more than
actions: action t led from observation t to observation t + 1, so it is the row of frame t + 1.

A Discrete action is a key that is held while it is done, Digit0 for the first, as in the environment that
data_pipeline/environments/gymnasium_world.py makes of such a space; a Box is axes, its bounds brought to [-1, 1].
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.environments.gymnasium_world import KEYS
from data_pipeline.importing.minari_storage import STORAGES, Picture, Stored
from data_pipeline.importing.recording import (
    BadEpisode,
    Episode,
    Recording,
    Rows,
    Source,
    edges_of_held,
    idle_rows,
)
from data_pipeline.schema import DataError
from wm.batch import ActionSpace

METADATA = "metadata.json"
_KEPT = ("dataset_id", "author", "algorithm_name", "code_permalink")  # of the metadata, in the manifest


@dataclass(frozen=True)
class _Actions:
    """What an action space is here."""

    space: ActionSpace
    rows: Callable[[np.ndarray], dict[str, np.ndarray]]  # actions (T, ...) -> the channels that they fill


def open_minari(folder: Path, view: str = "") -> Source:
    """The episodes of the dataset in `folder`, whose frames are the observation `view`, or the only one that is a picture.

    Minari keeps no frame rate: `fps` of its recordings is 0, and the times are numbers of frames.
    """
    about = _metadata(folder)
    picture = _picture(_space(about, "observation_space"), view)
    actions = _actions(_space(about, "action_space"))
    storage = STORAGES[about.get("data_format", "hdf5")]
    episodes = [_episode(name, read, actions) for name, read in storage(folder / "data", picture)]
    kept: dict[str, Any] = {name: about[name] for name in _KEPT if name in about}
    return Source(actions.space, episodes, {"name": folder.name, "view": picture.path, **kept})


def _metadata(folder: Path) -> dict[str, Any]:
    place = folder / "data" / METADATA if (folder / "data" / METADATA).exists() else folder / METADATA
    try:
        about = json.loads(place.read_text())
    except FileNotFoundError:
        raise DataError(f"has no data/{METADATA}: it is not a Minari dataset") from None
    except ValueError as error:
        raise DataError(f"{place.name} cannot be read: {error}") from None
    if not isinstance(about, dict) or about.get("data_format", "hdf5") not in STORAGES:
        raise DataError(f"{place.name} says the data are in another format than {' or '.join(STORAGES)}")
    return about


def _space(about: dict[str, Any], name: str) -> dict[str, Any]:
    """A serialised Gymnasium space, which Minari writes as text inside of JSON."""
    try:
        space = about[name]
        space = json.loads(space) if isinstance(space, str) else space
        space["type"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{METADATA} does not say the {name}: {type(error).__name__} {error}") from None
    found: dict[str, Any] = space
    return found


def _picture(space: dict[str, Any], wanted: str) -> Picture:
    """The observation that is a picture, "observations" or "observations/name"."""
    views = dict(_pictures(space, "observations"))
    if wanted and f"observations/{wanted}" not in views:
        raise DataError(f"has no picture {wanted!r}; it has {', '.join(views) or 'none'}")
    if not wanted and len(views) != 1:
        raise DataError(f"has {len(views)} pictures ({', '.join(views)}); choose one with --view")
    path = f"observations/{wanted}" if wanted else next(iter(views))
    return Picture(path, views[path])


def _pictures(space: dict[str, Any], path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if space["type"] == "Dict":
        for name, inner in space["subspaces"].items():
            yield from _pictures(inner, f"{path}/{name}")
    elif space["type"] == "Tuple":
        for i, inner in enumerate(space["subspaces"]):
            yield from _pictures(inner, f"{path}/_index_{i}")
    elif space["type"] == "Box" and space["dtype"] == "uint8" and len(space["shape"]) in (2, 3):
        yield path, tuple(space["shape"])


def _actions(space: dict[str, Any]) -> _Actions:
    match space["type"]:
        case "Discrete" if int(space["n"]) <= len(KEYS):
            start, count = int(space.get("start", 0)), int(space["n"])
            return _keys(KEYS[:count], lambda values: values.reshape(-1, 1) == start + np.arange(count))
        case "MultiBinary" if np.prod(space["n"]) <= len(KEYS):
            return _keys(KEYS[: int(np.prod(space["n"]))], lambda values: values.reshape(len(values), -1) > 0)
        case "Box":
            low, high = (np.array(space[name], np.float64).reshape(-1) for name in ("low", "high"))
            return _axes(low, high)
        case "MultiDiscrete":
            least = np.array(space.get("start", 0), np.float64).reshape(-1)
            return _axes(least, least + np.array(space["nvec"], np.float64).reshape(-1) - 1)
    raise DataError(
        f"its actions are a {space['type']} that is not known; known are Discrete, MultiBinary, Box, MultiDiscrete"
    )


def _keys(names: tuple[str, ...], held: Callable[[np.ndarray], np.ndarray]) -> _Actions:
    return _Actions(ActionSpace(pointer="none", keys=names), lambda values: {"keys": edges_of_held(held(values))})


def _axes(low: np.ndarray, high: np.ndarray) -> _Actions:
    low, high = np.broadcast_arrays(low, high)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise DataError("its actions have no bounds, so they cannot be brought to [-1, 1]")

    def rows(values: np.ndarray) -> dict[str, np.ndarray]:
        share = (values.reshape(len(values), -1).astype(np.float64) - low) / (high - low)
        if (np.abs(share - 0.5) > 0.5 + 1e-6).any():
            raise BadEpisode("has actions outside of the bounds of the action space")
        return {"axes": (share * 2 - 1).clip(-1, 1).astype(np.float32)}

    return _Actions(ActionSpace(pointer="none", axes=tuple(f"axis.{i}" for i in range(len(low)))), rows)


def _episode(name: str, read: Callable[[], Stored], actions: _Actions) -> Episode:
    return Episode(name, lambda: _open(read(), actions))


def _open(stored: Stored, actions: _Actions) -> Recording:
    seen = stored.num_pictures
    if seen != len(stored.actions) + 1:
        raise BadEpisode(f"has {seen} pictures and {len(stored.actions)} actions; there must be one picture more")
    rows = _rows(stored.actions, actions)
    meta = {} if stored.seed is None else {"seed": stored.seed}
    return Recording(0.0, np.arange(seen, dtype=np.float64), stored.frames, rows, meta)


def _rows(done: np.ndarray, actions: _Actions) -> Rows:
    """Idle before the first frame, then what led to each; a key that stays down from one action to the next is held."""
    idle = idle_rows(actions.space, len(done) + 1)
    for name, values in actions.rows(done).items():
        idle[name][1:] = values
    return idle
