"""When a run saves: beside the training, from a copy of what is saved, or here and now. A failure costs no run.

A thread writes, with collectives of its own (`World.apart`); the training thread copies, goes on, and hears of the end at
a later step, on all ranks at the same one. At most one checkpoint is being written at a time.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from wm.engine import commit, failpoints
from wm.engine.checkpoint import CheckpointError, on_every_rank
from wm.engine.commit import Keep
from wm.engine.protocols import OnCheckpoint, Part, Snapshot
from wm.engine.world import World

logger = logging.getLogger(__name__)

LAST_ATTEMPTS = 3  # at the save that ends a run
PAUSE_SECONDS = 2.0  # between them
WRITE_SECONDS = 1800.0  # until a rank that waits for the others' files gives up
NOTED_SECONDS = 1.0  # of waiting for the checkpoint before
LEAVE_SECONDS = 60.0  # for a checkpoint that is being written when the run breaks off


class Written(NamedTuple):
    path: Path
    trouble: str | None  # why older ones could not be deleted


class Saver:
    """Saves the parts of one run into `root`, `step-N` each, and counts what went wrong. Every rank calls everything."""

    def __init__(
        self,
        root: Path,
        world: World,
        config_tree: Mapping[str, Any],
        keep: Keep,
        beside: bool,
        on_checkpoint: OnCheckpoint | None = None,
    ):
        self._root, self._world, self._tree, self._keep = root, world, config_tree, keep
        self._on_checkpoint = on_checkpoint
        self._writers = world.apart(WRITE_SECONDS) if beside else world
        self._beside = beside
        self._pending: tuple[int, Future[Written]] | None = None
        self.saved_step = -1  # of the newest whole checkpoint of this run
        self.failed_saves, self.failed_deletions = 0, 0  # in a row
        self.blocked_seconds = 0.0  # that the last save kept the training waiting

    def make_room(self, parts: Mapping[str, Part]) -> None:
        """Begin to make what saving beside the training needs."""
        for part in parts.values() if self._beside else ():
            part.make_room()

    def save(self, step: int, parts: Mapping[str, Part], state: Mapping[str, Any]) -> None:
        """Save `step`. A failure is logged and counted, and training goes on: an old checkpoint is better than no run."""
        start = time.monotonic()
        if self._pending is not None:
            self.settle(wait=True)
            if (waited := time.monotonic() - start) > NOTED_SECONDS:
                logger.warning(
                    "the save of step %d waited %.1f s for the one before; a longer save_every would not", step, waited
                )
        if step != self.saved_step:
            try:
                self._begin(step, parts, state)
            except CheckpointError as error:
                self._failed(step, error)
        self.blocked_seconds = time.monotonic() - start

    def save_last(self, step: int, parts: Mapping[str, Part], state: Mapping[str, Any], attempts: int) -> None:
        """Save `step` and return when it is whole; CheckpointError when the last of several `attempts` failed too."""
        self.settle(wait=True)
        for attempt in range(1, attempts + 1):
            if step == self.saved_step:
                return
            try:
                self._succeeded(step, self._write(step, parts, state, self._world))
            except CheckpointError as error:
                self._failed(step, error, "the run ends")
                if attempt == attempts > 1:
                    raise CheckpointError(
                        f"the end, step {step}, could not be saved in {attempts} attempts: {error}. Make room and give the "
                        "same command again, it goes on where it was"
                    ) from None
                time.sleep(PAUSE_SECONDS if attempt < attempts else 0)

    def settle(self, wait: bool = False) -> None:
        """Take notice of a checkpoint that is written on all ranks; with `wait`, once it is."""
        if self._pending is None:
            return
        step, written = self._pending
        if not wait and self._world.any(not written.done()):
            return
        self._pending = None
        try:
            self._succeeded(step, written.result())
        except CheckpointError as error:
            self._failed(step, error)

    def close(self) -> None:
        """Let a checkpoint that is being written become whole: for a run that breaks off, which others may not know."""
        if self._pending is not None:
            step, written = self._pending
            try:
                written.exception(timeout=LEAVE_SECONDS)
            except TimeoutError:
                logger.warning("step %d was not written within %g s; left behind", step, LEAVE_SECONDS)

    def _begin(self, step: int, parts: Mapping[str, Part], state: Mapping[str, Any]) -> None:
        if not self._beside:
            self._succeeded(step, self._write(step, parts, state, self._world))
            return
        snapshots: dict[str, Snapshot] = {}
        on_every_rank(self._world, lambda: snapshots.update({name: part.snapshot() for name, part in parts.items()}))
        written = _in_thread(lambda: self._write(step, snapshots, state, self._writers))
        self._pending = (step, written)

    def _write(self, step: int, parts: Mapping[str, Snapshot], state: Mapping[str, Any], world: World) -> Written:
        path = commit.save(self._root, step, parts, state, world, self._tree)
        files = [file for file in path.rglob("*") if file.is_file()]
        failpoints.reach("checkpoint.published", max(files, key=lambda file: file.stat().st_size))
        return Written(path, commit.retain(self._root, self._keep, world, saved=step))

    def _succeeded(self, step: int, written: Written) -> None:
        self.failed_saves, self.saved_step = 0, step
        self.failed_deletions = 0 if written.trouble is None else self.failed_deletions + 1
        if written.trouble is not None:
            logger.warning("older checkpoints stay: they cannot be deleted (%s)", written.trouble)
        logger.info("checkpoint step %d", step)
        if self._on_checkpoint is not None:
            self._on_checkpoint(step, written.path)

    def _failed(self, step: int, error: CheckpointError, then: str = "training goes on") -> None:
        self.failed_saves += 1
        logger.warning(
            "no checkpoint at step %d (%s); failed saves in a row: %d; %s", step, error, self.failed_saves, then
        )


def _in_thread(work: Callable[[], Written]) -> "Future[Written]":
    """A daemon: one that waits for a dead rank must not keep this process from ending."""
    outcome: Future[Written] = Future()

    def fulfil() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # raised again where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=fulfil, daemon=True, name="checkpoint").start()
    return outcome
