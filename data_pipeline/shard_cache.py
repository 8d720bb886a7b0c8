"""Shards that come to this machine when they are read, and go when others need their place; many processes share them.

A cached shard is whole and its bytes are those of the manifest: it is fetched under another name and renamed. Who fetches
holds a lock on that file, so that others wait for it, and a process that is killed leaves nothing that blocks.
"""

import errno
import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data_pipeline.remote import RemoteFolder
from data_pipeline.schema import DataError, ShardEntry
from wm.config import config

log = logging.getLogger(__name__)

_OPEN_ATTEMPTS = 20  # of a shard that other processes throw out before it is opened
_FETCHES = 2  # of a shard whose bytes are not those of the manifest: what a proxy garbled once, it may not garble twice


@config
class ShardCacheConfig:
    """Where the shards of a dataset at an address (s3, gs, http, https, file) are kept while they are read."""

    folder: str = "cache"  # relative to the world's folder, or a disk of the machine's own; ranks may share it
    megabytes: int = 20_000  # of shards, over all datasets; the least recently read go first. Indexes are not counted
    prefetch_shards: int = 4  # fetched at a time before they are needed; 0 fetches where a sample is asked for
    timeout_seconds: float = 60.0  # that a block may take
    block_megabytes: int = 8

    def __post_init__(self) -> None:
        if min(self.megabytes, self.block_megabytes) < 1 or self.prefetch_shards < 0 or not self.timeout_seconds > 0:
            raise ValueError(
                f"shard_cache: megabytes {self.megabytes} and block_megabytes {self.block_megabytes} must be at least 1, "
                f"prefetch_shards {self.prefetch_shards} at least 0, timeout_seconds {self.timeout_seconds} above 0"
            )


class _AbandonedError(Exception):
    """A shard was no longer wanted while it was fetched ahead."""


class ShardCache:
    """The shards of one remote dataset in `folder`; the bound is on all tars in the folders beside it."""

    def __init__(self, folder: Path, remote: RemoteFolder, config: ShardCacheConfig) -> None:
        self.folder, self.remote, self.config = folder, remote, config
        self.fetched = 0  # shards brought here by this process
        self._running: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def open(self, entry: ShardEntry) -> BinaryIO:
        """The shard, fetched if it is not here; who has it open may read it to the end even when it is thrown out."""
        for _ in range(_OPEN_ATTEMPTS):
            with suppress(FileNotFoundError):
                file = (self.folder / entry.name).open("rb", buffering=0)
                os.utime(file.fileno())  # the time of the last read is what decides who goes
                return file
            self._stopped.clear()
            future, mine = self._begin(entry)
            if mine:
                self._run(entry, future)
            with suppress(_AbandonedError):
                future.result()
        raise DataError(
            f"{self.folder / entry.name} was thrown out {_OPEN_ATTEMPTS} times before it could be opened: the cache is too "
            "small for all who share it; give data.shard_cache.megabytes more"
        )

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        """Begin to fetch those of `entries` that are not here, the first ones first, as many at once as are allowed."""
        self._stopped.clear()
        for entry in entries:
            with self._lock:
                if len(self._running) >= self.config.prefetch_shards:
                    return
            if (self.folder / entry.name).exists():
                continue
            future, mine = self._begin(entry)
            if mine:
                # A daemon: a stalled server must not keep a finished process alive.
                threading.Thread(
                    target=self._run_ahead, args=(entry, future), daemon=True, name=f"fetch {entry.name}"
                ).start()

    def stop(self) -> None:
        """End what is fetched ahead, at its next block."""
        self._stopped.set()

    def _begin(self, entry: ShardEntry) -> tuple[Future[None], bool]:
        """What tells when the shard is here, and whether the caller is the one to fetch it."""
        with self._lock:
            future = self._running.get(entry.name)
            if future is not None:
                return future, False
            future = self._running[entry.name] = Future()
            return future, True

    def _run(self, entry: ShardEntry, future: Future[None], ahead: bool = False) -> None:
        try:
            self._fetch(entry, ahead)
        except BaseException as error:
            self._end(entry)
            future.set_exception(error)
            return
        self._end(entry)
        future.set_result(None)

    def _run_ahead(self, entry: ShardEntry, future: Future[None]) -> None:
        self._run(entry, future, ahead=True)
        error = future.exception()
        if error is not None and not self._stopped.is_set():
            log.warning("could not fetch a shard ahead of its use: %s", error)

    def _end(self, entry: ShardEntry) -> None:
        with self._lock:
            del self._running[entry.name]

    def _fetch(self, entry: ShardEntry, ahead: bool) -> None:
        path = self.folder / entry.name
        with locked(self.folder / f".{entry.name}.fetch") as partial:
            if path.exists():  # another process was faster
                return
            try:
                self._make_room(entry, partial)
                self._download(entry, partial, ahead)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DataError(
                        f"no space left to fetch {path}; make room, or set data.shard_cache to another folder or fewer megabytes"
                    ) from None
                raise
            os.replace(self.folder / f".{entry.name}.fetch", path)
            with self._lock:
                self.fetched += 1

    def _download(self, entry: ShardEntry, partial: BinaryIO, ahead: bool) -> None:
        for _ in range(_FETCHES):
            partial.seek(0)
            digest = hashlib.sha256()
            for block in self.remote.blocks(entry.name, entry.size):
                if ahead and self._stopped.is_set():
                    raise _AbandonedError
                digest.update(block)
                partial.write(block)
            partial.flush()
            os.fsync(partial.fileno())
            if digest.hexdigest() == entry.sha256:
                return
            log.warning("%s: not the bytes of its manifest", self.remote.where(entry.name))
        raise DataError(
            f"{self.remote.where(entry.name)}: its {entry.size} bytes have SHA-256 {digest.hexdigest()[:16]}..., dataset.json "
            f"says {entry.sha256[:16]}...; upload this shard again, or the whole dataset if it was made anew"
        )

    def _make_room(self, entry: ShardEntry, partial: BinaryIO) -> None:
        """Throw out what was read longest ago until `entry` fits, and keep its place by the length of `partial`."""
        allowed = self.config.megabytes << 20
        if entry.size > allowed:
            raise DataError(
                f"{self.remote.where(entry.name)} has {entry.size} bytes, data.shard_cache.megabytes allows {allowed}: give more"
            )
        root = self.folder.parent
        partial.truncate(0)
        with locked(root / ".room"):
            total = sum(map(_reserved, root.glob("*/.*.fetch")))
            shards = sorted(_sizes(root.glob("*/*.tar")))
            total += sum(size for _, size, _ in shards)
            for _, size, path in shards:
                if total + entry.size <= allowed:
                    break
                path.unlink(missing_ok=True)
                total -= size
            partial.truncate(entry.size)


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, ours alone among all threads and processes; gone afterwards, unless it was renamed."""
    while True:
        file = path.open("a+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, path):
            break
        file.close()  # whom we waited for renamed or removed it
    try:
        with path.open("r+b") as writable:  # "a" would write at the end whatever seek says
            yield writable
    finally:
        if _is_at(file, path):
            path.unlink(missing_ok=True)
        file.close()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _reserved(path: Path) -> int:
    """The bytes that a fetch in progress will take; 0 for what a killed process left, which is removed."""
    try:
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return os.fstat(file.fileno()).st_size
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    return 0


def _sizes(paths: Iterable[Path]) -> Iterator[tuple[int, int, Path]]:
    """(time of the last read, bytes, path) of those that are still there."""
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            yield status.st_mtime_ns, status.st_size, path
