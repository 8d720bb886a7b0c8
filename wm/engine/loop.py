"""The run: resume, step, log, sample, save, stop, finish. Knows steps and folders; losses, models, optimizers not.

Steps are optimizer steps: one call of `stage.step`. A run that is started again with the same folder goes on where its
newest checkpoint was, bit for bit.
"""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm.config import config, dump
from wm.durable import write_text
from wm.engine import checkpoint, failpoints, phases
from wm.engine.commit import Keep
from wm.engine.drift import refuse_drift
from wm.engine.lock import locked
from wm.engine.metrics import MetricsLog
from wm.engine.protocols import Metrics, OnCheckpoint, OpenBatches, Part, Stage
from wm.engine.saving import LAST_ATTEMPTS, Saver
from wm.engine.signals import stop_signals
from wm.engine.stragglers import Stragglers
from wm.engine.update import Diverged
from wm.engine.world import World

logger = logging.getLogger(__name__)

MAX_ROLLBACKS = 3  # without a new checkpoint in between


@config
class LoopConfig:
    """How long a run is and how often it does what. Intervals are in steps; 0 is never."""

    num_steps: int
    log_every: int = 10
    save_every: int = 500  # the end is always saved
    sample_every: int = 0
    keep_last: int = 2  # checkpoints that stay
    keep_every: int = 0  # those at a multiple of so many steps stay too
    async_save: bool = True  # write them beside the training, from a copy in host memory

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps {self.num_steps} must be at least 1")
        if min(self.log_every, self.save_every, self.sample_every, self.keep_every) < 0 or self.keep_last < 1:
            raise ValueError("log_, save_, sample_ and keep_every must not be negative; keep_last must be at least 1")
        if self.keep_every and (not self.save_every or self.keep_every % self.save_every):
            raise ValueError(
                f"keep_every {self.keep_every} must be a multiple of save_every {self.save_every}: only what was saved can stay"
            )


def run(
    stage: Stage,
    open_batches: OpenBatches,
    config: LoopConfig,
    folder: Path,
    world: World,
    config_tree: Mapping[str, Any],
    on_checkpoint: OnCheckpoint | None = None,
    should_stop: Callable[[], bool] | None = None,
    allow_changes: Sequence[str] = (),
    trust_checkpoint: bool = False,
) -> dict[str, Any]:
    """What result.json says, with `stopped` True where the run ended early (then nothing is written, and it can go on).

    `trust_checkpoint` goes on from another user's files too.

    Raises ConfigError when the checkpoint was made under another config, CheckpointError when the folder is in use, no
    checkpoint is intact or ours, or the end cannot be saved, FloatingPointError when training diverged and going back to
    the last checkpoint and past the data since did not help.
    """
    with locked(folder, world) as still_ours:
        result = world.broadcast_object(_read_result(folder))
        if result is not None:
            logger.info("finished before at step %d; nothing to do", result["step"])
            return result
        with stop_signals() as stopped:
            progress = _Progress(stage, config, folder, world, config_tree, still_ours, on_checkpoint, trust_checkpoint)
            with closing(progress):
                progress.resume(allow_changes)
                progress.train(open_batches, lambda: stopped.is_set() or (should_stop is not None and should_stop()))
                return progress.end()


class _Progress:
    """One run from its newest checkpoint to its end."""

    def __init__(
        self,
        stage: Stage,
        config: LoopConfig,
        folder: Path,
        world: World,
        config_tree: Mapping[str, Any],
        still_ours: Callable[[], None],
        on_checkpoint: OnCheckpoint | None,
        trust: bool,
    ):
        self._stage, self._config, self._folder, self._world = stage, config, folder, world
        # As the manifest gives it back: lists, no tuples.
        self._tree: dict[str, Any] = json.loads(json.dumps(config_tree))
        self._root, self._trust, self._still_ours = folder / "checkpoints", trust, still_ours
        keep = Keep(config.keep_last, config.keep_every)
        self._saver = Saver(self._root, world, self._tree, keep, config.async_save, on_checkpoint)
        self._step, self._cursor = 0, 0
        self._stragglers = Stragglers(world)
        self._rollbacks, self._rollbacks_in_a_row, self._rolled_back_to = 0, 0, -1
        self._owes_save = False
        self._seconds_before, self._started_at = 0.0, time.monotonic()
        self._logged_step, self._logged_at = 0, time.monotonic()
        self._skipped = 0.0
        self._stopped = False

    def resume(self, allow_changes: Sequence[str]) -> None:
        """Take up the newest intact checkpoint; from scratch where there is none."""
        intact = checkpoint.newest_intact(self._root, self._world, self._trust)
        if intact is not None:
            path, manifest = intact
            refuse_drift(manifest["config"], self._tree, path, allow_changes)
            state = self._load(path, manifest)
            self._cursor, self._seconds_before = state["cursor"], state["seconds"]
            self._rollbacks = state.get("rollbacks", 0)
        self._open_log()
        self._write_config()
        logger.info("resumed from step %d" if self._step else "starts at step %d", self._step)
        failpoints.reach("loop.resumed")

    def close(self) -> None:
        """What is being written becomes whole before another process may have the folder."""
        self._saver.close()

    def train(self, open_batches: OpenBatches, stop: Callable[[], bool]) -> None:
        """Step until the end or until any rank wants to stop; go back where training diverged."""
        self._started_at = self._logged_at = time.monotonic()
        if self._config.save_every:
            self._saver.make_room(self._stage.parts())
        while self._step < self._config.num_steps and not self._stopped:
            try:
                self._steps(open_batches, stop)
            except Diverged as error:
                self._roll_back(error)

    def _steps(self, open_batches: OpenBatches, stop: Callable[[], bool]) -> None:
        phases.enter("data", self._step)
        for batch, cursor in open_batches(self._cursor):
            phases.enter("forward", self._step)
            phases.precisely(self._world.device.type == "cuda" and self._logs(self._step + 1))
            failpoints.reach("loop.step")
            self._cursor = cursor
            # Draws that are not keyed by sample (dropout) follow the step, so that a resumed run repeats them.
            torch.manual_seed(self._step * self._world.world_size + self._world.rank)
            # After a rollback the stream is ahead of the steps; what a stage does at a step follows the steps.
            metrics = self._stage.step(dataclasses.replace(batch, step=self._step))
            self._step += 1
            phases.enter("log", self._step)
            failpoints.reach("loop.stepped")
            self._saver.settle()
            self._still_ours()
            skipped = self._log_metrics(metrics)
            if self._due(self._config.sample_every):
                phases.enter("sample")
                with torch.no_grad():
                    self._log.pictures(self._step, self._stage.sample(batch))
            self._stopped = self._world.any(stop())
            ends = self._stopped or self._step == self._config.num_steps
            self._owes_save |= self._due(self._config.save_every)
            # Not among skipped steps: the checkpoint that training goes back to should be from before the trouble.
            phases.enter("save")
            if ends:
                self._saver.save_last(*self._saved(), attempts=1 if self._stopped else LAST_ATTEMPTS)
                return
            if self._owes_save and not skipped:
                self._owes_save = False
                self._saver.save(*self._saved())
            phases.enter("data")
        raise RuntimeError(f"the batches ended at step {self._step} of {self._config.num_steps}; they must not end")

    def _roll_back(self, error: Diverged) -> None:
        """Go back to the last checkpoint and on with the data after what was seen since (PaLM, Chowdhery et al. 2022).

        Raises `error` where there is no checkpoint or going back did not help before.
        """
        self._saver.settle(wait=True)
        intact = checkpoint.newest_intact(self._root, self._world, self._trust)
        if intact is None:
            raise error
        if self._saver.saved_step != self._rolled_back_to:
            self._rollbacks_in_a_row = 0
        if self._rollbacks_in_a_row == MAX_ROLLBACKS:
            raise FloatingPointError(
                f"training diverged again after {MAX_ROLLBACKS} returns to {intact[0].name}, each past other data: {error}"
            ) from error
        failed_at = self._step
        self._load(*intact)
        self._rolled_back_to = self._step
        self._rollbacks, self._rollbacks_in_a_row = self._rollbacks + 1, self._rollbacks_in_a_row + 1
        self._owes_save = False
        self._log.close()
        self._open_log()
        logger.warning(
            "diverged at step %d: back to step %d, and past the data of %d steps to sample %d",
            failed_at, self._step, failed_at + 1 - self._step, self._cursor,
        )  # fmt: skip

    def _load(self, path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        state = checkpoint.load(path, self._stage.parts(), self._world, verified=manifest)
        self._step = self._saver.saved_step = self._logged_step = state["step"]
        self._skipped = state.get("skipped", 0.0)
        return state

    def _open_log(self) -> None:
        self._log = MetricsLog(self._folder, self._world, first_step=self._step + 1 if self._step else 0)

    def end(self) -> dict[str, Any]:
        """Finish the stage and write result.json; only say so where the run stopped early."""
        unfinished = self._step < self._config.num_steps
        result: dict[str, Any] = {"step": self._step, "seconds": self._seconds(), "stopped": unfinished}
        if unfinished:
            logger.info("stopped at step %d", self._step)
        else:
            phases.enter("finish")
            failpoints.reach("loop.finish")
            result |= self._stage.finish(self._folder)
            self._world.barrier()
            if self._world.rank == 0:
                _write_result(self._folder, result)
            logger.info("finished at step %d", self._step)
        self._log.close()
        return result

    def _write_config(self) -> None:
        try:
            if self._world.rank == 0:
                dump(self._tree, self._folder / "config.yaml")
        except OSError as error:  # every manifest has it too
            logger.warning("%s cannot be written (%s); training goes on", self._folder / "config.yaml", error)

    def _logs(self, step: int) -> bool:
        every = self._config.log_every
        return step in (1, self._config.num_steps) or (every > 0 and step % every == 0)

    def _due(self, every: int) -> bool:
        return every > 0 and self._step % every == 0

    def _log_metrics(self, metrics: Metrics) -> bool:
        """Log where it is due; whether the step was skipped."""
        skipped = _skipped(metrics)
        news = skipped > self._skipped  # a row of its own: a skip must be found at the step where it happened
        self._skipped = skipped
        if not (news or self._logs(self._step)):
            return False
        means = self._world.mean_metrics(metrics)
        now = time.monotonic()
        rate = (now - self._logged_at) / max(1, self._step - self._logged_step)
        self._logged_step, self._logged_at = self._step, now
        clock = {
            "seconds": self._seconds(), "seconds_per_step": rate, "save_seconds": self._saver.blocked_seconds,
            "straggler_seconds": self._stragglers.look(),
        }  # fmt: skip
        alarms = {
            "failed_saves": self._saver.failed_saves, "failed_deletions": self._saver.failed_deletions,
            "unsaved_steps": self._step - max(0, self._saver.saved_step), "rollbacks": self._rollbacks,
            "skipped": self._skipped,
        }  # fmt: skip
        self._log.log(self._step, {**clock, **{name: float(count) for name, count in alarms.items()}, **means})
        return news

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started_at

    def _saved(self) -> tuple[int, Mapping[str, Part], dict[str, Any]]:
        """What a checkpoint of this step holds."""
        state = {
            "step": self._step, "cursor": self._cursor, "seconds": self._seconds(), "rollbacks": self._rollbacks,
            "skipped": self._skipped,
        }  # fmt: skip
        return self._step, self._stage.parts(), state


def _skipped(metrics: Metrics) -> float:
    """How many steps were skipped, over all learners of the stage."""
    values = [value for name, value in metrics.items() if name.endswith("skipped_steps")]
    return sum(value.item() if isinstance(value, Tensor) else value for value in values)


def _read_result(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    return dict(json.loads(path.read_text())) if path.exists() else None


def _write_result(folder: Path, result: Mapping[str, Any]) -> None:
    write_text(folder / "result.json", json.dumps(_plain(result), indent=1))


def _plain(value: Any) -> Any:
    """`value` as JSON has it; numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
