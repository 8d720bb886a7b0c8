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
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, Self
from zipfile import BadZipFile

import numpy as np

from data_pipeline import video
from data_pipeline.npy import PARSING, read_npy
from data_pipeline.patience import Patience
from data_pipeline.remote import RemoteFolder
from data_pipeline.schema import (
    ACTION_SHAPES,
    ACTIONS,
    LATENTS,
    META,
    SCHEMA_VERSION,
    TEXT,
    VIDEO,
    DataError,
    DatasetManifest,
    Sample,
    ShardEntry,
    changed_fraction,
    check,
)
from data_pipeline.shard_cache import ShardCache, ShardCacheConfig
from data_pipeline.shard_files import ShardFiles
from data_pipeline.tar_index import BLOCK, REPLACE, ClipEntry, build_index, header, index_path, load_index
from wm.config import ConfigError, from_dict, to_dict
from wm.durable import sync

MANIFEST = "dataset.json"
REMOTE = "remote.json"  # in a mirror (data_pipeline/mirror.py): the address that the shards come from


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
    cache: ShardCache | None = field(default=None, repr=False)  # where shards come from an address
    checksums: bool = True  # False reads bytes as they are: for measuring what checking costs
    _verified: set[tuple[str, int]] = field(default_factory=set, repr=False)  # (shard, offset) of members seen whole

    @classmethod
    def open(cls, folder: Path, check_sizes: bool = True, patience: Patience | None = None) -> Self:
        """The dataset in `folder`; `check_sizes=False` leaves damaged shards to be found when they are read.

        `patience` is for reads that fail for a moment; its defaults if None.
        """
        folder, patience = Path(folder), patience or Patience()
        manifest = patience(lambda: _load_manifest(folder), folder / MANIFEST)
        cache = _cache(folder, manifest, patience)
        clips: list[ClipEntry] = []
        for entry in manifest.shards:
            if check_sizes and cache is None:  # the sizes of what is fetched are checked then
                _check_size(folder, entry)
            indexed, entries = patience(partial(load_index, folder / entry.name), index_path(folder / entry.name))
            if indexed != entry:
                raise DataError(f"{folder / entry.name}: index and {MANIFEST} speak of different files; {REPLACE}")
            clips.extend(entries)
        return cls(folder, manifest, tuple(clips), patience, cache)

    def read(self, clip: int, start: int = 0, count: int | None = None) -> Sample:
        """Frames [start, start + count) of a clip with everything that belongs to them; all that follow if None."""
        frames = self.frames(clip, start, count)
        sample = Sample(self.clips[clip].key, self.rows(clip), self.meta(clip)).window(start, len(frames))
        sample = replace(sample, text=self.text(clip))
        return replace(sample, latents=frames) if self.manifest.kind == "latents" else replace(sample, video=frames)

    def raw(self, clip: int) -> dict[str, memoryview]:
        """The bytes of every member of a clip by its suffix, in one read."""
        entry = self.clips[clip]
        start, stop = entry.span
        data = memoryview(self._read(entry, start, stop - start))
        found = {}
        for suffix, (offset, size, _) in entry.members.items():
            part = found[suffix] = data[offset - start : offset - start + size]
            self._check(entry, suffix, part)
        return found

    def meta(self, clip: int) -> dict[str, Any]:
        """What is known of a whole clip besides frames and actions."""
        entry = self.clips[clip]
        with self._named(entry, META):
            meta: dict[str, Any] = json.loads(self._bytes(entry, META))
            return meta

    def text(self, clip: int) -> np.ndarray | None:
        """The encoded caption of a clip (L, width); None where the dataset has none."""
        entry = self.clips[clip]
        if TEXT not in entry.members:
            return None
        with self._named(entry, TEXT):
            rows: np.ndarray = read_npy(self._bytes(entry, TEXT))
            return rows

    def rows(self, clip: int) -> dict[str, np.ndarray]:
        """The action rows of a whole clip by name, each (T, ...) float32."""
        entry = self.clips[clip]
        data = io.BytesIO(self._bytes(entry, ACTIONS))
        # Objects are refused: to read them would run what a pickle says.
        with self._named(entry, ACTIONS), PARSING, np.lib.npyio.NpzFile(data, allow_pickle=False) as archive:
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

    def prefetch(self, clips: Iterable[int]) -> None:
        """Begin to fetch the shards of `clips` that are not on this machine, if they come from an address."""
        if self.cache is not None:
            self.cache.prefetch(self._entries[name] for name in dict.fromkeys(self.clips[clip].shard for clip in clips))

    def verify(self) -> None:
        """DataError for the first shard whose bytes are not those that were written."""
        for entry in self.manifest.shards:
            if self.cache is not None:
                self.cache.open(entry).close()
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
            with PARSING:
                (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(head)
            if dtype != np.float16:
                raise ValueError(f"latents are {dtype}, need float16")
            row = int(np.prod(shape)) * dtype.itemsize
            data = self._pread(entry, LATENTS, head.tell() + start * row, count * row)
            return np.frombuffer(data, dtype).reshape(count, *shape)

    def _bytes(self, entry: ClipEntry, suffix: str) -> bytes:
        member = entry.members[suffix]
        data = self._pread(entry, suffix, 0, member.size)
        self._check(entry, suffix, data)
        return data

    def _check(self, entry: ClipEntry, suffix: str, data: bytes | memoryview) -> None:
        """DataError where `data` is not all of a member as it was written; each member is checked once."""
        member = entry.members[suffix]
        if len(data) < member.size:
            raise DataError(
                f"{self._where(entry, suffix)}: the file ends before this member does, which has {member.size} bytes; {REPLACE}"
            )
        if not self.checksums or (entry.shard, member.offset) in self._verified:
            return
        digest = hashlib.sha256(data).hexdigest()
        if digest != member.sha256:
            expected = f"(SHA-256 {digest[:12]}..., expected {member.sha256[:12]}...)"
            raise DataError(f"{self._where(entry, suffix)}: checksum differs from the index {expected}; {REPLACE}")
        self._verified.add((entry.shard, member.offset))

    def _pread(self, entry: ClipEntry, suffix: str, offset: int, size: int) -> bytes:
        data = self._read(entry, entry.members[suffix].offset + offset, size)
        if len(data) < size:
            raise DataError(f"{self._where(entry, suffix)}: the file ends before this member does; {REPLACE}")
        return data

    def _read(self, entry: ClipEntry, start: int, size: int) -> bytes:
        try:
            return self._files.read(entry.shard, start, size)
        except FileNotFoundError:
            raise DataError(f"{self.folder / entry.shard} is missing; {REPLACE}") from None

    @cached_property
    def _files(self) -> ShardFiles:
        return ShardFiles(self.folder, self._entries, self.patience, self.cache)

    @cached_property
    def _entries(self) -> dict[str, ShardEntry]:
        return {entry.name: entry for entry in self.manifest.shards}

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
    if sample.text is not None:
        text = io.BytesIO()
        np.save(text, np.ascontiguousarray(sample.text), allow_pickle=False)
        yield TEXT, text.getvalue()
    rows = io.BytesIO()
    np.savez_compressed(rows, allow_pickle=False, **sample.actions)
    yield ACTIONS, rows.getvalue()
    try:
        yield META, json.dumps(meta, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"sample {sample.key}: meta is not JSON: {error}") from None


def _load_manifest(folder: Path) -> DatasetManifest:
    try:
        return parse_manifest((folder / MANIFEST).read_text(), str(folder / MANIFEST))
    except FileNotFoundError:
        raise DataError(f"{folder} is not a dataset: it has no {MANIFEST}; run the record stage") from None


def parse_manifest(text: str, where: str) -> DatasetManifest:
    """The manifest that `text`, the content of `where`, is."""
    try:
        tree = json.loads(text)
        if tree.get("schema_version") != SCHEMA_VERSION:
            given = tree.get("schema_version")
            raise DataError(f"{where} has schema version {given}, this program reads {SCHEMA_VERSION}; record it again")
        return from_dict(DatasetManifest, tree)
    except (ConfigError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"{where} cannot be read: {error}; run the stage that writes it again") from None


def remote_folder(address: str, cache: ShardCacheConfig, patience: Patience) -> RemoteFolder:
    """What reads the files at `address`."""
    return RemoteFolder(address, cache.timeout_seconds, cache.block_megabytes << 20, patience)


def _cache(folder: Path, manifest: DatasetManifest, patience: Patience) -> ShardCache | None:
    """Where the shards of a mirror come from; None for any other folder. DataError where one alone is too large."""
    try:
        about = json.loads((folder / REMOTE).read_text())
        config = from_dict(ShardCacheConfig, about["cache"])
        address = str(about["address"])
    except FileNotFoundError:
        return None
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / REMOTE} cannot be read ({error}); delete this folder, it is fetched again"
        ) from None
    largest = max(manifest.shards, key=lambda entry: entry.size, default=None)
    if largest is not None and largest.size > config.megabytes << 20:
        raise DataError(
            f"{address}/{largest.name} has {largest.size} bytes and data.shard_cache.megabytes is {config.megabytes}: give more"
        )
    return ShardCache(folder, remote_folder(address, config, patience), config)


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
