"""Clips shared in pairs of processes, pairs with clips of their own, ZeRO over all: what one process would train."""

import json
from typing import Any

import pytest
import sequence_zero_worker
from gloo_ranks import run_ranks
from sequence_zero_worker import STEPS, B

ZERO_STAGES = ("1", "3")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What four gloo processes found, by ZeRO stage."""
    folder = tmp_path_factory.mktemp("sequence-zero")
    outputs = run_ranks(sequence_zero_worker.__file__, [str(folder), *ZERO_STAGES], 4, seconds=900)
    assert (folder / "results.json").exists(), "\n".join(outputs)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_losses_and_gradients_are_those_of_one_process(results: dict[str, Any], zero_stage: str) -> None:
    found = results[zero_stage]
    for name in ("loss", "grad_norm"):
        assert len(found["alone"][name]) == STEPS
        # The first is of equal weights; Adam then makes a step of a gradient that is but rounding.
        assert found["together"][name][0] == pytest.approx(found["alone"][name][0], rel=1e-6)
        assert found["together"][name] == pytest.approx(found["alone"][name], rel=1e-4)
    assert found["apart"] < 2e-6
    assert found["silent"] < 0.1


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_noise_is_the_same_in_a_pair_and_different_across_pairs(results: dict[str, Any], zero_stage: str) -> None:
    pairs = results[zero_stage]["together"]["seen"]
    assert pairs[0] == pairs[1]
    assert pairs[2] == pairs[3]
    assert len(set(pairs[0]) | set(pairs[2])) == B * STEPS
    # The clips and noise of the first step are those that one process alone sees.
    first = [*pairs[0][: B // 2], *pairs[2][: B // 2]]
    assert sorted(first) == sorted(results[zero_stage]["alone"]["seen"][:B])
