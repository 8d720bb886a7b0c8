"""The rendered sbatch script on a real SLURM: two nodes on this machine, trained on, pre-empted, queued again, left incomplete."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_machine import NODES, Slurm, missing_programs, slurm

from launch import render
from launch.entry import BAD_INPUT
from tests.waiting import wait_for

HERE = Path(__file__).parent.parent
SMOKE = HERE / "configs" / "smoke"
PATIENCE = 900.0  # seconds, on a machine that does much else

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"needs {', '.join(missing_programs())}: make system-deps"),
    pytest.mark.skipif(os.geteuid() != 0, reason="starts SLURM's servers, which takes root"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with recordings."""
    folder = tmp_path_factory.mktemp("root")
    command = [sys.executable, "-m", "launch.run", str(SMOKE / "record.yaml"), "--root", str(folder), "--local"]
    subprocess.run(command, cwd=HERE, check=True, capture_output=True)
    return folder


def submit(cluster: Slurm, folder: Path, root: Path, *more: str) -> str:
    """The id of the job that trains the tokenizer on both nodes; its logs are in `folder`."""
    arguments = ["slurm", str(SMOKE / "vae.yaml"), "--nodes", "2", "--gpus", "0", "--cpus", "1", "--root", str(root)]
    assert render.main([*arguments, "--out", str(folder), "--name", "training", *more]) == 0
    # Ray lets its workers wait for everybody else, which on a machine that does much is for ever.
    environment = f"--export=ALL,PYTHONPATH={HERE},RAY_worker_niceness=0"
    return cluster.run("sbatch", "--parsable", environment, "training.sbatch", cwd=folder).strip()


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


def wait_beside(cluster: Slurm, job: str, folder: Path, what: str, condition: Callable[[], bool]) -> None:
    def goes_on() -> bool:
        return cluster.facts(job)["JobState"] not in ("FAILED", "CANCELLED", "NODE_FAIL")

    wait_for(condition, what, PATIENCE, lambda: said(folder), goes_on, pause=0.5)


@pytest.mark.case("L-08")
def test_a_preempted_run_saves_is_queued_again_and_ends(cluster: Slurm, root: Path, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, root, "loop.num_steps=200", "loop.save_every=10")
    stage = root / "vae"
    wait_beside(cluster, job, tmp_path, "a checkpoint", lambda: any((stage / "checkpoints").glob("step-*[0-9]")))
    cluster.run("scancel", "--batch", "--signal=USR1", job)  # as SLURM does before the end of the time limit
    wait_beside(cluster, job, tmp_path, "a second start", lambda: cluster.facts(job)["Restarts"] == "1")
    assert "stopped at step" in said(tmp_path)
    assert not (stage / "result.json").exists()
    wait_beside(cluster, job, tmp_path, "the end", lambda: cluster.facts(job)["JobState"] == "COMPLETED")
    assert (stage / "result.json").exists()
    log = (stage / "log-0.txt").read_text()
    assert "resumed from step" in log
    assert (stage / "log-1.txt").exists()  # two ranks
    assert said(tmp_path).count(f"all 2 nodes are there: {', '.join(NODES)}") == 2
    assert list(Path("/tmp").glob(f"ray-{job}*")) == []
    assert f"ray-{job}/" not in processes()


@pytest.mark.case("L-08")
def test_a_run_that_fails_is_not_queued_again(cluster: Slurm, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, tmp_path / "empty")
    wait_for_end(cluster, job, tmp_path)
    facts = cluster.facts(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", f"{BAD_INPUT}:0", "0")
    assert "no manifest under" in said(tmp_path)


@pytest.mark.case("L-10")
def test_a_node_that_does_not_join_is_named(cluster: Slurm, root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\n[ "$SLURMD_NODENAME" = {NODES[1]} ] && exit 1\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    job = submit(cluster, tmp_path, root, "--python", str(broken), "--wait", "60")
    wait_for_end(cluster, job, tmp_path)
    facts = cluster.facts(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "1:0", "0")
    assert "1 of 2 nodes joined within" in said(tmp_path)
    assert f"missing: {NODES[1]}" in said(tmp_path)


@pytest.mark.case("L-08", "L-13")
def test_a_cancelled_run_stays_cancelled(cluster: Slurm, root: Path, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, root, "loop.num_steps=100000", "folder=other")
    wait_beside(cluster, job, tmp_path, "both nodes", lambda: "all 2 nodes are there" in said(tmp_path))
    cluster.run("scancel", job)
    wait_for_end(cluster, job, tmp_path)
    time.sleep(5)
    facts = cluster.facts(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    assert f"ray-{job}/" not in processes()


def wait_for_end(cluster: Slurm, job: str, folder: Path) -> None:
    def ended() -> bool:
        return cluster.facts(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING")

    wait_for(ended, f"the end of job {job}", PATIENCE, lambda: said(folder), pause=0.5)


def processes() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
