"""A disk that really is full or read-only: a small tmpfs of its own, filled up and remounted under a run."""

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_loop import LineStage, open_batches

from tests.waiting import wait_for
from wm.batch import Batch
from wm.engine import checkpoint
from wm.engine.loop import LoopConfig, run
from wm.engine.protocols import Metrics
from wm.engine.world import World


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "wm-test", str(place)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here (needs root): {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class Disturbed(LineStage):
    """Something happens before some of its steps."""

    def __init__(self, num_steps: int, events: dict[int, Callable[[], None]]):
        super().__init__(num_steps)
        self._events = events

    def step(self, batch: Batch) -> Metrics:
        self._events.get(batch.step, lambda: None)()
        return super().step(batch)


def train(folder: Path, events: dict[int, Callable[[], None]], beside: bool) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl after 20 steps, a checkpoint every 4."""
    settings = LoopConfig(num_steps=20, log_every=1, save_every=4, async_save=beside)
    stage = Disturbed(20, events)
    assert run(stage, open_batches, settings, folder, World.single(), {})["step"] == 20
    assert stage.seen == list(range(20))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def written(act: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """`act`, once nothing is being written beside the training, which is faster than a disk."""

    def done() -> None:
        wait_for(lambda: all(thread.name != "checkpoint" for thread in threading.enumerate()), "the writer's end", 60)
        act()

    return done


@pytest.mark.case("C-05", "C-06")
@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk(beside: bool, disk: Path, caplog):
    def fill() -> None:
        # Beside the training it may still be on its way.
        wait_for((disk / "run/checkpoints/step-4").exists, "the checkpoint before", 60)
        with open(disk / "ballast", "wb") as file:
            for size in (4096, 1):  # to the last byte
                try:
                    while True:
                        os.write(file.fileno(), bytes(size))
                except OSError:
                    continue

    caplog.set_level(logging.WARNING)
    empty = written((disk / "ballast").unlink)
    rows = train(disk / "run", {5: fill, 11: written(), 14: empty, 18: written()}, beside)
    text = caplog.text
    assert "No space left on device" in text
    assert "no checkpoint at step 8" in text
    assert "no checkpoint at step 12" in text
    assert "step 16 (" not in text
    assert max(row["failed_saves"] for row in rows) == 2
    assert rows[-1]["failed_saves"] == 0
    assert checkpoint.newest_intact(disk / "run/checkpoints", World.single())[0].name == "step-20"
    assert {path.name for path in (disk / "run/checkpoints").iterdir()} == {"step-16", "step-20"}


@pytest.mark.case("C-05", "C-06")
@pytest.mark.parametrize("beside", [False, True])
def test_a_disk_that_becomes_read_only(beside: bool, disk: Path, caplog):
    """Nothing may be open for writing when it is remounted, so the lock and the logs lie elsewhere."""
    (disk / "checkpoints").mkdir()
    folder = disk.parent / "run"
    folder.mkdir()
    (folder / "checkpoints").symlink_to(disk / "checkpoints")

    def remount(how: str) -> Callable[[], None]:
        def act() -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

        return written(act)

    rows = train(folder, {6: remount("ro"), 11: written(), 14: remount("rw"), 18: written()}, beside)
    assert "Read-only file system" in caplog.text
    assert max(row["failed_saves"] for row in rows) == 2
    assert max(row["unsaved_steps"] for row in rows) >= 9
    assert rows[-1]["failed_saves"] == 0
    assert checkpoint.newest_intact(folder / "checkpoints", World.single())[0].name == "step-20"
