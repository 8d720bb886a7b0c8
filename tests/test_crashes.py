"""The crash matrix: wherever a run dies, the next start goes on from the newest checkpoint and ends at the same bits."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import crash_run
import pytest
from crash_run import NUM_STEPS, SAVE_EVERY
from safetensors import safe_open

from wm.engine.failpoints import POINTS

SERVER = multiprocessing.get_context("forkserver")
# What takes long to import, also that which torch imports for its first optimizer.
SERVER.set_forkserver_preload(["torch", "torch._dynamo", "torch.utils.tensorboard", "wm.engine.loop", "crash_run"])


def start(folder: Path, world_size: int = 1, armed: str = "", beside: bool = False) -> list[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        SERVER.Process(target=crash_run.attempt, args=(folder, rank, world_size, port, armed, beside))
        for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    return workers


def finish(workers: list[Any], seconds: float = 120.0) -> list[int]:
    """Exit codes; once one has died the others get ten seconds, as a launcher gives them."""
    deadline = time.monotonic() + seconds
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        if any(worker.exitcode not in (None, 0) for worker in workers):
            deadline = min(deadline, time.monotonic() + 10)
        time.sleep(0.02)
    for worker in workers:
        worker.kill()
        worker.join()
    return [worker.exitcode for worker in workers]


def newest(folder: Path) -> int:
    """The step of the newest checkpoint whose files are those of its manifest, found without the code under test; else 0."""
    best = 0
    for path in (folder / "checkpoints").glob("step-*"):
        if path.name.removeprefix("step-").isdigit():
            files = json.loads((path / "manifest.json").read_text())["body"]["files"]
            if all(hashlib.sha256((path / n).read_bytes()).hexdigest() == e["sha256"] for n, e in files.items()):
                best = max(best, int(path.name.removeprefix("step-")))
    return best


def seen(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    path = folder / f"seen-{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def end(folder: Path, world_size: int) -> dict[str, Any]:
    """Weights, moments, average and counters bit for bit, where the data is, and what every step saw and lost."""
    checkpoint = folder / f"checkpoints/step-{NUM_STEPS}"
    rows = {(rank, row["step"]): (row["ids"], row["loss"]) for rank in range(world_size) for row in seen(folder, rank)}
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "tensors": tensors(checkpoint / "model/rank-00000.safetensors"),
        "cursor": json.loads((checkpoint / "manifest.json").read_text())["body"]["state"]["cursor"],
        "rows": rows,
        "losses": {row["step"]: row["loss"] for row in logged},
    }


def tensors(path: Path) -> dict[str, Any]:
    """The bytes of every tensor and the metadata; not of the file, whose header has no fixed order."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()} | file.metadata()  # noqa: SIM118


class Golden(dict[int, dict[str, Any]]):
    """The end of an undisturbed run by world size, made when it is first asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def __missing__(self, world_size: int) -> dict[str, Any]:
        folder = self._folder / str(world_size)
        assert finish(start(folder, world_size)) == [0] * world_size
        self[world_size] = end(folder, world_size)
        return self[world_size]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return Golden(tmp_path_factory.mktemp("golden"))


def go_on(folder: Path, world_size: int, golden: Golden, beside: bool = False) -> int:
    """Start again as it is; returns the step where the run went on, having held it to its laws.

    At most one interval is lost; where checkpoints are written beside the training, the one being written too.
    """
    expected, before = newest(folder), seen(folder)
    reached = max((row["step"] + 1 for row in before), default=0)
    finished = (folder / "result.json").exists()
    assert finish(start(folder, world_size, beside=beside)) == [0] * world_size
    after = seen(folder)[len(before) :]
    began = after[0]["step"] if after else NUM_STEPS
    assert finished or began == expected
    assert reached - began <= (2 if beside else 1) * SAVE_EVERY
    assert end(folder, world_size) == golden[world_size]
    return began


@pytest.mark.case("T-01")
def test_killed_three_times_it_ends_at_the_same_bits(tmp_path: Path, golden):
    began = 0
    for step in (7, 19, 33):
        assert finish(start(tmp_path, armed=f"loop.stepped=kill@{step - began}")) == [-signal.SIGKILL]
        assert seen(tmp_path)[-1]["step"] == step - 1
        began = step // SAVE_EVERY * SAVE_EVERY
        assert newest(tmp_path) == began
    assert go_on(tmp_path, 1, golden) == 32


@pytest.mark.case("C-01")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.publish", "checkpoint.renamed"])
def test_killed_around_the_rename(name: str, tmp_path: Path, golden):
    assert finish(start(tmp_path, armed=f"{name}=kill@3")) == [-signal.SIGKILL]
    assert go_on(tmp_path, 1, golden) == (8 if name == "checkpoint.publish" else 12)


@pytest.mark.case("C-02")
@pytest.mark.slow
def test_a_checkpoint_that_waits_for_a_rank_is_not_visible(tmp_path: Path, golden):
    """Rank 1 is two seconds late with its part of the second checkpoint; rank 0 has written its own, and dies."""
    assert finish(start(tmp_path, 2, "checkpoint.part/1=sleep:2@2,checkpoint.written/0=kill@2"))[0] == -signal.SIGKILL
    assert newest(tmp_path) == 4
    assert go_on(tmp_path, 2, golden) == 4


@pytest.mark.case("C-03")
@pytest.mark.slow
def test_a_corrupted_newest_gives_way_and_is_left_behind(tmp_path: Path, golden):
    """The run goes back by one more interval; the damaged one is replaced when the run comes by."""
    armed = "checkpoint.published=corrupt@4,loop.stepped=kill@18"
    assert finish(start(tmp_path, armed=armed)) == [-signal.SIGKILL]
    assert newest(tmp_path) == 12
    assert finish(start(tmp_path)) == [0]
    assert seen(tmp_path)[18]["step"] == 12
    assert end(tmp_path, 1) == golden[1]


@pytest.mark.case("C-05", "C-06")
@pytest.mark.parametrize("action", ["enospc", "eio", "erofs"])
@pytest.mark.slow
def test_a_failing_disk_costs_checkpoints_and_not_the_run(action: str, tmp_path: Path, golden):
    for name in ("checkpoint.begin", "checkpoint.part", "checkpoint.file", "checkpoint.manifest", "checkpoint.renamed"):
        folder = tmp_path / name
        assert finish(start(folder, armed=f"{name}={action}@3,metrics.row={action}@5")) == [0], name
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert max(row["failed_saves"] for row in rows) == 1, name
        assert rows[-1]["failed_saves"] == 0
        assert end(folder, 1)["tensors"] == golden[1]["tensors"]
        assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-36", "step-40"}


@pytest.mark.case("C-01", "C-07", "C-09")
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", POINTS)
def test_killed_at_every_failpoint_on_every_rank(name: str, beside: bool, rank: int, tmp_path: Path, golden):
    armed = f"{name}/{rank}=kill@{1 if name in ('loop.resumed', 'loop.finish') else 3}"
    codes = finish(start(tmp_path, 2, armed, beside))
    if codes == [0, 0]:  # only rank 0 comes by some
        assert rank == 1
        assert "(rank 0)" in POINTS[name] or name in ("metrics.row", "checkpoint.file")
        return
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] != 0
    go_on(tmp_path, 2, golden, beside)


@pytest.mark.case("T-12")
@pytest.mark.slow
def test_an_exception_on_one_rank_ends_both(tmp_path: Path, golden):
    assert finish(start(tmp_path, 2, "learner.gradients/1=raise@10")).count(0) == 0
    assert go_on(tmp_path, 2, golden) == 8


@pytest.mark.case("C-01", "C-09")
@pytest.mark.slow
@pytest.mark.parametrize(("beside", "wanted"), [(False, 200), (True, 40)])
def test_killed_at_random_moments(beside: bool, wanted: int, tmp_path: Path, golden):
    """Kills over as many runs as that takes; each start finds the newest checkpoint with no hand laid on."""
    generator = random.Random(0)
    kills, runs, fruitless = 0, 0, 0
    while kills < wanted:
        runs += 1
        folder = tmp_path / str(runs)
        while not (folder / "result.json").exists():
            expected, before = newest(folder) if folder.exists() else 0, seen(folder)
            (worker,) = start(folder, armed="loop.step=sleep:0.01@1+", beside=beside)
            time.sleep(generator.uniform(0.1, 0.6) * (1 + fruitless))
            if worker.is_alive():
                os.kill(worker.pid, signal.SIGKILL)
                kills += 1
            worker.join()
            after = seen(folder)[len(before) :]
            fruitless = 0 if newest(folder) > expected else fruitless + 1  # a loaded machine may need longer
            assert not after or after[0]["step"] == expected
            lost = max((row["step"] + 1 for row in seen(folder)), default=0) - newest(folder)
            assert lost <= (2 if beside else 1) * SAVE_EVERY
        assert end(folder, 1) == golden[1]


@pytest.mark.case("T-10")
@pytest.mark.slow
def test_told_to_stop_on_one_rank_at_random_moments_all_save_at_the_same_step(tmp_path: Path, golden):
    """Fifty signals over as many runs as that takes; no step is done twice."""
    generator = random.Random(1)
    told, runs = 0, 0
    while told < 50:
        runs += 1
        folder = tmp_path / str(runs)
        while not (folder / "result.json").exists():
            before = len(seen(folder))
            workers = start(folder, 2, "loop.step=sleep:0.01@1+")
            while len(seen(folder)) == before and all(worker.is_alive() for worker in workers):
                time.sleep(0.005)  # a signal before the first step ends a run as it ends any program
            time.sleep(generator.uniform(0, 0.2))
            told += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[generator.randrange(2)].pid, signal.SIGTERM)
            assert set(finish(workers)) <= {
                0,
                -signal.SIGTERM,
            }  # the second: told in its last moment, when it had ended
            done = [[row["step"] for row in seen(folder, rank)] for rank in range(2)]
            assert done[0] == done[1] == list(range(newest(folder)))
        assert end(folder, 2) == golden[2]
