"""Write, index, verify and read tar shards, and the folder of shards that is a dataset.

A shard is a plain WebDataset tar: members of a sample are adjacent, mtime, uid and order are fixed, so the same samples
give the same bytes. The index beside it says where each member lies, so that reading needs no walk over the tar.
Everything is written under a temporary name, fsynced and renamed; `dataset.json` comes last.
"""

import errno
import hashlib
import io
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self
from zipfile import BadZipFile

import numpy as np

from data_pipeline import video
from data_pipeline.patience import Patience
from data_pipeline.schema import (
    ACTION_SHAPES,
    ACTIONS,
    LATENTS,
    META,
    SCHEMA_VERSION,
    VIDEO,
    DataError,
    DatasetManifest,
    Sample,
    ShardEntry,
    changed_fraction,
    check,
)
from data_pipeline.tar_index import BLOCK, REPLACE, ClipEntry, build_index, header, index_path, load_index
from wm.config import ConfigError, from_dict, to_dict
from wm.durable import sync

MANIFEST = "dataset.json"

# NumPy reads headers with ast, and in Python 3.11 two threads in it at a time can end in a SystemError.
_PARSING = threading.Lock()


def write_shard(path: Path, samples: Iterable[Sample], codec: video.Codec = "lossless") -> ShardEntry:
    """Write `samples` as the tar at `path` and its index beside it; a file at `path` is whole and has its index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path) as file:
        for sample in samples:
            for suffix, data in _members(sample, codec):
                file.write(header(f"{sample.key}.{suffix}", len(data)))
                file.write(data + bytes(-len(data) % BLOCK))
        file.write(bytes(2 * BLOCK))
        file.flush()
        # The index comes before the tar takes its name: whoever sees the tar can read it.
        return _write_index(Path(file.name), path)


def write_index(path: Path) -> ShardEntry:
    """Write the index of the whole shard at `path` anew."""
    return _write_index(path, path)


def _write_index(tar: Path, path: Path) -> ShardEntry:
    index = build_index(tar, path.name)
    _write_json(index_path(path), index)
    return from_dict(ShardEntry, index["entry"])


def write_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Declare `folder` whole. Every shard must be there; what interrupted writers left behind is removed."""
    for entry in manifest.shards:
        _check_size(folder, entry)
    for leftover in folder.glob(".*.partial"):
        leftover.unlink()
    _write_json(folder / MANIFEST, to_dict(manifest))


@dataclass(frozen=True)
class Dataset:
    """A folder of shards. Reads by offset; each member's checksum is checked when it is first read."""

    folder: Path
    manifest: DatasetManifest
    clips: tuple[ClipEntry, ...]  # in the order of the shards
    patience: Patience = field(default_factory=Patience, repr=False)
    _verified: set[tuple[str, int]] = field(default_factory=set, repr=False)  # (shard, offset) of members seen whole

    @classmethod
    def open(cls, folder: Path, check_sizes: bool = True, patience: Patience | None = None) -> Self:
        """The dataset in `folder`; `check_sizes=False` leaves damaged shards to be found when they are read.

        `patience` is for reads that fail for a moment; its defaults if None.
        """
        folder, patience = Path(folder), patience or Patience()
        manifest = patience(lambda: _load_manifest(folder), folder / MANIFEST)
        clips: list[ClipEntry] = []
        for entry in manifest.shards:
            if check_sizes:
                _check_size(folder, entry)
            indexed, entries = patience(partial(load_index, folder / entry.name), index_path(folder / entry.name))
            if indexed != entry:
                raise DataError(f"{folder / entry.name}: index and {MANIFEST} speak of different files; {REPLACE}")
            clips.extend(entries)
        return cls(folder, manifest, tuple(clips), patience)

    def read(self, clip: int, start: int = 0, count: int | None = None) -> Sample:
        """Frames [start, start + count) of a clip with everything that belongs to them; all that follow if None."""
        frames = self.frames(clip, start, count)
        sample = Sample(self.clips[clip].key, self.rows(clip), self.meta(clip)).window(start, len(frames))
        return replace(sample, latents=frames) if self.manifest.kind == "latents" else replace(sample, video=frames)

    def meta(self, clip: int) -> dict[str, Any]:
        """What is known of a whole clip besides frames and actions."""
        entry = self.clips[clip]
        with self._named(entry, META):
            meta: dict[str, Any] = json.loads(self._bytes(entry, META))
            return meta

    def rows(self, clip: int) -> dict[str, np.ndarray]:
        """The action rows of a whole clip by name, each (T, ...) float32."""
        entry = self.clips[clip]
        data = io.BytesIO(self._bytes(entry, ACTIONS))
        # Objects are refused: to read them would run what a pickle says.
        with self._named(entry, ACTIONS), _PARSING, np.lib.npyio.NpzFile(data, allow_pickle=False) as archive:
            rows = {name: archive[name] for name in archive.files}
            kinds = {name: (str(values.dtype), len(values)) for name, values in rows.items()}
            if kinds != dict.fromkeys(ACTION_SHAPES, ("float32", entry.num_frames)):
                raise ValueError(
                    f"rows are {kinds}, need {entry.num_frames} float32 of each of {', '.join(ACTION_SHAPES)}"
                )
            return rows

    def frames(self, clip: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Video (count, H, W, 3) uint8 or latents (count, C, h, w) float16 of a clip."""
        entry = self.clips[clip]
        count = entry.num_frames - start if count is None else count
        if start < 0 or count < 1 or start + count > entry.num_frames:
            raise ValueError(f"{entry.key} has {entry.num_frames} frames; {count} from {start} were asked")
        if self.manifest.kind == "latents":
            return self._latents(entry, start, count)
        with self._named(entry, VIDEO):
            return video.decode(self._bytes(entry, VIDEO), start, count)

    def verify(self) -> None:
        """DataError for the first shard whose bytes are not those that were written."""
        for entry in self.manifest.shards:
            if build_index(self.folder / entry.name)["entry"] != to_dict(entry):
                raise DataError(f"{self.folder / entry.name}: bytes differ from those in {MANIFEST}; {REPLACE}")

    def _latents(self, entry: ClipEntry, start: int, count: int) -> np.ndarray:
        """Only the rows asked for are read: a whole clip of large latents may be many megabytes."""
        member = entry.members[LATENTS]
        if (entry.shard, member.offset) not in self._verified:
            self._bytes(entry, LATENTS)
        head = io.BytesIO(self._pread(entry, LATENTS, 0, min(member.size, BLOCK)))
        with self._named(entry, LATENTS):
            np.lib.format.read_magic(head)
            with _PARSING:
                (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(head)
            if dtype != np.float16:
                raise ValueError(f"latents are {dtype}, need float16")
            row = int(np.prod(shape)) * dtype.itemsize
            data = self._pread(entry, LATENTS, head.tell() + start * row, count * row)
            return np.frombuffer(data, dtype).reshape(count, *shape)

    def _bytes(self, entry: ClipEntry, suffix: str) -> bytes:
        member = entry.members[suffix]
        data = self._pread(entry, suffix, 0, member.size)
        if (entry.shard, member.offset) not in self._verified:
            if hashlib.sha256(data).hexdigest() != member.sha256:
                raise DataError(f"{self._where(entry, suffix)}: checksum differs from the index; {REPLACE}")
            self._verified.add((entry.shard, member.offset))
        return data

    def _pread(self, entry: ClipEntry, suffix: str, offset: int, size: int) -> bytes:
        path, start = self.folder / entry.shard, entry.members[suffix].offset + offset
        try:
            data = self.patience(lambda: _read_at(path, start, size), path)
        except FileNotFoundError:
            raise DataError(f"{path} is missing; {REPLACE}") from None
        if len(data) < size:
            raise DataError(f"{self._where(entry, suffix)}: the file ends before this member does; {REPLACE}")
        return data

    @contextmanager
    def _named(self, entry: ClipEntry, suffix: str) -> Iterator[None]:
        """What a parser says of bytes that are as they were written, but not as they should be, with their place."""
        try:
            yield
        except DataError:
            raise
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            EOFError,
            NotImplementedError,
            BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(f"{self._where(entry, suffix)}: {error}; {REPLACE}") from None

    def _where(self, entry: ClipEntry, suffix: str) -> str:
        return f"{self.folder / entry.shard}, {entry.key}.{suffix} at byte {entry.members[suffix].offset}"


def _read_at(path: Path, start: int, size: int) -> bytes:
    """`size` bytes of the file from `start` on, fewer where it ends."""
    parts: list[bytes] = []
    with path.open("rb", buffering=0) as file:
        while size > 0:
            part = os.pread(file.fileno(), size, start)  # may be shorter than asked, as a network or 2 GiB make it
            if not part:
                break
            parts.append(part)
            start, size = start + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _members(sample: Sample, codec: video.Codec) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of each file of a sample, in their order in the tar."""
    check(sample)
    meta = {**sample.meta, "num_frames": len(sample)}
    if "changed" not in meta:
        changed = changed_fraction(sample.video) if sample.video is not None else np.zeros(len(sample))
        meta["changed"] = [round(float(x), 4) for x in changed]
    if sample.video is not None:
        yield VIDEO, video.encode(sample.video, float(meta["fps"]), codec)
    else:
        latents = io.BytesIO()
        np.save(latents, np.ascontiguousarray(sample.latents), allow_pickle=False)
        yield LATENTS, latents.getvalue()
    rows = io.BytesIO()
    np.savez_compressed(rows, allow_pickle=False, **sample.actions)
    yield ACTIONS, rows.getvalue()
    try:
        yield META, json.dumps(meta, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"sample {sample.key}: meta is not JSON: {error}") from None


def _load_manifest(folder: Path) -> DatasetManifest:
    path = folder / MANIFEST
    try:
        tree = json.loads(path.read_text())
        if tree.get("schema_version") != SCHEMA_VERSION:
            given = tree.get("schema_version")
            raise DataError(f"{path} has schema version {given}, this program reads {SCHEMA_VERSION}; record it again")
        return from_dict(DatasetManifest, tree)
    except FileNotFoundError:
        raise DataError(f"{folder} is not a dataset: it has no {MANIFEST}; run the record stage") from None
    except (ConfigError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; run the stage that writes it again") from None


def _check_size(folder: Path, entry: ShardEntry) -> None:
    path = folder / entry.name
    if not path.exists():
        raise DataError(f"{path} is missing; {REPLACE}")
    size = path.stat().st_size
    if size != entry.size:
        raise DataError(f"{path} has {size} bytes, {MANIFEST} says {entry.size}; {REPLACE}")


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    with _partial(path) as file:
        file.write(json.dumps(tree, separators=(",", ":")).encode())


@contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when the block ends well, and that never existed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"no space left to write {path}; make room and run the same command again") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
