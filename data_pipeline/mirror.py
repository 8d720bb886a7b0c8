"""A folder that stands for a dataset at an address: manifest and indexes are here, shards come when they are read.

Whatever reads datasets reads a mirror too: `Dataset.open` finds the address in `remote.json` beside the manifest.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from data_pipeline.patience import Patience, RetryConfig
from data_pipeline.remote import RemoteFolder, is_address
from data_pipeline.schema import DataError, DatasetManifest, ShardEntry
from data_pipeline.shard_cache import ShardCacheConfig, locked
from data_pipeline.shards import MANIFEST, REMOTE, parse_manifest, remote_folder
from data_pipeline.tar_index import index_path, load_index
from wm.config import to_dict
from wm.durable import write_text

_INDEXES_AT_ONCE = 8
_SLUG = 60  # characters of an address that the name of its folder keeps


def located(
    root: Path, name: str, cache: ShardCacheConfig = ShardCacheConfig(), retries: RetryConfig = RetryConfig()
) -> Path:
    """The folder of the dataset `name`: one under `root`, or the mirror of the address that it is, brought up to date."""
    return mirrored(name, root / cache.folder, cache, retries) if is_address(name) else root / name


def mirror_folder(root: Path, name: str, cache: ShardCacheConfig) -> Path:
    """Where the mirror of the address `name` is, or would be."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name)[:_SLUG].strip("-")
    return root / cache.folder / f"{slug}-{hashlib.sha256(name.rstrip('/').encode()).hexdigest()[:8]}"


def mirrored(address: str, folder: Path, cache: ShardCacheConfig, retries: RetryConfig = RetryConfig()) -> Path:
    """The mirror of `address` among those in `folder`, as the address is now; shards that changed there are forgotten."""
    place = mirror_folder(folder, address, ShardCacheConfig(folder="."))
    remote = remote_folder(address, cache, Patience(retries))
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / ".mirror"):
        text = remote.read(MANIFEST).decode(errors="replace")
        manifest = parse_manifest(text, remote.where(MANIFEST))
        description = json.dumps({"address": remote.address, "cache": to_dict(cache)}, indent=1)
        if _text(place / REMOTE) != description:
            write_text(place / REMOTE, description)
        if _text(place / MANIFEST) != text:
            _renew(place, manifest, remote)
            write_text(place / MANIFEST, text)  # last: a mirror with a manifest has its indexes
    return place


def _renew(place: Path, manifest: DatasetManifest, remote: RemoteFolder) -> None:
    """Keep what is still as the manifest says, remove the rest, and fetch the indexes that are missing."""
    (place / MANIFEST).unlink(missing_ok=True)
    names = {entry.name for entry in manifest.shards}
    for shard in place.glob("*.tar"):
        if shard.name not in names:
            shard.unlink(missing_ok=True)
    with ThreadPoolExecutor(_INDEXES_AT_ONCE, thread_name_prefix="indexes") as pool:
        for _ in pool.map(partial(_renew_index, place, remote), manifest.shards):
            pass


def _renew_index(place: Path, remote: RemoteFolder, entry: ShardEntry) -> None:
    shard = place / entry.name
    if _fits(shard, entry):
        return
    shard.unlink(missing_ok=True)
    data = remote.read(index_path(shard).name)
    write_text(index_path(shard), data.decode(errors="replace"))
    if not _fits(shard, entry):
        raise DataError(
            f"{remote.where(index_path(shard).name)} is not an index of the shard that {MANIFEST} there names; make it again "
            "where the dataset was written, with: python -m tools.inspect_shards FOLDER --index, and upload it"
        )


def _fits(shard: Path, entry: ShardEntry) -> bool:
    """Whether the index of `shard` is here and is that of `entry`."""
    try:
        return load_index(shard)[0] == entry
    except DataError:
        return False


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
