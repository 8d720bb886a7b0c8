"""How a checkpoint becomes whole: all ranks write, all meet, one renames. And how old ones go.

All ranks write into `step-N.partial/`, sync it and meet; rank 0 then writes the manifest (checkpoint.py) and renames the
folder.
"""

import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from wm.durable import sync
from wm.engine import failpoints
from wm.engine.checkpoint import (
    FORMAT_VERSION,
    MANIFEST,
    CheckpointError,
    checkpoints,
    files_of,
    hash_files,
    on_every_rank,
    seal,
)
from wm.engine.protocols import Snapshot
from wm.engine.world import World


def save(
    root: Path,
    step: int,
    parts: Mapping[str, Snapshot],
    state: Mapping[str, Any],
    world: World,
    config_tree: Mapping[str, Any],
) -> Path:
    """The folder `root/step-N`, whole. CheckpointError on every rank when it failed on one; nothing is left then."""
    final = root / f"step-{step}"
    partial = root / f"step-{step}.partial"
    try:
        on_every_rank(world, lambda: _start(partial, world))
        on_every_rank(world, lambda: _write_parts(partial, parts))
        files = hash_files(partial, world)
        on_every_rank(world, lambda: _publish(partial, final, files, step, state, world, config_tree))
    except CheckpointError:
        if world.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        world.barrier()
        raise
    return final


class Keep(NamedTuple):
    """Which whole checkpoints stay."""

    last: int  # the newest
    every: int = 0  # and those at a multiple of so many steps; 0: no more


def retain(root: Path, keep: Keep, world: World, saved: int | None = None) -> str | None:
    """Delete the whole checkpoints that `keep` does not name, and what killed runs left behind. Other folders stay.

    `saved` is the step that was just saved, so known to be intact: it stays, and newer ones, which the run has left
    behind because they are damaged, neither count nor go. Why something could not be deleted, on every rank; else None.
    """
    message = None
    if world.rank == 0:
        try:
            _retire(root, keep, saved)
        except OSError as error:  # a disk that became read-only: an old checkpoint too many is worth no run
            message = str(error)
    return world.broadcast_object(message)


def _retire(root: Path, keep: Keep, saved: int | None) -> None:
    found = [(path, int(path.name.removeprefix("step-"))) for path in checkpoints(root)]
    settled = [(path, step) for path, step in found if saved is None or step <= saved]
    for path, step in settled[max(1, keep.last) :]:
        if keep.every and step % keep.every == 0:
            continue
        # Renamed first: killed in between, what is left is no checkpoint, instead of half of one.
        path.rename(path.with_name(f"{path.name}.deleted"))
        failpoints.reach("checkpoint.retire")
    for path in root.glob("step-*"):
        if re.fullmatch(r"step-\d+\.(partial|deleted|replaced)", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _start(partial: Path, world: World) -> None:
    if world.rank == 0:
        failpoints.reach("checkpoint.begin")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)


def _write_parts(partial: Path, parts: Mapping[str, Snapshot]) -> None:
    for name, part in parts.items():
        failpoints.reach("checkpoint.part")
        folder = partial / name
        folder.mkdir(exist_ok=True)
        part.save(folder)
    for path in files_of(partial):
        # Another rank's file may be under its temporary name and vanish; that rank syncs it.
        with suppress(FileNotFoundError):
            sync(path)
    for path in [partial, *(partial / name for name in parts)]:
        sync(path)
    failpoints.reach("checkpoint.written")


def _publish(
    partial: Path,
    final: Path,
    files: Mapping[str, Any],
    step: int,
    state: Mapping[str, Any],
    world: World,
    config_tree: Mapping[str, Any],
) -> None:
    if world.rank != 0:
        return
    body = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "state": dict(state),
        "config": dict(config_tree),
        "config_hash": seal(config_tree)[:16],
        "world_size": world.world_size,
        "parts": sorted(path.name for path in partial.iterdir()),
        "versions": _versions(),
        "files": dict(files),
    }
    failpoints.reach("checkpoint.manifest")
    path = partial / MANIFEST
    path.write_text(json.dumps({"sha256": seal(body), "body": body}, indent=1))
    sync(path)
    sync(partial)
    failpoints.reach("checkpoint.publish", path)
    if final.exists():
        # The run came by this step before: from a damaged checkpoint, or to save it once more.
        final.rename(final.with_name(f"{final.name}.replaced"))
    partial.rename(final)
    failpoints.reach("checkpoint.renamed", final / MANIFEST)
    sync(final.parent)
    shutil.rmtree(final.with_name(f"{final.name}.replaced"), ignore_errors=True)


def _versions() -> dict[str, str]:
    names = ("torch", "deepspeed", "safetensors")
    versions = {"python": platform.python_version()}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
