"""ZeroLearner at ZeRO 0 to 3 against LocalLearner, on one, two and four gloo processes (zero_worker.py)."""

import json
from pathlib import Path
from typing import Any

import pytest
import zero_worker
from gloo_ranks import run_ranks

from wm.engine.learner import LearnerConfig
from wm.engine.zero import deepspeed_config

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
        outputs = run_ranks(zero_worker.__file__, [str(folder)], world_size, seconds=480)
        for rank, output in enumerate(outputs):
            path = folder / f"results-{world_size}-{rank}.json"
            assert path.exists(), f"rank {rank} of {world_size} died:\n{output}"
            found[world_size, rank] = json.loads(path.read_text()) | {"output": output}
    return found


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


@pytest.mark.slow
@pytest.mark.case("T-02", "T-03")
def test_four_ranks(tmp_path: Path):
    for rank, output in enumerate(run_ranks(zero_worker.__file__, [str(tmp_path)], 4, seconds=480)):
        found = json.loads((tmp_path / f"results-4-{rank}.json").read_text())
        assert set(found.values()) == {"ok"}, (found, output)


def test_deepspeed_says_nothing(results):
    for found in results.values():
        ours = (" skipped on all ranks", "No space left on device")
        lines = [line for line in found["output"].splitlines() if not any(text in line for text in ours)]
        assert lines == []


@pytest.mark.parametrize("zero_stage", range(4))
def test_what_deepspeed_is_told(zero_stage: int):
    tree = deepspeed_config(LearnerConfig(precision="bfloat16", zero_stage=zero_stage, gradient_clip=0.5), 3, 1000)
    assert tree["zero_optimization"]["stage"] == zero_stage
    assert tree["zero_optimization"]["reduce_bucket_size"] == 1000
    assert tree["zero_optimization"]["reduce_scatter"] == (zero_stage == 3)
    assert tree["train_batch_size"] == 3
    assert tree["gradient_clipping"] == 0.5
    assert tree["data_types"]["grad_accum_dtype"] == ("bf16" if zero_stage == 0 else "fp32")
    assert "bf16" not in deepspeed_config(LearnerConfig(zero_stage=zero_stage), 3, 1000)
