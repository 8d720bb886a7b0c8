"""Checkpoints written beside the training: of the moment of the call, whole before the folder is free, errors told."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from test_loop import LineStage, open_batches, rows, start, stop_after
from torch import nn

from tools import bench_saving
from wm.batch import Batch
from wm.engine import checkpoint, failpoints, saving
from wm.engine.commit import Keep
from wm.engine.host_memory import HostMemory
from wm.engine.loop import LoopConfig, run
from wm.engine.protocols import Metrics, Part
from wm.engine.saving import Saver
from wm.engine.world import World
from wm.stages.frozen import FrozenModule

WORLD = World.single()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def tensors(path: Path) -> dict[str, Any]:
    """The bytes of every tensor and the metadata; not of the file, whose header has no fixed order."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()} | file.metadata()  # noqa: SIM118


def saver(root: Path, beside: bool = True, heard: Any = None) -> Saver:
    return Saver(root, WORLD, {}, Keep(9), beside, heard)


def steps_of(stage: LineStage, first: int, last: int) -> None:
    for batch, _ in itertools.islice(open_batches(4 * first), last - first):
        stage.step(batch)


def held_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The failpoints' action `hold` waits for this event, however long the test takes to come to it; Fault where it does not."""
    event = threading.Event()

    def hold(name: str, path: Path | None) -> None:
        if not event.wait(60):
            raise failpoints.Fault(f"{name}: nothing came of what was waited for")

    monkeypatch.setitem(failpoints.ACTIONS, "hold", hold)
    return event


@pytest.mark.case("C-08")
def test_what_is_written_is_of_the_moment_of_the_call(tmp_path: Path, monkeypatch):
    """The writer is held back while the training changes weights, moments, average and counters many times."""
    stage = LineStage(40)
    steps_of(stage, 0, 5)
    saver(tmp_path / "now", beside=False).save(5, stage.parts(), {"step": 5})
    changed = held_back(monkeypatch)
    failpoints.arm("checkpoint.part=hold")
    beside = saver(tmp_path / "beside")
    beside.save(5, stage.parts(), {"step": 5})
    steps_of(stage, 5, 25)
    assert not (tmp_path / "beside/step-5").exists()
    changed.set()
    beside.settle(wait=True)
    name = "step-5/model/rank-00000.safetensors"
    assert tensors(tmp_path / "now" / name) == tensors(tmp_path / "beside" / name)
    beside.save(25, stage.parts(), {"step": 25})  # into the same host memory
    beside.settle(wait=True)
    again = LineStage(40)
    checkpoint.load(tmp_path / "beside/step-25", again.parts(), WORLD)
    for name, tensor in stage.learner.weights().items():
        assert torch.equal(again.learner.weights()[name], tensor)
    saver(tmp_path / "now", beside=False).save(25, again.parts(), {"step": 25})
    name = "step-25/model/rank-00000.safetensors"
    assert tensors(tmp_path / "now" / name) == tensors(tmp_path / "beside" / name)


def test_host_memory_is_kept_and_follows_shapes():
    memory, one = HostMemory(), torch.randn(3, 5)
    first = memory.copy({"a": one, "b": torch.arange(4)})
    assert torch.equal(first["a"], one)
    place = first["a"].data_ptr()
    one.add_(1)
    assert not torch.equal(first["a"], one)
    second = memory.copy({"a": one.t(), "b": torch.arange(4)})
    assert torch.equal(second["a"], one.t())
    assert memory.copy({"a": one})["a"].data_ptr() != place
    assert second["b"].data_ptr() == first["b"].data_ptr()


def test_room_that_was_made_before_is_what_the_first_copy_fills():
    memory, tensors = HostMemory(), {"a": torch.randn(3, 5), "b": torch.arange(4)}
    memory.make(tensors)
    copies = memory.copy(tensors)
    assert all(torch.equal(copies[name], tensor) for name, tensor in tensors.items())
    places = {name: copy.data_ptr() for name, copy in copies.items()}
    memory.make({"a": torch.empty(3, 5)})  # what is there in time is used, whoever made it
    assert memory.copy(tensors)["b"].data_ptr() == places["b"]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.case("C-19")
def test_saving_blocks_for_less_than_a_fifth_of_a_naive_save(tmp_path: Path):
    found = bench_saving.measure(int(30e6), rounds=3, folder=tmp_path, device="cpu")
    assert found["blocked_to_naive"] < 0.2
    assert found["first_blocked_to_naive"] < 0.2


@pytest.mark.case("C-08")
def test_a_run_that_saves_beside_ends_at_the_bits_of_one_that_does_not(tmp_path: Path):
    ends = [start(tmp_path / str(beside), async_save=beside) for beside in (False, True)]
    assert ends[0]["final"] == ends[1]["final"]
    for step in (9, 12):
        name = f"checkpoints/step-{step}/model/rank-00000.safetensors"
        assert tensors(tmp_path / "False" / name) == tensors(tmp_path / "True" / name)
    for folder in (tmp_path / "False", tmp_path / "True"):
        assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-9", "step-12"}
    start(tmp_path / "parts", should_stop=stop_after(7))
    assert start(tmp_path / "parts", async_save=False)["final"] == ends[0]["final"]  # and may be changed on the way


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch):
    """The checkpoint of step 4 is held back until the training is in its seventh step."""
    went_on = held_back(monkeypatch)
    failpoints.arm("checkpoint.part=hold")
    began: list[float] = []

    class Timed(LineStage):
        def step(self, batch: Batch) -> Metrics:
            began.append(time.monotonic())
            if batch.step == 6:
                assert not (tmp_path / "checkpoints/step-4").exists()
                went_on.set()
            return super().step(batch)

    heard: list[int] = []
    settings = LoopConfig(num_steps=8, log_every=1, save_every=4)
    run(Timed(8), open_batches, settings, tmp_path, WORLD, {}, on_checkpoint=lambda step, _: heard.append(step))
    assert heard == [4, 8]
    assert rows(tmp_path)[6]["save_seconds"] < began[4] - began[3]  # what kept the training alone


@pytest.mark.case("C-09")
def test_one_at_a_time_and_the_next_waits(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(saving, "NOTED_SECONDS", 0.1)
    waits = threading.Event()

    class Waiting(Saver):
        def settle(self, wait: bool = False) -> None:
            if wait:
                waits.set()
            super().settle(wait)

    def late(name: str, path: Path | None) -> None:
        assert waits.wait(60)
        time.sleep(0.3)  # of which none is over before the next save waits

    monkeypatch.setitem(failpoints.ACTIONS, "late", late)
    failpoints.arm("checkpoint.part=late@1+")
    stage, beside = LineStage(9), Waiting(tmp_path, WORLD, {}, Keep(9), True)
    for step in (1, 2):
        beside.save(step, stage.parts(), {"step": step})
    assert (beside.saved_step, beside.blocked_seconds > 0.2) == (1, True)
    assert "the save of step 2 waited " in caplog.text
    beside.save_last(3, stage.parts(), {"step": 3}, attempts=1)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-3", "step-2", "step-1"]


@pytest.mark.case("C-05", "C-06")
@pytest.mark.parametrize("action", ["enospc", "eio", "erofs", "raise"])
def test_errors_of_the_writer_surface_and_leave_nothing(action: str, tmp_path: Path, caplog):
    for place in ("begin", "part", "file", "manifest"):
        root = tmp_path / place
        failpoints.arm(f"checkpoint.{place}={action}")
        stage, beside = LineStage(9), saver(root)
        beside.save(1, stage.parts(), {"step": 1})
        beside.settle(wait=True)
        assert (beside.failed_saves, beside.saved_step) == (1, -1)
        assert not root.exists() or list(root.iterdir()) == []
        beside.save(2, stage.parts(), {"step": 2})
        beside.settle(wait=True)
        assert (beside.failed_saves, beside.saved_step) == (0, 2)
    assert caplog.text.count("no checkpoint at step 1 (rank 0:") == 4


def test_an_error_that_is_no_failing_disk_ends_the_run(tmp_path: Path):
    failpoints.arm("checkpoint.published=raise")
    with pytest.raises(failpoints.Fault, match=r"checkpoint\.published"):
        start(tmp_path)


@pytest.mark.case("C-09")
def test_a_run_that_breaks_off_leaves_its_folder_when_the_writer_is_done(tmp_path: Path, monkeypatch):
    outcomes: list[Future[saving.Written]] = []
    begin = saving._in_thread
    monkeypatch.setattr(saving, "_in_thread", lambda work: outcomes.append(begin(work)) or outcomes[-1])

    class Breaking(LineStage):
        def step(self, batch: Batch) -> Metrics:
            if batch.step == 4:
                raise KeyboardInterrupt
            return super().step(batch)

    failpoints.arm("checkpoint.part=sleep:0.4")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, stage=Breaking(12))
    assert [outcome.done() for outcome in outcomes] == [True]  # the thread may still have to end
    assert checkpoint.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-3"


@pytest.mark.case("C-05")
def test_the_last_save_is_tried_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(saving, "PAUSE_SECONDS", 0.01)
    failpoints.arm("checkpoint.manifest=eio@2,checkpoint.part=enospc@3")
    parts: dict[str, Part] = dict(LineStage(9).parts())
    beside = saver(tmp_path)
    beside.save_last(1, parts, {"step": 1}, attempts=1)
    beside.save_last(2, parts, {"step": 2}, attempts=3)
    assert json.loads((tmp_path / "step-2/manifest.json").read_text())["body"]["step"] == 2


def test_a_frozen_network_is_written_as_it_was_when_it_was_asked(tmp_path: Path):
    stage = LineStage(9)
    frozen, empty = (FrozenModule(nn.Sequential(nn.Linear(3, 5), nn.Dropout(), nn.Linear(5, 3))) for _ in range(2))
    frozen.copy_from(stage.learner)
    expected = {name: tensor.clone() for name, tensor in frozen.module.state_dict().items()}
    held = frozen.snapshot()
    steps_of(stage, 0, 3)
    frozen.copy_from(stage.learner)
    held.save(tmp_path)
    empty.snapshot().save(tmp_path)
    again = FrozenModule(nn.Sequential(nn.Linear(3, 5), nn.Dropout(), nn.Linear(5, 3)))
    again.load(tmp_path)
    for name, tensor in again.module.state_dict().items():
        assert torch.equal(tensor, expected[name])
        assert not torch.equal(tensor, frozen.module.state_dict()[name])
    frozen.snapshot().save(tmp_path)
    again.load(tmp_path)
    assert torch.equal(again.module[0].weight, frozen.module[0].weight)
