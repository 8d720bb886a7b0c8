"""The run as a whole: resume, refusal, signals, failing disks, an end that stays an end."""

import dataclasses
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wm.batch import Batch, Given
from wm.config import ConfigError
from wm.engine import checkpoint, lock, saving
from wm.engine.checkpoint import CheckpointError
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.loop import LoopConfig, run
from wm.engine.protocols import Metrics, Part
from wm.engine.world import World


class LineStage:
    """Learns y = 2x with dropout, so that a resume must repeat draws that are not keyed by sample."""

    def __init__(self, num_steps: int, fail_at: int = -1):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 3))
        settings = LearnerConfig(learning_rate=1e-2, warmup_steps=0, average_decay=0.9)
        self.learner = LocalLearner(module, settings, num_steps=num_steps, world=World.single())
        self.seen: list[int] = []
        self._fail_at = fail_at

    def step(self, batch: Batch) -> Metrics:
        self.seen.append(batch.step)
        bad = batch.step == self._fail_at

        def loss(part: Batch) -> tuple[Tensor, Metrics]:
            x = part.latents.reshape(-1, 3)
            error = (self.learner(x) - 2 * x).square().mean()
            return error * (float("nan") if bad else 1.0), {}

        return self.learner.update(loss, batch)

    def parts(self) -> Mapping[str, Part]:
        return {"model": self.learner}

    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"video": torch.rand(4, 3, 6, 10), "picture": torch.rand(1, 6, 10)}

    def finish(self, folder: Path) -> Mapping[str, Any]:
        return {"final": torch.cat([w.reshape(-1) for w in self.learner.weights().values()]).tolist()}


def open_batches(cursor: int) -> Iterator[tuple[Batch, int]]:
    while True:
        step = cursor // 4
        latents = torch.randn(4, 1, 1, 1, 3, generator=torch.Generator().manual_seed(step))
        ids = tuple(f"clip{step}@{i}" for i in range(4))
        cursor += 4
        yield (
            Batch(step=step, index=torch.arange(cursor - 4, cursor), given=Given(), latents=latents, sample_ids=ids),
            cursor,
        )


def start(
    folder: Path, num_steps: int = 12, stage: LineStage | None = None, rate: float = 0.5, **given: Any
) -> dict[str, Any]:
    beside = given.pop("async_save", True)
    settings = LoopConfig(
        num_steps=num_steps, log_every=1, save_every=3, sample_every=5, keep_last=2, async_save=beside
    )
    tree = {"stage": {"kind": "line", "rate": rate, "sizes": (3, 5)}, "learner": {"zero_stage": given.pop("zero", 1)}}
    return run(stage or LineStage(num_steps), open_batches, settings, folder, World.single(), tree, **given)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_after(num_steps: int):
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= num_steps


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path):
    whole = start(tmp_path / "whole")
    first = start(tmp_path / "parts", should_stop=stop_after(5))
    assert first["stopped"]
    assert first["step"] == 5
    stage = LineStage(12)
    second = start(tmp_path / "parts", stage=stage)
    assert stage.seen == list(range(5, 12))
    assert second["final"] == whole["final"]
    assert not second["stopped"]
    losses = {row["step"]: row["loss"] for row in rows(tmp_path / "whole")}
    assert losses == {row["step"]: row["loss"] for row in rows(tmp_path / "parts")}


def test_a_finished_run_does_nothing_more(tmp_path: Path):
    result = start(tmp_path)
    stage = LineStage(12)
    assert start(tmp_path, stage=stage) == result
    assert stage.seen == []
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_a_kill_loses_what_came_after_the_last_checkpoint_and_no_more(tmp_path: Path):
    whole = start(tmp_path / "whole")

    class Killed(LineStage):
        def step(self, batch: Batch) -> Metrics:
            if batch.step == 8:
                raise KeyboardInterrupt
            return super().step(batch)

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "parts", stage=Killed(12))
    stage = LineStage(12)
    assert start(tmp_path / "parts", stage=stage)["final"] == whole["final"]
    assert stage.seen[0] == 6


@pytest.mark.case("L-02")
def test_a_run_whose_folder_is_given_to_another_writes_nothing_more(tmp_path: Path):
    whole = start(tmp_path / "whole")

    class CutOff(LineStage):
        def step(self, batch: Batch) -> Metrics:
            if batch.step == 7:
                lock.revoke(tmp_path / "parts")
            return super().step(batch)

    with pytest.raises(CheckpointError, match="was given to another run"):
        start(tmp_path / "parts", stage=CutOff(12))
    assert [row["step"] for row in rows(tmp_path / "parts")] == list(range(1, 8))
    assert checkpoint.latest(tmp_path / "parts/checkpoints") == tmp_path / "parts/checkpoints/step-6"
    assert start(tmp_path / "parts")["final"] == whole["final"]


@pytest.mark.case("C-03")
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog):
    whole = start(tmp_path / "whole")
    start(tmp_path / "parts", should_stop=stop_after(8))
    path = tmp_path / "parts/checkpoints/step-8/model/rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    stage = LineStage(12)
    with caplog.at_level(logging.WARNING):
        assert start(tmp_path / "parts", stage=stage)["final"] == whole["final"]
    assert stage.seen[0] == 6
    assert "rank-00000.safetensors" in caplog.text


@pytest.mark.case("T-17")
def test_another_config_is_refused_field_by_field_unless_allowed(tmp_path: Path):
    start(tmp_path, should_stop=stop_after(4))
    with pytest.raises(ConfigError, match=r"stage\.rate: 0\.5 -> 0\.7"):
        start(tmp_path, rate=0.7)
    assert start(tmp_path, rate=0.7, zero=3, allow_changes=("stage.rate",))["step"] == 12


def test_the_zero_stage_may_change(tmp_path: Path):
    start(tmp_path, should_stop=stop_after(4))
    assert start(tmp_path, zero=3)["step"] == 12


@pytest.mark.case("T-10")
def test_sigterm_saves_and_stops(tmp_path: Path):
    class Terminated(LineStage):
        def step(self, batch: Batch) -> Metrics:
            if batch.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(batch)

    before = signal.getsignal(signal.SIGTERM)
    result = start(tmp_path, stage=Terminated(12))
    assert result["stopped"]
    assert result["step"] == 5
    assert checkpoint.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-5"
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "result.json").exists()


def test_it_runs_off_the_main_thread(tmp_path: Path):
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(start(tmp_path)))
    thread.start()
    thread.join()
    assert results[0]["step"] == 12


@pytest.mark.case("T-04")
def test_a_skipped_step_has_its_own_row(tmp_path: Path):
    settings = LoopConfig(num_steps=12, log_every=100, save_every=0)
    run(LineStage(12, fail_at=6), open_batches, settings, tmp_path, World.single(), {})
    found = {row["step"]: row["skipped_steps"] for row in rows(tmp_path)}
    assert found == {1: 0.0, 7: 1.0, 12: 1.0}


class Unwritable:
    """A part whose disk is full at the given saves."""

    def __init__(self, failing: set[int]):
        self.count, self.failing = 0, failing

    def save(self, folder: Path) -> None:
        self.count += 1
        (folder / "half").write_bytes(b"half")
        if self.count in self.failing:
            raise OSError(28, "No space left on device")

    def load(self, folder: Path) -> None:
        pass

    def make_room(self) -> None:
        pass

    def snapshot(self) -> "Unwritable":
        return self


class FullDiskStage(LineStage):
    def __init__(self, num_steps: int, failing: set[int]):
        super().__init__(num_steps)
        self.part = Unwritable(failing)

    def parts(self) -> Mapping[str, Part]:
        return {"model": self.learner, "other": self.part}


@pytest.mark.case("C-05")
def test_a_full_disk_is_survived_and_cleared(tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING):
        result = start(tmp_path, stage=FullDiskStage(12, {2, 3}), async_save=False)
    assert result["step"] == 12
    assert "No space left" in caplog.text
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-3", "step-12"}
    assert [row["failed_saves"] for row in rows(tmp_path)][6] == 1.0


@pytest.mark.case("C-05")
def test_a_disk_that_stays_full_costs_no_step_but_the_end_is_not_said_to_be_saved(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(saving, "PAUSE_SECONDS", 0.01)
    stage = FullDiskStage(30, set(range(2, 99)))
    with pytest.raises(CheckpointError, match=r"the end, step 30, could not be saved in 3 attempts: .*No space left"):
        start(tmp_path, 30, stage=stage, async_save=False)
    assert stage.seen == list(range(30))
    assert checkpoint.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-3"
    assert not (tmp_path / "result.json").exists()
    assert [row["unsaved_steps"] for row in rows(tmp_path)][-1] == 27
    assert [row["failed_saves"] for row in rows(tmp_path)][-1] == 8
    lines = [record.getMessage() for record in caplog.records if "no checkpoint at step 27" in record.getMessage()]
    assert len(lines) == 1
    assert "failed saves in a row: 8; training goes on" in lines[0]
    assert start(tmp_path, 30, stage=FullDiskStage(30, set()))["step"] == 30


def test_checkpoints_are_reported(tmp_path: Path):
    heard: list[tuple[int, str]] = []
    start(tmp_path, on_checkpoint=lambda step, path: heard.append((step, path.name)))
    assert heard == [(n, f"step-{n}") for n in (3, 6, 9, 12)]


def test_batches_that_end_are_an_error(tmp_path: Path):
    settings = LoopConfig(num_steps=3)
    batches = [next(open_batches(0))]
    with pytest.raises(RuntimeError, match="step 1 of 3"):
        run(LineStage(3), lambda _: iter(batches), settings, tmp_path, World.single(), {})


class Diverging(LineStage):
    """Its loss is NaN on the samples from `first` to before `last`, or whenever the weights were moved by them."""

    def __init__(self, num_steps: int, first: int, last: int):
        super().__init__(num_steps)
        self._bad = range(first, last)
        self.clips: list[int] = []

    def step(self, batch: Batch) -> Metrics:
        clip = int(batch.sample_ids[0].removeprefix("clip").split("@")[0])
        self.clips.append(clip)
        self._fail_at = batch.step if clip in self._bad else -1
        return super().step(batch)


@pytest.mark.case("T-05")
def test_five_bad_steps_go_back_to_the_last_checkpoint_and_past_the_data(tmp_path: Path, caplog):
    stage = Diverging(12, 7, 12)
    with caplog.at_level(logging.WARNING):
        assert start(tmp_path, stage=stage)["step"] == 12
    # 7 to 11 are bad; the save due at step 9 waits, so that step 6 is gone back to, and on with what was not seen.
    assert stage.clips == [*range(12), *range(12, 18)]
    assert stage.seen == [*range(12), *range(6, 12)]
    assert "diverged at step 11: back to step 6" in caplog.text
    assert "samples clip7@0" in caplog.text
    last = rows(tmp_path)[-1]
    assert (last["rollbacks"], last["skipped_steps"]) == (1.0, 0.0)
    assert last["loss"] is not None


@pytest.mark.case("T-05")
def test_after_three_returns_it_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(
        FloatingPointError, match=r"again after 3 returns to step-6, each past other data: 5 steps in a row"
    ):
        start(tmp_path, num_steps=40, stage=Diverging(40, 7, 1000))


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path):
    with pytest.raises(FloatingPointError, match="5 steps in a row"):
        start(tmp_path, stage=Diverging(12, 0, 1000))


@pytest.mark.case("T-06")
def test_a_loss_spike_is_skipped_once_and_training_returns(tmp_path: Path, caplog):
    """T-06: one batch scaled by 1e4, four sigma; the level of the 20 steps after is that of the run without it."""

    def losses(folder: Path, spike_at: int) -> list[float]:
        stage = LineStage(60)
        settings = LearnerConfig(learning_rate=1e-2, warmup_steps=0, average_decay=0.9, spike_sigma=4.0)
        stage.learner = LocalLearner(stage.learner.module, settings, num_steps=60, world=World.single())

        def scaled(cursor: int) -> Iterator[tuple[Batch, int]]:
            for batch, after in open_batches(cursor):
                assert batch.latents is not None
                yield (
                    (dataclasses.replace(batch, latents=batch.latents * 1e4) if batch.step == spike_at else batch),
                    after,
                )

        run(stage, scaled, LoopConfig(num_steps=60, log_every=1), folder, World.single(), {})
        return [row["loss"] for row in rows(folder)]

    calm = losses(tmp_path / "calm", -1)
    assert "skipped" not in caplog.text
    hit = losses(tmp_path / "hit", 30)
    assert rows(tmp_path / "hit")[-1]["skipped_steps"] == 1.0
    assert "step 30 skipped on all ranks, a loss far above those before it" in caplog.text
    assert hit[:30] == calm[:30]
    assert hit[30] > 1e6 * calm[30]
    assert abs(sum(hit[31:51]) - sum(calm[31:51])) < 0.05 * sum(calm[31:51])


def test_a_disk_that_cannot_delete_costs_no_run(tmp_path: Path, monkeypatch):
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    real = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: refuse(self, to) if str(to).endswith(".deleted") else real(self, to)
    )
    assert start(tmp_path, async_save=False)["step"] == 12
    assert [row["failed_deletions"] for row in rows(tmp_path)][-1] == 1.0
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


@pytest.mark.case("C-07")
def test_retention_keeps_what_was_just_saved_beside_damaged_newer_ones(tmp_path: Path):
    start(tmp_path, should_stop=stop_after(9))
    for path in (tmp_path / "checkpoints").glob("step-*"):  # 6 and 9
        file = path / "model/rank-00000.safetensors"
        if path.name == "step-9":
            file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    settings = LoopConfig(num_steps=12, log_every=1, save_every=1, keep_last=1)
    tree = json.loads(json.dumps(checkpoint.manifest(tmp_path / "checkpoints/step-6")["config"]))
    run(LineStage(12), open_batches, settings, tmp_path, World.single(), tree, should_stop=lambda: True)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-7", "step-9"}
    assert checkpoint.newest_intact(tmp_path / "checkpoints", World.single())[0].name == "step-7"


@pytest.mark.parametrize(("save_every", "keep_every"), [(0, 4), (4, 6)])
def test_what_is_never_saved_cannot_be_kept(save_every: int, keep_every: int) -> None:
    with pytest.raises(ValueError, match=f"keep_every {keep_every} must be a multiple of save_every {save_every}"):
        LoopConfig(num_steps=12, save_every=save_every, keep_every=keep_every)
