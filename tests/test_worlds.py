"""The stage files of each world fit together: what one stage leaves is what the next one asks for."""

from pathlib import Path

import pytest

from launch.pipeline import ORDER, Step, load_steps
from launch.recordings import RecordConfig
from launch.run_config import RunConfig
from launch.stage_state import inputs
from wm.stages.distill import DistillConfig
from wm.stages.evaluate import EvaluateConfig
from wm.stages.export import ExportConfig
from wm.stages.train_dit import TrainDiTConfig
from wm.stages.train_vae import TrainVAEConfig

CONFIGS = Path(__file__).parent.parent / "configs"
# Worlds that are made from recording to export; others begin with recordings that somebody brings.
WORLDS = sorted(path.parent for path in CONFIGS.glob("*/record.yaml") if (path.parent / "distill.yaml").exists())


@pytest.fixture(params=WORLDS, ids=lambda path: path.name)
def steps(request: pytest.FixtureRequest) -> dict[str, RunConfig]:
    found: list[Step] = load_steps(request.param, Path("runs"), [], 0.0)
    return {step.name: step.run for step in found}


def test_every_stage_reads_what_an_earlier_one_makes(steps: dict[str, RunConfig]) -> None:
    assert tuple(steps) == ORDER
    made: set[str] = set()
    for run in steps.values():
        assert {Path(folder).parts[0] for folder in inputs(run)} <= made
        made.add(run.output(Path()).name)


def test_clips_are_as_long_as_what_is_asked_of_them(steps: dict[str, RunConfig]) -> None:
    record, dit, distill, evaluate, export = (
        steps[name].stage for name in ("record", "dit", "distill", "evaluate", "export")
    )
    assert isinstance(record, RecordConfig)
    assert isinstance(dit, TrainDiTConfig)
    assert isinstance(distill, DistillConfig)
    assert isinstance(evaluate, EvaluateConfig)
    assert isinstance(export, ExportConfig)
    counts, window = evaluate.counts, dit.denoiser.dit.window
    assert export.context_frames == counts.context_frames, "measured as it will be played"
    assert export.context_frames <= window, "what a model forgets at once is no context"
    for name in ("dit", "distill"):
        assert window <= steps[name].parts()[0].clip_frames <= record.num_frames, "no frame sees further than a clip"
    assert counts.context_frames + counts.rollout_frames <= record.num_frames
    assert {dit.vae, distill.vae, evaluate.vae, export.vae} == {steps["vae"].output(Path()).name}
    assert {distill.teacher, evaluate.teacher, export.teacher} == {steps["dit"].output(Path()).name}


def test_sizes_divide(steps: dict[str, RunConfig]) -> None:
    record, vae, dit = (steps[name].stage for name in ("record", "vae", "dit"))
    assert isinstance(record, RecordConfig)
    assert isinstance(vae, TrainVAEConfig)
    assert isinstance(dit, TrainDiTConfig)
    token = vae.vae.stride * dit.denoiser.dit.patch_size  # pixels that it covers, a side
    assert record.environment.height % token == record.environment.width % token == 0
    for name in ("vae", "dit", "distill"):
        data, num_workers = steps[name].parts()[0], steps[name].resources.num_workers
        assert data.global_batch_size % num_workers == data.num_readers % num_workers == 0
