"""Datasets made by many tasks, one shard each: what is done already, what is left, and the notes that tell.

A task writes its shard, then a note beside it with the hash of what it was asked. A task asked again finds its note and
does nothing, so tasks may be retried and a killed stage goes on where it was.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from launch.resources import Resources

NOTES = ".notes"


class MapTasks(Protocol):
    """`function(*arguments)` for each of `tasks`, in their order, by whatever runs tasks here."""

    def __call__(
        self,
        function: Callable[..., dict[str, Any]],
        tasks: Sequence[tuple[Any, ...]],
        resources: Resources,
        on_done: Callable[[int], None],
    ) -> list[dict[str, Any]]: ...


def map_here(
    function: Callable[..., dict[str, Any]],
    tasks: Sequence[tuple[Any, ...]],
    resources: Resources,
    on_done: Callable[[int], None],
) -> list[dict[str, Any]]:
    """MapTasks in this process, one after another."""
    results = []
    for arguments in tasks:
        results.append(function(*arguments))
        on_done(len(results))
    return results


def work_hash(*values: Any) -> str:
    """Sixteen hexadecimal digits of what a task was asked."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def noted(folder: Path, name: str, work: str) -> dict[str, Any] | None:
    """What the task that wrote shard `name` answered, if it was asked the same `work` and the shard is still there."""
    try:
        note = json.loads((folder / NOTES / f"{name}.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    answer: dict[str, Any] = note["answer"]
    shard = folder / name
    same = note["work"] == work and shard.exists() and shard.stat().st_size == answer["entry"]["size"]
    return answer if same else None


def taken_over(places: Sequence[Path], folder: Path, name: str, work: str) -> dict[str, Any] | None:
    """What was answered to the same `work` for the dataset in one of `places`; its shard is now in `folder` too."""
    for place in places:
        answer = noted(place, name, work)
        if answer is None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in (f"{name}.index.json", name):  # the index first: whoever sees the tar can read it
            partial = folder / f".{file}.{os.getpid()}.partial"
            _link_or_copy(place / file, partial)
            partial.replace(folder / file)
        return note(folder, name, work, answer)
    return None


def _link_or_copy(source: Path, target: Path) -> None:
    """Shards are replaced and never written into, so that one file may stand in two folders."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(source, target)


def note(folder: Path, name: str, work: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Write down, in one rename, that shard `name` is whole; returns `answer`."""
    (folder / NOTES).mkdir(parents=True, exist_ok=True)
    path = folder / NOTES / f"{name}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"work": work, "answer": answer}))
    partial.replace(path)
    return answer


def forget_notes(folder: Path, names: Sequence[str]) -> None:
    """After the manifest is written: the notes, and shards of an earlier and longer attempt that it does not name."""
    forget_strangers(folder, names)
    shutil.rmtree(folder / NOTES, ignore_errors=True)


def forget_strangers(folder: Path, names: Sequence[str]) -> None:
    """Shards of an earlier and longer attempt, with their notes: all that are not among `names`."""
    for stale in folder.glob("*.tar"):
        if stale.name not in names:
            stale.unlink()
            stale.with_name(f"{stale.name}.index.json").unlink(missing_ok=True)
            (folder / NOTES / f"{stale.name}.json").unlink(missing_ok=True)
