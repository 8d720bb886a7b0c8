"""A worker of a training on Ray that hangs: the watchdog ends its peers, Ray starts both again, no step is lost that was saved."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
SMOKE = HERE / "configs" / "smoke"
PATIENCE = 900.0  # seconds, on a machine that does much else
# Failpoints count the arrivals of a process: the first attempt hangs before step 7, the second one has 7 steps left.
HANGS_AT, SAVE_EVERY, NUM_STEPS = 8, 4, 11
TRAINING = [
    "resources.num_workers=2",
    f"loop.num_steps={NUM_STEPS}",
    f"loop.save_every={SAVE_EVERY}",
    "loop.async_save=false",
    "loop.log_every=1",
    "loop.sample_every=0",
    "stage.critic_start=1.0",
]


def run(name: str, root: Path, *more: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "launch.run", str(SMOKE / name), "--root", str(root), *more]
    prompt = {"RAY_worker_niceness": "0"}  # Ray's own is 15: its workers wait for whatever else there is
    environment = os.environ | prompt | environment
    return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=PATIENCE)


@dataclass(frozen=True)
class Made:
    root: Path  # with recordings and, in `alone`, a training that nothing happened to
    limit: float  # seconds for a phase of a step: half of what all of that training took, as busy as the machine is


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("root")
    recorded = run("record.yaml", root, "--local")
    assert recorded.returncode == 0, recorded.stderr
    began = time.monotonic()
    alone = run("vae.yaml", root, *TRAINING, "folder=alone")
    assert alone.returncode == 0, alone.stderr
    return Made(root, (time.monotonic() - began) / 2)


def losses(folder: Path) -> dict[int, float]:
    """By step; of a step that was done again the last."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


@pytest.mark.case("T-08")
@pytest.mark.slow
@pytest.mark.parametrize("hang", ["loop.step/0=stop", "loop.step/1=sleep:600"])
def test_the_run_goes_on_from_the_last_checkpoint(hang: str, made: Made) -> None:
    """A process that is stopped (SIGSTOP) answers nobody; of one that sleeps only the training thread hangs."""
    name = hang.translate(str.maketrans("./=:", "----"))
    wants = [*TRAINING, f"folder={name}", f"resources.timeout_seconds={made.limit:.0f}"]
    done = run("vae.yaml", made.root, *wants, WM_FAILPOINTS=f"{hang}@{HANGS_AT}")
    folder = made.root / name
    assert done.returncode == 0, done.stderr
    hung = int(hang.partition("/")[2][0])
    who = f"rank {hung} silent: stopped, dead or cut off" if "stop" in hang else f"rank {hung} on "
    assert "a worker was lost" in done.stderr
    assert "hung: " in done.stderr
    assert who in done.stderr
    log = (folder / "log-0.txt").read_text()
    assert log.count("starts at step 0") == 1
    assert f"resumed from step {SAVE_EVERY}" in log
    reported = {path.name for path in (folder / "hang").glob("rank-*.txt")}
    assert reported == {f"rank-{1 - hung}.txt"} if "stop" in hang else {"rank-0.txt", "rank-1.txt"}
    assert losses(folder) == losses(made.root / "alone")
    assert json.loads((folder / "result.json").read_text())["step"] == NUM_STEPS


@pytest.mark.case("T-08")
@pytest.mark.slow
def test_a_worker_without_peers_is_missed_by_ray(made: Made) -> None:
    """Stopped, its watchdog is stopped too; Ray misses its answers for as long as launch/cluster.py allows, here less."""
    patience = f"{made.limit:.0f}"
    wants = [*TRAINING, "folder=without-peers", "resources.num_workers=1"]
    armed = {"WM_FAILPOINTS": f"loop.step=stop@{HANGS_AT}", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": patience}
    done = run("vae.yaml", made.root, *wants, **armed)
    assert done.returncode == 0, done.stderr
    assert "a worker was lost" in done.stderr
    assert f"resumed from step {SAVE_EVERY}" in (made.root / "without-peers" / "log-0.txt").read_text()
    assert len(losses(made.root / "without-peers")) == NUM_STEPS
