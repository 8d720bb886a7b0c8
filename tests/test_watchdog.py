"""A hang, a straggler and a failure on one rank of three, each named by the others' files and by exit codes."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gloo_ranks import kept_port

from tests.waiting import wait_for
from wm.engine import failures, phases, watchdog
from wm.engine.stragglers import Loss, slowest
from wm.engine.watchdog import HUNG, Reports, verdict, watched
from wm.engine.world import World

ROOT = Path(__file__).parent.parent


def launch(folder: Path, how: str, expected: dict[int, int | None]) -> None:
    """Three processes; `expected` are exit codes by rank, None for one that does not end."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests/hang_run.py"), str(folder)]
    with kept_port() as port, open(folder / "output.txt", "w") as output:
        workers = [
            subprocess.Popen([*command, str(rank), "3", port, how], env=environment, stdout=output, stderr=output)
            for rank in range(3)
        ]
        try:
            for rank, code in expected.items():
                if code is not None:
                    assert workers[rank].wait(timeout=240) == code, (rank, (folder / "output.txt").read_text())
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


@pytest.mark.case("T-08")
@pytest.mark.slow
def test_a_rank_that_waits_for_data_is_named(tmp_path: Path):
    launch(tmp_path, "data", dict.fromkeys(range(3), HUNG))
    text = (tmp_path / "output.txt").read_text()
    assert re.search(
        r"hung: ranks 0, 2 in all_reduce at step 7; rank 1 on \S+ in no collective, \S+ s in data at step 7", text
    )
    assert "hung: ranks 0, 2 in all_reduce" in (failures.first(tmp_path) or "")
    stacks = (tmp_path / "hang/rank-1.txt").read_text()
    assert "in misbehave" in stacks
    assert json.loads(stacks.splitlines()[0])["phase"] == "data"
    assert "all_reduce" in (tmp_path / "hang/rank-2.txt").read_text()


@pytest.mark.case("T-08")
@pytest.mark.slow
def test_a_stopped_rank_is_silent(tmp_path: Path):
    launch(tmp_path, "stopped", {0: HUNG, 1: None, 2: HUNG})
    text = (tmp_path / "output.txt").read_text()
    assert "hung: ranks 0, 2 in all_reduce at step 7; rank 1 silent: stopped, dead or cut off" in text


@pytest.mark.case("T-12", "L-16")
@pytest.mark.slow
def test_the_first_failure_is_noted_and_every_line_says_whose_it_is(tmp_path: Path):
    launch(tmp_path, "raise", dict.fromkeys(range(3), 1))
    first = failures.first(tmp_path)
    assert first == (
        f"rank 1 on {socket.gethostname()} failed first, at step 7: ValueError: clip7 is no clip: its header is missing"
    )
    for rank in range(3):
        lines = (tmp_path / f"log-{rank}.txt").read_text().splitlines()
        assert len(lines) > 3
        place = re.compile(rf"[\d-]+ [\d:,]+ [A-Z]+ rank {rank} {re.escape(socket.gethostname())} step \d+ ")
        assert [line for line in lines if not place.match(line)] == []
    assert "its header is missing" in (tmp_path / "log-1.txt").read_text()


@pytest.mark.case("T-09")
@pytest.mark.slow
def test_a_slow_rank_is_named_with_its_phase(tmp_path: Path):
    launch(tmp_path, "slow", dict.fromkeys(range(3), 0))
    log = (tmp_path / "log-0.txt").read_text()
    assert re.search(
        r"WARNING rank 0 \S+ step \d+ wm.engine.stragglers: rank 1 on \S+ loses 0\.\d of \d\.\d s in data", log
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0.3 < rows[-1]["straggler_seconds"] < 1.0


def test_who_is_slowest():
    even = {"data": 1.0, "forward": 2.0, "backward": 3.0}
    assert slowest([even]).seconds == 0
    assert slowest([even, even, even]).seconds == 0
    # The others' backward is long because they wait in it: that names nobody.
    ranks = [even | {"backward": 9.0}, even | {"forward": 7.5}, even | {"backward": 9.0, "data": 1.5}]
    assert slowest(ranks) == Loss(1, "forward", 5.5)
    assert slowest([even, even | {"data": 1.25}]) == Loss(1, "data", 0.25)


def test_phases_add_up_to_the_time_that_passed():
    earliest = time.monotonic()
    phases.take()
    latest = time.monotonic()
    for phase, seconds in (("data", 0.02), ("forward", 0.03), ("data", 0.01)):
        phases.enter(phase, 5)
        time.sleep(seconds)
    phases.enter("save")
    least = time.monotonic() - latest
    taken = phases.take()
    most = time.monotonic() - earliest
    assert least - 1e-6 <= sum(taken.values()) <= most + 1e-6
    assert taken["data"] >= 0.03
    assert taken["forward"] >= 0.03
    assert (phases.where().step, phases.where().phase) == (5, "save")


def test_the_verdict_names_ranks_steps_and_collectives():
    def report(rank: int, step: int, collective: str | None) -> dict[str, object]:
        return {
            "rank": rank,
            "host": f"host{rank}",
            "step": step,
            "phase": "save",
            "seconds": 61.0,
            "collective": collective,
        }

    reports = [report(0, 4, "barrier"), report(1, 4, "all_reduce"), report(2, 4, "barrier"), report(5, 3, None)]
    assert verdict(reports, 7) == (
        "rank 1 in all_reduce at step 4; ranks 0, 2 in barrier at step 4; rank 5 on host5 in no collective, 61 s in save at "
        "step 3; ranks 3, 4, 6 silent: stopped, dead or cut off"
    )


@pytest.mark.case("L-16")
def test_the_first_failure_stays_first(tmp_path: Path):
    assert failures.first(tmp_path) is None
    failures.note(tmp_path, World.single(), 3, "ValueError: one\n  two")
    failures.note(tmp_path, World(rank=1, world_size=2), 3, "ConnectionError: lost")
    assert failures.first(tmp_path) == f"rank 0 on {socket.gethostname()} failed first, at step 3: ValueError: one two"
    failures.forget(tmp_path)
    assert failures.first(tmp_path) is None


@pytest.mark.case("T-08")
def test_progress_keeps_the_dog_quiet(tmp_path: Path, monkeypatch):
    """By a clock that only the steps move, and which the dog looks at in each of them."""
    now, looks, look = [time.monotonic()], [0], Reports.new_of_others

    def counted(reports: Reports) -> bool:
        looks[0] += 1
        return look(reports)

    monkeypatch.setattr(Reports, "new_of_others", counted)
    monkeypatch.setattr(phases, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    with watched(tmp_path, World.single(), 0.5):
        for step in range(8):
            phases.enter("forward", step)
            now[0] += 0.2  # a look that began in the step before sees no more than twice as much
            before = looks[0]
            wait_for(lambda before=before: looks[0] > before, "a look", 60)
    assert not (tmp_path / "hang").exists()
