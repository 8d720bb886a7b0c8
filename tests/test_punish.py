"""The punisher: what it counts, whom it kills, and what a training loses to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import punish
from launch.entry import StageError
from launch.processes import introduce, introduced
from launch.punish import Rows, Training
from tests.idle import busy_share, holds_where_idle
from tests.waiting import wait_for

HERE = Path(__file__).parent.parent
PATIENCE = 400.0  # seconds, on a machine that does much else
SMOKE = str(HERE / "configs" / "smoke" / "vae.yaml")
TWO = ["loop.num_steps=100000", "loop.sample_every=0", "resources.num_workers=2"]
# As long as a step of a larger model, without its work: the undisturbed run is then made in no time.
SLOW_STEPS = "loop.step=sleep:0.25@1+"


# --- counting and killing --------------------------------------------------------------------------------------------


def test_a_step_that_was_done_twice_counts_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "seconds_per_step": 100.0}\n')  # of an earlier run
    rows = Rows(path)
    assert rows.read() == 0
    done = [(2, 1.0), (3, 2.0), (4, 3.0), (3, 5.0), (4, 7.0), (5, 11.0)]
    text = "".join(json.dumps({"step": step, "seconds_per_step": seconds}) + "\n" for step, seconds in done)
    for end in range(len(text) + 1):  # a reader may come at any byte
        path.write_text('{"step": 1, "seconds_per_step": 100.0}\n' + text[:end])
        assert rows.read() == text[:end].count("\n")
    assert rows.kept == {2: 1.0, 3: 5.0, 4: 7.0, 5: 11.0}
    assert rows.useful_seconds() == 24.0
    assert (rows.count, rows.last_step, rows.steps_since(3)) == (6, 5, [3, 4, 5])


def sleeper(folder: Path, rank: int) -> "subprocess.Popen[bytes]":
    """A process that says that it is `rank` and then does nothing."""
    lines = ["import pathlib, time", "from launch.processes import introduce"]
    lines += [f"introduce(pathlib.Path({str(folder)!r}), {rank})", "time.sleep(600)"]
    return subprocess.Popen([sys.executable, "-c", "; ".join(lines)], cwd=HERE)


def test_it_finds_the_living_and_kills_no_stranger(tmp_path: Path):
    introduce(tmp_path, 3)
    child = sleeper(tmp_path, 1)
    wait_for(lambda: len(introduced(tmp_path)) == 2, "two that live", PATIENCE)
    victim, own = introduced(tmp_path)
    assert [(p.rank, p.process) for p in (victim, own)] == [(1, child.pid), (3, os.getpid())]
    stranger = replace(victim, started=victim.started + 1)  # the number was given to another process since
    assert not stranger.kill()
    assert not replace(victim, host="elsewhere").kill()
    assert child.poll() is None
    assert victim.kill()
    wait_for(lambda: introduced(tmp_path) == [own], "one that lives", PATIENCE)  # its corpse counts as dead
    assert child.wait() == -signal.SIGKILL
    assert not victim.kill()


PROGRAM = """
import time
with open({path!r}, "a") as file:
    file.write("x")
if len(open({path!r}).read()) == 3:
    raise SystemExit({code})
time.sleep(600)
"""


def killed_twice(code: int, folder: Path) -> Training:
    """A command that is killed at its first and second start, and ends with `code` at its third."""
    starts = folder / "starts"
    with Training(
        [sys.executable, "-c", PROGRAM.format(path=str(starts), code=code)], folder / "log", True
    ) as training:
        for attempt in (1, 2):
            training.wait(lambda so_far=attempt: starts.exists() and len(starts.read_text()) == so_far, PATIENCE)
            training._process.kill()
        training.wait(lambda: False, PATIENCE)
    return training


def test_a_killed_command_is_given_again_and_one_that_fails_is_not(tmp_path: Path):
    (tmp_path / "ends").mkdir()
    assert killed_twice(0, tmp_path / "ends").ended
    with pytest.raises(StageError, match=r"the run failed \(exit code 3\); its words are in .*log"):
        killed_twice(3, tmp_path)


def test_what_cannot_be_punished_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for words, arguments in {
        "a record stage, which does not train": [str(HERE / "configs" / "smoke" / "record.yaml")],
        "must be above 0": [SMOKE, "--mean-seconds", "0"],
    }.items():
        assert punish.main([*arguments, "--root", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err


# --- a training on Ray -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def prompt_workers() -> Iterator[None]:
    """Ray's own workers have niceness 15: they wait for whatever else there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "smoke"
    command = [sys.executable, "-m", "launch.run", SMOKE.replace("vae", "record"), "--local", "--root", str(folder)]
    subprocess.run(command, cwd=HERE, check=True)
    return folder / "recordings"


def recorded_root(folder: Path, recordings: Path) -> Path:
    """A root in `folder` in which only the training is still to be done."""
    root = folder / "smoke"
    root.mkdir()
    (root / "recordings").symlink_to(recordings)
    return root


@pytest.fixture
def root(recordings: Path, tmp_path: Path) -> Path:
    return recorded_root(tmp_path, recordings)


def punished(root: Path, *arguments: str) -> dict[str, Any]:
    assert punish.main([SMOKE, *TWO, *arguments, "--root", str(root)]) == 0
    return dict(json.loads((root / "vae" / "punish.json").read_text()))


def losses(root: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (root / "vae" / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def undisturbed(root: Path, num_steps: int) -> dict[int, float]:
    """The losses of the first `num_steps` steps of the same run, which nobody touches."""
    command = [sys.executable, "-m", "launch.run", SMOKE, *TWO, "loop.log_every=1", "--root", str(root)]
    command += ["loop.save_every=1000000"]  # what is saved changes no loss
    rows = Rows(root / "vae" / "metrics.jsonl")
    with Training(command, root / "log", again=False) as training:
        training.wait(lambda: rows.read() >= num_steps, PATIENCE)
    return losses(root)


@pytest.fixture(scope="module")
def twenty(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is said of a training that lost twenty workers."""
    busy = busy_share()
    root = recorded_root(tmp_path_factory.mktemp("twenty"), recordings)
    wants = ["loop.save_every=10", "--kills", "20", "--mean-seconds", "2", "--minutes", "120"]
    return punished(root, *wants) | {"busy": busy}


@pytest.mark.case("L-01")
@pytest.mark.slow
@pytest.mark.alone
def test_twenty_killed_workers_are_replaced(twenty: dict[str, Any]):
    """What is lost at most is the interval since the last checkpoint, and the one whose checkpoint was being written."""
    assert len(twenty["kills"]) == 20
    assert {kill["rank"] for kill in twenty["kills"]} == {0, 1}
    assert max(kill["lost_steps"] for kill in twenty["kills"]) <= 2 * 10


@pytest.mark.case("L-01")
@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_worker_is_replaced_within_twenty_seconds(twenty: dict[str, Any]):
    holds_where_idle(twenty["median_recovery_seconds"] <= 20, twenty["busy"])


@pytest.fixture(scope="module")
def five_minutes(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is said of a training that loses a worker a minute, and its losses."""
    busy = busy_share()
    root = recorded_root(tmp_path_factory.mktemp("five-minutes"), recordings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WM_FAILPOINTS", SLOW_STEPS)
        report = punished(root, "loop.save_every=20", "--mean-seconds", "60", "--minutes", "5")
    return report | {"busy": busy, "losses": losses(root)}


@pytest.mark.slow
@pytest.mark.alone
def test_steps_after_the_last_kill_count(root: Path) -> None:
    """Nobody is killed here, so all that was done until the end was useful."""
    report = punished(root, "--local", "--mean-seconds", "1e9", "--minutes", "0.1")
    assert report["kills"] == []
    assert report["steps"] > 5
    assert 0 <= len(losses(root)) - report["steps"] <= 3  # it took some more until it was told to stop
    assert report["goodput"] > 0.7


@pytest.mark.case("T-16")
@pytest.mark.slow
@pytest.mark.alone
def test_five_minutes_with_a_kill_a_minute_give_the_undisturbed_losses(five_minutes: dict[str, Any], root: Path):
    assert len(five_minutes["kills"]) >= 3
    assert five_minutes["wall_seconds"] >= 300
    expected, found = undisturbed(root, five_minutes["steps"]), five_minutes["losses"]
    shared = found.keys() & expected.keys()
    assert len(shared) >= five_minutes["steps"]
    assert {step: found[step] for step in shared} == {step: expected[step] for step in shared}


@pytest.mark.case("T-16")
@pytest.mark.slow
@pytest.mark.alone
def test_five_minutes_with_a_kill_a_minute_lose_less_than_a_third(five_minutes: dict[str, Any]):
    holds_where_idle(five_minutes["goodput"] >= 0.7, five_minutes["busy"])


@pytest.mark.case("L-06")
@pytest.mark.slow
def test_an_error_of_our_own_is_not_tried_again(root: Path, tmp_path: Path):
    command = [sys.executable, "-m", "launch.run", SMOKE, *TWO, "resources.max_failures=5", "--root", str(root)]
    environment = os.environ | {"WM_FAILPOINTS": "learner.gradients=raise@3"}
    ended = subprocess.run(command, cwd=HERE, env=environment, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    assert "failpoint learner.gradients" in ended.stderr
    assert (root / "vae" / "log-0.txt").read_text().count("starts at step 0") == 1
