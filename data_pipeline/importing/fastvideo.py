"""FastVideo's parquet files: a row a clip, tensors as bytes beside their shape and dtype; latents, not pictures.

The schema of Matrix-Game adds what was done, a row a *frame*: the camera [T, 2] (up and right, in parts of their largest
step) and keys [T, K]. Its tokenizer makes one latent of the first frame and one of each r frames that follow, so latent k
stands for all that happened since latent k - 1: presses add up, axes are averaged (retiming.combine).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.importing.recording import (
    BadEpisode,
    Episode,
    LatentFacts,
    Recording,
    Rows,
    Source,
    edges_of_held,
    even_times,
    idle_rows,
)
from data_pipeline.importing.retiming import combine
from data_pipeline.schema import DataError
from data_pipeline.tables import column_names, parquet_row, row_values
from wm.batch import ActionSpace

_KEYS = {2: ("KeyW", "KeyS"), 4: ("KeyW", "KeyS", "KeyA", "KeyD")}  # Matrix-Game's, by how many a row has
_ABOUT = ["id", "vae_latent_shape", "height", "width", "fps", "num_frames", "duration_sec"]
_ACTIONS = ["mouse_cond", "keyboard_cond"]
_RATIOS = (1, 2, 4, 8)  # frames that known tokenizers make one latent of; anything else comes of a wrong number
_LARGEST = float(np.finfo(np.float16).max)


def open_fastvideo(path: Path) -> Source:
    """The clips of a parquet file, or of all that are under a folder."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError("has no *.parquet")
    names = set.intersection(*(set(column_names(file)) for file in files))
    missing = [name for name in (*_ABOUT[:5], *_parts("vae_latent")) if name not in names]
    if missing:
        raise DataError(f"has no columns {', '.join(missing)}: it is not FastVideo's, or not with latents")
    about = [name for name in _ABOUT if name in names]
    places = [
        (file, g, r, row)
        for file in files
        for g, rows in enumerate(row_values(file, about))
        for r, row in enumerate(rows)
    ]
    acting = set(_parts("keyboard_cond")) <= names and set(_parts("mouse_cond")) <= names
    facts, space = _facts(places, acting)
    columns = [name for name in ("caption", *_parts("vae_latent")) if name in names]
    columns += [part for name in _ACTIONS for part in _parts(name)] if acting else []
    episodes = [_episode(path, place, columns, space, facts.stride) for place in places]
    return Source(space, episodes, {"name": path.name}, facts)


def _parts(name: str) -> tuple[str, str, str]:
    return (f"{name}_bytes", f"{name}_shape", f"{name}_dtype")


def _facts(places: list[tuple[Path, int, int, dict[str, Any]]], acting: bool) -> tuple[LatentFacts, ActionSpace]:
    """What the first row says of the tokenizer and the actions; a row that differs is bad."""
    if not places:
        raise DataError("has no rows")
    file, group, number, row = places[0]
    try:
        channels, _, height, _ = row["vae_latent_shape"]
        stride = int(row["height"]) // height
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"its first row does not say the size of picture and latents: {error}") from None
    facts = LatentFacts(f"fastvideo-{channels}-channels-stride-{stride}", stride)
    if not acting:
        return facts, ActionSpace(pointer="none")
    shape = parquet_row(file, group, number, ["keyboard_cond_shape"])["keyboard_cond_shape"]
    if not shape:
        return facts, ActionSpace(pointer="none")
    if len(shape) != 2 or shape[1] not in _KEYS:
        raise DataError(
            f"its first row has keys of shape {shape}, known are {' or '.join(map(str, _KEYS))} keys a frame"
        )
    return facts, ActionSpace(pointer="none", keys=_KEYS[shape[1]], axes=("camera.up", "camera.right"))


def _episode(
    root: Path, place: tuple[Path, int, int, dict[str, Any]], columns: list[str], space: ActionSpace, stride: int
) -> Episode:
    file, group, row, about = place
    inside = file.relative_to(root) if root.is_dir() else Path(file.name)

    def open_row() -> Recording:
        values = {**about, **parquet_row(file, group, row, columns)}
        try:
            return _recording(values, space, stride)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise BadEpisode(f"is not as FastVideo writes it: {type(error).__name__} {error}") from None

    return Episode(f"{inside}:{group}:{row} {about.get('id')}", open_row)


def _recording(row: dict[str, Any], space: ActionSpace, stride: int) -> Recording:
    latents = _tensor(row, "vae_latent")
    if latents.ndim != 4:
        raise BadEpisode(f"its latents are {latents.shape}, need (channels, frames, height, width)")
    if (latents.shape[2] * stride, latents.shape[3] * stride) != (row["height"], row["width"]):
        raise BadEpisode(f"latents of {latents.shape[2:]} do not stand for a picture of {row['height']}x{row['width']}")
    if not np.isfinite(latents).all() or np.abs(latents).max() > _LARGEST:
        raise BadEpisode("its latents are not finite numbers that float16 can hold")
    frames = np.ascontiguousarray(latents.transpose(1, 0, 2, 3)).astype(np.float16)
    acting = bool(space.keys)
    actions = _actions(row, space) if acting else None
    ratio = _ratio(row, len(frames), actions)
    fps = float(row["fps"]) / ratio if ratio else 0.0
    rows = idle_rows(space, len(frames)) if actions is None else combine(actions, np.arange(len(frames)) * ratio, space)
    caption = {"caption": row["caption"]} if row.get("caption") else {}
    return Recording(fps, even_times(len(frames), fps or 1.0), lambda: _iterate(frames), rows, caption)


def _iterate(frames: np.ndarray) -> Iterator[np.ndarray]:
    return iter(frames)


def _ratio(row: dict[str, Any], num_latents: int, actions: Rows | None) -> int:
    """Frames that one latent stands for, after the first, which stands for one; 0 where a row does not say.

    `num_frames` is of the latents in some of FastVideo's pipelines, `duration_sec` of a video that was cut afterwards in
    others. The actions, one a frame, do not mislead.
    """
    said, fps = int(row.get("num_frames") or 0), float(row["fps"])
    if fps <= 0:
        raise BadEpisode(f"has {fps:g} frames a second")
    lasted = round(float(row.get("duration_sec") or 0) * fps)
    num_frames = len(actions["axes"]) if actions is not None else said if said > num_latents else lasted
    ratio, left = divmod(num_frames - 1, max(num_latents - 1, 1))
    known = not left and ratio in _RATIOS
    if actions is not None and not known:
        raise BadEpisode(f"{num_latents} latents and {num_frames} actions: which belongs to which is not known")
    return ratio if known else 0


def _actions(row: dict[str, Any], space: ActionSpace) -> Rows:
    """One row a frame: what was held and where the camera went, from the frame before to it."""
    keys, camera = _tensor(row, "keyboard_cond"), _tensor(row, "mouse_cond")
    if keys.shape != (len(keys), len(space.keys)) or camera.shape != (len(keys), 2):
        raise BadEpisode(
            f"keys {keys.shape} and camera {camera.shape}, need (frames, {len(space.keys)}) and (frames, 2)"
        )
    if not (np.isfinite(camera).all() and np.abs(camera).max() <= 1 and np.isin(keys, (0, 1)).all()):
        raise BadEpisode("keys are not all 0 or 1, or the camera is not in [-1, 1]")
    rows = idle_rows(space, len(keys))
    rows["keys"], rows["axes"] = edges_of_held(keys > 0), camera.astype(np.float32)
    return rows


def _tensor(row: dict[str, Any], name: str) -> np.ndarray:
    """A tensor of a row as float32; numpy has no bfloat16, whose bytes are the upper half of a float32's."""
    data, shape, kind = (row[part] for part in _parts(name))
    if kind == "bfloat16":
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif kind in ("float16", "float32", "float64", "int64", "int32", "uint8", "bool"):
        values = np.frombuffer(data, kind).astype(np.float32)
    else:
        raise BadEpisode(f"{name} is of dtype {kind!r}, which is not known")
    return values.reshape(shape)
