"""ZeroLearner at ZeRO 0 to 3 against LocalLearner, on one and on two gloo processes (zero_worker.py)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zero_worker

from wm.engine.learner import LearnerConfig
from wm.engine.zero import deepspeed_config

ROOT = Path(__file__).parent.parent

# Which reliability cases (cases.py) a check proves.
PROVES = {
    "parity": ["T-02", "T-03"],
    "bfloat16_parity": ["T-02"],
    "average": ["T-07"],
    "other_stage": ["T-07", "C-11", "C-12"],
    "other_world": ["C-10"],
    "skip": ["T-04"],
    "spike": ["T-06"],
    "snapshot": ["C-08"],
    "whole_run": ["T-10", "C-05"],
}


def named(checks: tuple[zero_worker.Check, ...]) -> list[Any]:
    names = [check.__name__ for check in checks]
    return [pytest.param(name, marks=pytest.mark.case(*PROVES.get(name, ()))) for name in names]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, str]]:
    """Results by (world size, rank). Two ranks run first: one rank loads what they saved."""
    folder = tmp_path_factory.mktemp("zero")
    found = {}
    for world_size in (2, 1):
        outputs = launch(folder, world_size)
        for rank, output in enumerate(outputs):
            path = folder / f"results-{world_size}-{rank}.json"
            assert path.exists(), f"rank {rank} of {world_size} died:\n{output}"
            found[world_size, rank] = json.loads(path.read_text()) | {"output": output}
    return found


def launch(folder: Path, world_size: int) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(zero_worker.__file__)), str(folder)]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        return [worker.communicate(timeout=480)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def assert_ok(results: dict[tuple[int, int], dict[str, str]], world_size: int, name: str) -> None:
    for rank in range(world_size):
        assert results[world_size, rank][name] == "ok", results[world_size, rank][name]


@pytest.mark.parametrize("zero_stage", range(4))
@pytest.mark.parametrize("check", named(zero_worker.TWO_RANKS))
def test_two_ranks(results, check: str, zero_stage: int):
    assert_ok(results, 2, f"{check}-{zero_stage}")


@pytest.mark.parametrize("zero_stage", range(4))
@pytest.mark.parametrize("check", named(zero_worker.ONE_RANK))
def test_one_rank(results, check: str, zero_stage: int):
    assert_ok(results, 1, f"{check}-{zero_stage}")


def test_deepspeed_says_nothing(results):
    for found in results.values():
        ours = (" skipped on all ranks", "No space left on device")
        lines = [line for line in found["output"].splitlines() if not any(text in line for text in ours)]
        assert lines == []


@pytest.mark.parametrize("zero_stage", range(4))
def test_what_deepspeed_is_told(zero_stage: int):
    tree = deepspeed_config(LearnerConfig(precision="bfloat16", zero_stage=zero_stage, gradient_clip=0.5), 3)
    assert tree["zero_optimization"]["stage"] == zero_stage
    assert tree["train_batch_size"] == 3
    assert tree["gradient_clipping"] == 0.5
    assert tree["data_types"]["grad_accum_dtype"] == ("bf16" if zero_stage == 0 else "fp32")
    assert "bf16" not in deepspeed_config(LearnerConfig(zero_stage=zero_stage), 3)
