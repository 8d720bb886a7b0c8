"""The tar format of a shard: one header, the walk over all of them, and the index that makes the walk unnecessary."""

import gc
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from data_pipeline.schema import ACTIONS, LATENTS, META, SCHEMA_VERSION, TEXT, VIDEO, DataError, ShardEntry
from wm.config import ConfigError, from_dict, to_dict

BLOCK = tarfile.BLOCKSIZE
REPLACE = "copy this shard again, or delete it and run the stage that wrote it"
_SUFFIXES = "|".join(re.escape(suffix) for suffix in (VIDEO, LATENTS, TEXT, ACTIONS, META))
_NAME = re.compile(rf"([A-Za-z0-9_-]+)\.({_SUFFIXES})")


class Member(NamedTuple):
    """One file of a sample, as a run of bytes of the tar."""

    offset: int
    size: int
    sha256: str


class ClipEntry(msgspec.Struct, frozen=True):
    """One sample as the index knows it."""

    key: str
    num_frames: int
    changed: tuple[float, ...]  # per frame, fraction of pixels that differ from the frame before
    members: dict[str, Member]  # by suffix
    change: tuple[float, ...] = ()  # per frame, how much happens; none where nobody stored it
    shard: str = ""  # file name of the tar; the index says it once, for all of its samples

    @property
    def span(self) -> tuple[int, int]:
        """Where its bytes begin and end: members of a sample are adjacent, in the order of the tar."""
        first, *_, last = self.members.values()
        return first.offset, last.offset + last.size


class _Index(msgspec.Struct):
    """The file beside a shard. Decoded straight into these classes: a dataset of many samples opens at the speed of that."""

    schema_version: int
    entry: dict[str, Any]
    samples: tuple[ClipEntry, ...]


def index_path(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.index.json")


def header(name: str, size: int) -> bytes:
    """A tar header that depends on nothing but its arguments."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def build_index(path: Path, name: str | None = None) -> dict[str, Any]:
    """The index of the tar at `path` by walking it; DataError names the offset and the last good sample otherwise."""
    name = name or path.name
    digest = hashlib.sha256()
    samples: list[dict[str, Any]] = []
    keys: set[str] = set()
    with path.open("rb") as file:
        for key, suffix, member, data in _walk(file, name, digest):
            if not samples or samples[-1]["key"] != key:
                if key in keys:
                    raise DataError(f"{name}: members of {key} are not adjacent, at byte {member.offset}; {REPLACE}")
                keys.add(key)
                samples.append({"key": key, "members": {}})
            if suffix in samples[-1]["members"]:
                raise DataError(f"{name}: {key}.{suffix} is there twice, at byte {member.offset}; {REPLACE}")
            samples[-1]["members"][suffix] = [member.offset, member.size, member.sha256]
            if suffix == META:
                samples[-1] |= _from_meta(data, name, key)
    for sample in samples:
        _check_complete(sample, name)
    entry = ShardEntry(
        name=name,
        num_samples=len(samples),
        num_frames=sum(sample["num_frames"] for sample in samples),
        size=path.stat().st_size,
        sha256=digest.hexdigest(),
    )
    return {"schema_version": SCHEMA_VERSION, "entry": to_dict(entry), "samples": samples}


def load_index(shard: Path) -> tuple[ShardEntry, tuple[ClipEntry, ...]]:
    """What the index beside `shard` says of it."""
    path = index_path(shard)
    try:
        with _without_collections():
            index = msgspec.json.decode(path.read_bytes(), type=_Index)
        entry = from_dict(ShardEntry, index.entry)
        for clip in index.samples:  # nobody else has them yet
            msgspec.structs.force_setattr(clip, "shard", entry.name)
        return entry, index.samples
    except FileNotFoundError:
        problem = "is missing"
    except (ConfigError, msgspec.DecodeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    raise DataError(f"{path} {problem}; make it again with: python -m tools.inspect_shards {shard.parent} --index")


@contextmanager
def _without_collections() -> Iterator[None]:
    """An index is many small objects and none of them garbage: to look for it again and again took most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _walk(file: BinaryIO, name: str, digest: Any) -> Iterator[tuple[str, str, Member, bytes]]:
    """(key, suffix, where, bytes) of each member; every byte of the file goes through `digest`."""
    last = "no sample before it is whole"
    while True:
        offset = file.tell()
        block = file.read(BLOCK)
        digest.update(block)
        if block == bytes(BLOCK):
            rest = file.read()
            digest.update(rest)
            if len(rest) < BLOCK or any(rest):
                raise DataError(f"{name}: wrong end of archive at byte {offset}; {last}; {REPLACE}")
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise DataError(f"{name}: {error} at byte {offset}; {last}; {REPLACE}") from None
        match = _NAME.fullmatch(info.name)
        if match is None or info.type != tarfile.REGTYPE:
            raise DataError(f"{name}: {info.name!r} at byte {offset} is not a file of a sample; {REPLACE}")
        data = file.read(info.size)
        padding = file.read(-info.size % BLOCK)
        if len(data) + len(padding) < info.size + -info.size % BLOCK:
            raise DataError(f"{name}: the file ends inside {info.name} at byte {offset}; {last}; {REPLACE}")
        digest.update(data + padding)
        yield match[1], match[2], Member(offset + BLOCK, info.size, hashlib.sha256(data).hexdigest()), data
        last = f"the last good member is {info.name}"


def _from_meta(data: bytes, name: str, key: str) -> dict[str, Any]:
    try:
        meta = json.loads(data)
        known = {
            name: [float(x) for x in meta[name]] for name in ("changed", "change") if name in meta or name == "changed"
        }
        return {"num_frames": int(meta["num_frames"]), **known}
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: {key}.{META} is not as it was written ({problem}); {REPLACE}") from None


def _check_complete(sample: dict[str, Any], name: str) -> None:
    has = sample["members"].keys()
    if not {ACTIONS, META} <= has or not has & {VIDEO, LATENTS}:
        raise DataError(f"{name}: sample {sample['key']} has only {', '.join(has)}; {REPLACE}")
