"""Checkpoints that are whole or absent: find, verify and read them. `commit.py` writes them.

A folder `step-N` holds a folder a part and a manifest: every file's size and SHA-256, under a checksum of its own. Which
checkpoint is the latest is computed from the manifests, never from a pointer file.
"""

import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from wm.engine.ownership import foreign
from wm.engine.protocols import Part
from wm.engine.world import World

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or trusted; the message names the file."""


def checkpoints(root: Path) -> list[Path]:
    """Folders with a valid manifest whose files are all there at their size, newest first."""
    return [path for path in published(root) if fault(path) is None]


def published(root: Path) -> list[Path]:
    """Folders that were renamed into place, newest first, whatever happened to them since."""
    found = [(int(match[1]), path) for path in root.glob("step-*") if (match := re.fullmatch(r"step-(\d+)", path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def fault(folder: Path) -> str | None:
    """What is wrong with the manifest or with a file's size; None where nothing is. Contents are not read."""
    try:
        for name, entry in manifest(folder)["files"].items():
            size = (folder / name).stat().st_size
            if size != entry["size"]:
                return f"{folder / name} has {size} bytes; its manifest says {entry['size']}"
    except (CheckpointError, OSError) as error:
        return str(error)
    return None


def latest(root: Path) -> Path | None:
    """The newest of `checkpoints`; None where there is none. Checksums are compared when it is loaded."""
    return next(iter(checkpoints(root)), None)


def manifest(folder: Path) -> dict[str, Any]:
    """What `folder` says of itself: step, state, config, files, world_size, versions. CheckpointError when damaged."""
    path = folder / MANIFEST
    try:
        tree = json.loads(path.read_bytes())
        body, stated = tree["body"], tree["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is unreadable ({error})") from None
    if stated != seal(body):
        raise CheckpointError(f"{path} is damaged: its checksum differs")
    if body["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {body['format_version']}; this program reads format {FORMAT_VERSION}")
    return dict(body)


def verify(folder: Path, world: World) -> dict[str, Any]:
    """The manifest, once every file's SHA-256 was compared (ranks share the work); CheckpointError names the file."""
    body = _by_rank_0(world, lambda: manifest(folder))
    expected = {name: entry["sha256"] for name, entry in body["files"].items()}
    found = hash_files(folder, world)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise CheckpointError(f"{folder / name} is missing")
        if name not in expected:
            # A reader takes what lies in a part's folder, so a file that nobody vouches for would be loaded.
            raise CheckpointError(f"{folder / name} is not in the manifest; remove it or the checkpoint")
        if found[name]["sha256"] != expected[name]:
            raise CheckpointError(f"{folder / name} is damaged: its SHA-256 differs from the manifest's")
    return body


def load(
    folder: Path,
    parts: Mapping[str, Part],
    world: World,
    verified: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """The state that was saved, with every part loaded. Nothing is loaded unless all checksums and part names agree.

    `verified` is the manifest where `newest_intact` just compared the checksums. `trust` loads another user's files too.
    """
    if verified is None and not trust:
        refuse_foreign(folder, world)
    body = verify(folder, world) if verified is None else verified
    stored = set(body["parts"])
    if stored != set(parts):
        raise CheckpointError(f"{folder} holds the parts {sorted(stored)}; this run has {sorted(parts)}")
    for name, part in parts.items():
        on_every_rank(world, functools.partial(part.load, folder / name))
    return dict(body["state"])


def refuse_foreign(folder: Path, world: World) -> None:
    """CheckpointError where a file of the checkpoint belongs to another user."""

    def refuse() -> None:
        names = [MANIFEST, *(str(path.relative_to(folder)) for path in folder.rglob("*"))]
        stranger = foreign(folder, names)
        if stranger is not None:
            raise CheckpointError(f"{stranger}, not to who runs this; --trust-checkpoint loads it if you trust them")

    _by_rank_0(world, refuse)


def newest_intact(root: Path, world: World, trust: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose checksums hold and its manifest; older ones take the place of damaged ones.

    None where nothing was ever saved; CheckpointError where something was and nothing is intact, or where it is another
    user's and not to be trusted: no older one takes its place then.
    """
    names = world.broadcast_object([path.name for path in published(root)])
    for name in names:
        if not trust:
            refuse_foreign(root / name, world)
        try:
            return root / name, verify(root / name, world)
        except CheckpointError as error:
            logger.warning("%s; falling back to the checkpoint before it", error)
    if names:
        raise CheckpointError(f"no checkpoint in {root} is intact ({', '.join(names)}); remove them to start anew")
    return None


def on_every_rank(world: World, action: Callable[[], None]) -> None:
    """Run `action` on every rank; CheckpointError on all when it failed on one, so that no rank goes on alone."""
    message = None
    try:
        action()
    except (OSError, ValueError, RuntimeError) as error:
        message = f"rank {world.rank}: {error}"
    failures = [m for m in world.gather_objects(message) if m is not None]
    if failures:
        raise CheckpointError("; ".join(failures))


def _by_rank_0(world: World, action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, or its CheckpointError, on every rank: a listing may be late on the others."""
    value, message = None, None
    if world.rank == 0:
        try:
            value = action()
        except CheckpointError as error:
            message = str(error)
    value, message = world.broadcast_object((value, message))
    if message is not None:
        raise CheckpointError(message)
    return cast(T, value)


def hash_files(folder: Path, world: World) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file but the manifest, each read by one rank, known to all."""
    names = world.broadcast_object(
        [str(path.relative_to(folder)) for path in files_of(folder) if path.name != MANIFEST]
    )
    own: dict[str, dict[str, Any]] = {}
    failure = None
    for name in names[world.rank :: world.world_size]:
        try:
            with open(folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                own[name] = {"size": os.fstat(file.fileno()).st_size, "sha256": digest}
        except OSError as error:
            failure = f"{folder / name}: {error}"
    results = world.gather_objects((own, failure))
    failures = [message for _, message in results if message is not None]
    if failures:
        raise CheckpointError("; ".join(failures))
    return {name: entry for files, _ in results for name, entry in files.items()}


def files_of(folder: Path) -> list[Path]:
    """All but hidden ones, which file systems make for themselves (.nfs*) and no part reads."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def seal(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    from wm.engine.checkpoint_command import main

    raise SystemExit(main())
