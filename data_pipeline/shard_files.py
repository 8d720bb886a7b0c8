"""The bytes of a dataset's shards, by place: files stay open between reads, and what fails for a moment is read again."""

import io
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from data_pipeline.patience import Patience
from data_pipeline.schema import ShardEntry
from data_pipeline.shard_cache import ShardCache

_MOST_OPEN = 64  # files; more than the shards that readers take turns in


class _KeptOpen(io.FileIO):
    """Closed when the last thread that reads it lets go of it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._status = os.fstat(self.fileno())

    def is_at(self, path: str) -> bool:
        """Whether this is still the file that has the name; FileNotFoundError where none has it."""
        return os.path.samestat(self._status, os.stat(path))

    def __del__(self) -> None:
        self.close()


class ShardFiles:
    """Reads the shards in `folder`, or those that `cache` brings there; from any thread."""

    def __init__(
        self, folder: Path, shards: Mapping[str, ShardEntry], patience: Patience, cache: ShardCache | None
    ) -> None:
        self.folder, self.shards, self.patience, self.cache = folder, shards, patience, cache
        self._files: dict[str, _KeptOpen] = {}
        self._lock = threading.Lock()

    def read(self, shard: str, start: int, size: int) -> bytes:
        """`size` bytes of the shard from `start` on, fewer where it ends; FileNotFoundError where there is none."""
        return self.patience(lambda: self._read(shard, start, size), f"{self.folder}/{shard}")

    def _read(self, shard: str, start: int, size: int) -> bytes:
        if self.cache is not None:  # a shard that was thrown out and is kept open still takes its place on the disk
            with self.cache.open(self.shards[shard]) as cached:
                return _pread(cached, start, size)
        path = f"{self.folder}/{shard}"
        try:
            file = self._files.get(shard)
            if file is None or not file.is_at(path):  # a shard that vanishes or is replaced does not go unnoticed
                file = self._open(shard, path)
            return _pread(file, start, size)
        except OSError:
            self._files.pop(shard, None)  # a network's file may be stale for ever, and whole when it is opened again
            raise

    def _open(self, shard: str, path: str) -> _KeptOpen:
        file = _KeptOpen(path)
        with self._lock:
            if len(self._files) >= _MOST_OPEN:
                self._files.pop(next(iter(self._files)))
            self._files[shard] = file
        return file


def _pread(file: BinaryIO | io.FileIO, start: int, size: int) -> bytes:
    data = os.pread(file.fileno(), size, start)
    if len(data) == size:
        return data
    parts = []
    while data:  # shorter than asked, as a network or 2 GiB make it
        parts.append(data)
        start, size = start + len(data), size - len(data)
        data = os.pread(file.fileno(), size, start)
    return b"".join(parts)
