"""Clips shared among processes: the loss and the gradients of one process to float32's rounding, and the same noise."""

import dataclasses
import json
from typing import Any

import pytest
import sequence_worker
import torch
from gloo_ranks import run_ranks

from data_pipeline.loader import DataConfig
from launch.run_config import RunConfig
from wm.config import ConfigError
from wm.engine.loop import LoopConfig
from wm.flow import draw_noise
from wm.stages.encode_latents import EncodeLatentsConfig
from wm.stages.train_dit import TrainDiTConfig


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two gloo processes found."""
    folder = tmp_path_factory.mktemp("sequence")
    outputs = run_ranks(sequence_worker.__file__, [str(folder)], 2, seconds=900)
    paths = [folder / f"results-{rank}.json" for rank in range(2)]
    assert all(path.exists() for path in paths), "\n".join(outputs)
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("case", sequence_worker.CASES)
def test_loss_and_gradients_are_those_of_one_process(results: list[dict[str, Any]], case: str) -> None:
    for found in (result[case] for result in results):
        alone, shared = found["losses"]
        assert shared == pytest.approx(alone, rel=1e-5)
        assert found["gradients"][0] == found["gradients"][1]
        assert found["apart"] < 2e-6
        assert found["silent"] < len(found["gradients"][0]) / 4
    assert results[0][case]["losses"][1] == results[1][case]["losses"][1]


def run(**changes: Any) -> RunConfig:
    data = DataConfig(folder="latents", clip_frames=8, global_batch_size=4)
    return RunConfig(**{"stage": TrainDiTConfig(), "data": data, "loop": LoopConfig(num_steps=1), **changes})


def test_workers_that_share_clips_read_the_same_and_draw_the_same_noise() -> None:
    shared = run(sequence_parallel=2)
    places = [shared.data_place(rank, 8) for rank in range(8)]
    assert places == [(rank // 2, 4) for rank in range(8)]
    assert shared.share(8) == 1
    assert run().data_place(3, 8) == (3, 8)
    drawn = [
        draw_noise((2, 3), 5, 0, torch.arange(place, 4, size), torch.device("cpu")) for place, size in places
    ]  # a rank's part of the stream is every size-th sample from its place on
    for rank, noise in enumerate(drawn):
        for other, another in enumerate(drawn):
            assert torch.equal(noise, another) == (rank // 2 == other // 2)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="sequence_parallel 3 does not divide 4 workers"):
        run(sequence_parallel=3).data_place(0, 4)
    with pytest.raises(ConfigError, match="encode_latents has no clips to share"):
        dataclasses.replace(run(stage=EncodeLatentsConfig()), sequence_parallel=2).data_place(0, 4)
