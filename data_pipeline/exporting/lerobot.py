"""A dataset as LeRobot v3.0: one video an episode, one parquet file a shard, statistics, without the lerobot package.

`action` of frame t is what was done on seeing it, which is our row t + 1; `observation.state` is our row t, what the
hand had done and held at frame t. Both are vectors (data_pipeline/action_vectors.py), so that nothing is lost: importing
such a dataset gives the rows back bit for bit, and the frames too where the codec is lossless.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import video
from data_pipeline.action_vectors import OWN_SPACE, to_vectors, vector_names
from data_pipeline.importing.recording import idle_rows
from data_pipeline.schema import DataError, DatasetManifest, Sample
from data_pipeline.shards import Dataset
from data_pipeline.tables import write_parquet
from wm.batch import HELD, ActionSpace
from wm.config import to_dict

VIEW = "observation.images.screen"
_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA, _VIDEO = f"data/{_PLACE}.parquet", f"videos/{{video_key}}/{_PLACE}.mp4"
_FILES = 1000  # in one chunk
_PICTURES = 8  # frames of each episode that the statistics of the picture see


@dataclass
class Statistics:
    """Least, greatest, mean and standard deviation of rows that come in parts (T, n)."""

    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, size: int) -> "Statistics":
        return cls(np.full(size, np.inf), np.full(size, -np.inf), np.zeros(size), np.zeros(size))

    def add(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        self.total, self.squares = self.total + rows.sum(0), self.squares + (rows**2).sum(0)
        self.count += len(rows)

    def to_dict(self, shape: tuple[int, ...]) -> dict[str, Any]:
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        values = {"min": self.low, "max": self.high, "mean": mean, "std": deviation}
        return {name: value.reshape(shape).tolist() for name, value in values.items()} | {"count": [self.count]}


@dataclass
class _Written:
    """What has been written so far."""

    episodes: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)  # in the order of their numbers
    num_frames: int = 0
    statistics: dict[str, Statistics] = field(default_factory=dict)


def export_lerobot(dataset: Dataset, destination: Path, codec: video.Codec = "lossless") -> int:
    """Write `dataset` under `destination`; the number of episodes. DataError for latents, or where something is there."""
    manifest = dataset.manifest
    if manifest.kind != "video":
        raise DataError(f"{dataset.folder} holds latents; LeRobot holds videos")
    if destination.exists() and any(destination.iterdir()):
        raise DataError(f"{destination} is not empty; delete it or name another folder")
    if manifest.fps != round(manifest.fps):
        raise DataError(f"{dataset.folder} has {manifest.fps:g} frames a second; LeRobot needs a whole number")
    size = len(vector_names(manifest.action_space))
    written = _Written(statistics={name: Statistics.empty(size) for name in ("action", "observation.state")})
    written.statistics[VIEW] = Statistics.empty(3)
    for number, clips in enumerate(_by_shard(dataset)):
        path = destination / _DATA.format(**_place(number))
        write_parquet(path, (_write_episode(dataset, clip, number, destination, written, codec) for clip in clips))
    _write_meta(manifest, written, destination)
    return len(written.episodes)


def _by_shard(dataset: Dataset) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for clip, entry in enumerate(dataset.clips):
        found.setdefault(entry.shard, []).append(clip)
    return list(found.values())


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // _FILES, "file_index": number % _FILES}


def _write_episode(
    dataset: Dataset, clip: int, shard: int, destination: Path, written: _Written, codec: video.Codec
) -> dict[str, Any]:
    """The columns of one clip; its video is written and its row of `meta/episodes` kept."""
    sample, fps = dataset.read(clip), dataset.manifest.fps
    assert sample.video is not None, "the manifest says video"
    number = len(written.episodes)
    place = _place(number)
    path = destination / _VIDEO.format(video_key=VIEW, **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(video.encode(sample.video, fps, codec))
    task = str(sample.meta.get("caption", ""))
    columns = _columns(sample, number, written, dataset.manifest.action_space, fps)
    written.episodes.append(
        {
            "episode_index": number,
            "tasks": [task],
            "length": len(sample),
            "data/chunk_index": _place(shard)["chunk_index"],
            "data/file_index": _place(shard)["file_index"],
            "dataset_from_index": written.num_frames,
            "dataset_to_index": written.num_frames + len(sample),
            f"videos/{VIEW}/chunk_index": place["chunk_index"],
            f"videos/{VIEW}/file_index": place["file_index"],
            f"videos/{VIEW}/from_timestamp": 0.0,
            f"videos/{VIEW}/to_timestamp": len(sample) / fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
    )
    written.num_frames += len(sample)
    _add_statistics(written, columns, sample.video)
    return columns


def _columns(sample: Sample, number: int, written: _Written, space: ActionSpace, fps: float) -> dict[str, Any]:
    frames = np.arange(len(sample))
    task = written.tasks.setdefault(str(sample.meta.get("caption", "")), len(written.tasks))
    states = to_vectors(sample.actions)
    return {
        "observation.state": states,
        "action": np.concatenate([states[1:], to_vectors(_rest(sample, space))]),
        "timestamp": (frames / fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(len(sample), number),
        "index": written.num_frames + frames,
        "task_index": np.full(len(sample), task),
    }


def _rest(sample: Sample, space: ActionSpace) -> dict[str, np.ndarray]:
    """A row after the last: nothing is pressed or let go, what is held stays held."""
    rows = idle_rows(space, 1)
    if space.pointer == "absolute":
        rows["pointer"][:] = sample.actions["pointer"][-1]
    for name in ("buttons", "keys"):
        rows[name][..., HELD] = sample.actions[name][-1:, :, HELD]
    return rows


def _add_statistics(written: _Written, columns: dict[str, Any], frames: np.ndarray) -> None:
    for name in ("action", "observation.state"):
        written.statistics[name].add(columns[name])
    seen = frames[np.linspace(0, len(frames) - 1, min(_PICTURES, len(frames))).round().astype(int)]
    written.statistics[VIEW].add(seen.reshape(-1, 3) / 255)


def _write_meta(manifest: DatasetManifest, written: _Written, destination: Path) -> None:
    """All of `meta`; `info.json`, without which nobody reads the rest, is last."""
    meta = destination / "meta"
    names = written.episodes[0].keys()
    columns = {name: [episode[name] for episode in written.episodes] for name in names}
    write_parquet(meta / "episodes" / f"{_PLACE.format(chunk_index=0, file_index=0)}.parquet", [columns])
    tasks = {"task_index": list(written.tasks.values()), "task": list(written.tasks)}
    write_parquet(meta / "tasks.parquet", [tasks], index="task")
    shapes = {VIEW: (3, 1, 1)}
    statistics = {name: found.to_dict(shapes.get(name, (-1,))) for name, found in written.statistics.items()}
    (meta / "stats.json").write_text(json.dumps(statistics, indent=4))
    (meta / "info.json").write_text(json.dumps(_info(manifest, written), indent=4))


def _info(manifest: DatasetManifest, written: _Written) -> dict[str, Any]:
    return {
        "codebase_version": "v3.0",
        "robot_type": str(manifest.source.get("name", "")) or None,
        "total_episodes": len(written.episodes),
        "total_frames": written.num_frames,
        "total_tasks": len(written.tasks),
        "chunks_size": _FILES,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(manifest.fps),
        "splits": {"train": f"0:{len(written.episodes)}"},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": dict(_features(manifest)),
    }


def _features(manifest: DatasetManifest) -> Iterator[tuple[str, dict[str, Any]]]:
    size = [manifest.height, manifest.width, 3]
    about = {"video.fps": int(manifest.fps), "video.channels": 3, "is_depth_map": False, "has_audio": False}
    yield VIEW, {"dtype": "video", "shape": size, "names": ["height", "width", "channels"], "info": about}
    names = vector_names(manifest.action_space)
    vector = {"dtype": "float32", "shape": [len(names)], "names": names}
    yield "observation.state", vector
    yield "action", {**vector, "info": {OWN_SPACE: to_dict(manifest.action_space)}}
    yield "timestamp", {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        yield name, {"dtype": "int64", "shape": [1], "names": None}
