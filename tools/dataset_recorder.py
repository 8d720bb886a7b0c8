"""What a person does in an environment as clips of a dataset: a shard for each, whole or absent, and who made them."""

import fcntl
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.controls import Controls, ControlsLog
from data_pipeline.schema import CursorImage, DataError, DatasetManifest, Sample, ShardEntry
from data_pipeline.shards import MANIFEST, Dataset, write_manifest, write_shard
from tools.actions import Beginning
from tools.film import Film
from tools.session import Game

log = logging.getLogger(__name__)

CLIP_FRAMES = 1200  # a longer recording becomes several clips
_LOCK = ".recording"


@dataclass(frozen=True)
class Origin:
    """Who records what, and what others may do with it."""

    by: str
    licence: str  # its SPDX name, such as CC-BY-4.0
    environment: dict[str, Any]  # its settings
    name: str
    version: str
    cursors: tuple[CursorImage, ...] = ()

    def __post_init__(self) -> None:
        for name, text in (("by", self.by), ("licence", self.licence)):
            if not text.strip() or not text.isprintable() or len(text) > 200:
                raise ValueError(
                    f"--{name} is {text!r}: one line of 1 to 200 characters, without which nobody may use it"
                )


class Clip:
    """Frames, rows and what the world said, on their way into a shard."""

    def __init__(self, folder: Path, game: Game, seed: int, first: int) -> None:
        self.film = Film(folder, game.height, game.width)
        self.game, self.seed, self.first = game, seed, first
        self.at = datetime.now(UTC)
        self.rows: list[dict[str, np.ndarray]] = []
        self.infos: list[dict[str, Any]] = []
        self.redacted: list[bool] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: dict[str, np.ndarray], frame: np.ndarray, info: dict[str, Any], redacted: bool) -> None:
        self.film.append(frame)
        self.rows.append(row)
        self.infos.append(info)
        self.redacted.append(redacted)

    def sample(self, key: str, origin: Origin) -> Sample:
        """The clip as a dataset keeps it."""
        meta: dict[str, Any] = {
            "fps": self.game.space.fps,
            "num_frames": len(self),
            "source": "person",
            "environment": origin.name,
            "version": origin.version,
            "seed": self.seed,
            "first_frame": self.first,
            **_made(origin, self.at),
            "events": [list(info.get("events", ())) for info in self.infos],
            "redacted": self.redacted,
        }
        if any("state" in info for info in self.infos):
            meta["state"] = [info.get("state", {}) for info in self.infos]
        if all("time" in info for info in self.infos):
            meta["times"] = [round(float(info["time"]), 6) for info in self.infos]
        rows = {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}
        return Sample(key, rows, meta, video=self.film.frames())


class DatasetRecorder:
    """One session's log, as tools.recorder.Recorder has it. Shards are written behind the play."""

    def __init__(self, game: Game, folder: Path, origin: Origin) -> None:
        self.game, self.folder, self.origin = game, folder, origin
        self.redacts = False
        self._log = ControlsLog(game.space, game.width, game.height)
        self._clip: Clip | None = None
        self._number = self._seed = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._written: list[Future[Path]] = []

    @property
    def on(self) -> bool:
        return self._clip is not None

    @property
    def full(self) -> bool:
        """Never: a long recording goes on in another clip."""
        return False

    def begin(self, begin: Beginning) -> None:
        """A new session: nothing has been done yet. A recording that runs must have been stopped before."""
        assert self._clip is None
        self._log = ControlsLog(self.game.space, self.game.width, self.game.height)
        self._number, self._seed = 0, begin.seed

    def start(self) -> None:
        """Record from the next frame on. DataError where the folder holds a dataset of another kind."""
        if self._clip is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            fits(self.folder, self.game)
            self._clip = self._new_clip()

    def add(self, controls: Controls, frame: np.ndarray, info: dict[str, Any]) -> None:
        """One frame (H, W, 3) uint8, what led to it, and what the world says of it."""
        row = self._log.row(controls)
        self._number += 1
        if self._clip is None:
            return
        self._clip.add(row, frame, info, self.redacts)
        if len(self._clip) >= CLIP_FRAMES or self._clip.film.full:
            self._write(self._clip)
            self._clip = self._new_clip()

    def stop(self) -> tuple[Path, Path] | None:
        """The manifest and the last shard of what was recorded, or None where nothing was."""
        clip, self._clip = self._clip, None
        if clip is not None and len(clip):
            self._write(clip)
        elif clip is not None:
            clip.film.close()
        written, self._written = self._written, []
        shards = [future.result() for future in written]
        return (self.folder / MANIFEST, shards[-1]) if shards else None

    def _new_clip(self) -> Clip:
        return Clip(self.folder, self.game, self._seed, self._number)

    def _write(self, clip: Clip) -> None:
        self._written.append(self._writer.submit(_saved, self.folder, self.game, self.origin, clip))


def fits(folder: Path, game: Game) -> DatasetManifest | None:
    """The manifest of the dataset in `folder`, None where there is none yet; DataError if `game` is another than its."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = Dataset.open(folder).manifest
    theirs = (manifest.action_space, manifest.height, manifest.width, manifest.source.get("name"), manifest.kind)
    if theirs != (game.space, game.height, game.width, game.name, "video"):
        raise DataError(f"{folder} holds recordings of another world, size, rate or keys: record into another folder")
    return manifest


def _saved(folder: Path, game: Game, origin: Origin, clip: Clip) -> Path:
    """Write `clip` as a new shard and declare it; the shard's path."""
    try:
        with _alone(folder):
            manifest = fits(folder, game) or _new_manifest(game, origin)
            number = 1 + max((int(entry.name[:5]) for entry in manifest.shards), default=-1)
            name = f"{number:05d}.tar"
            key = f"person-{number:05d}-{clip.at:%Y%m%dT%H%M%SZ}"
            entry = write_shard(folder / name, [clip.sample(key, origin)])
            write_manifest(folder, _with(manifest, entry, _made(origin, clip.at)))
        return folder / name
    finally:
        clip.film.close()


def _made(origin: Origin, at: datetime) -> dict[str, str]:
    return {"recorded_by": origin.by, "recorded_at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "licence": origin.licence}


def _new_manifest(game: Game, origin: Origin) -> DatasetManifest:
    source = {"environment": origin.environment, "name": origin.name, "version": origin.version, "policy": "person"}
    return DatasetManifest(
        action_space=game.space,
        fps=game.space.fps,
        height=game.height,
        width=game.width,
        kind="video",
        shards=(),
        source={**source, "recordings": {}},
        cursors=origin.cursors,
    )


def _with(manifest: DatasetManifest, entry: ShardEntry, made: dict[str, str]) -> DatasetManifest:
    recordings = {**manifest.source["recordings"], entry.name: made}
    return replace(manifest, shards=(*manifest.shards, entry), source={**manifest.source, "recordings": recordings})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While it lasts nobody else, in this process or another, adds to the dataset in `folder`."""
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
