"""The text-to-video world from its recordings to a drawn clip, by its own stage files, with trainings of a few steps."""

import json
from pathlib import Path

import pytest

from data_pipeline.video import decode
from launch import pipeline
from launch.run_config import EvaluateCaptionsConfig, load_run
from tools import draw
from wm.conditioning.caption import TextConditionerConfig
from wm.stages.train_dit import TrainDiTConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs/shapes"
SHORT = (
    "record.stage.num_recordings=12", "record.stage.num_heldout=4", "record.stage.recordings_per_shard=6",
    "vae.loop.num_steps=3", "vae.stage.learner.precision=float32", "vae.data.block_clips=4",
    "dit.loop.num_steps=3", "dit.loop.sample_every=3", "dit.stage.learner.precision=float32", "dit.stage.num_steps=2",
    "dit.data.global_batch_size=4", "dit.data.block_clips=4", "encode.stage.precision=float32",
    "dit.data.buckets=[{clip_frames: 6, global_batch_size: 2}, {clip_frames: 1, from_start: true}]",
    "evaluate.stage.num_clips=4", "evaluate.stage.batch=3", "evaluate.stage.shown_clips=2",
    "evaluate.stage.teacher_steps=[2]", "evaluate.stage.targets=[]", "evaluate.stage.precision=float32",
)  # fmt: skip


def test_the_stage_files_fit_each_other() -> None:
    runs = {path.stem: load_run(path) for path in CONFIGS.glob("*.yaml")}
    record, dit, evaluate = (runs[name].stage for name in ("record", "dit", "evaluate"))
    assert isinstance(dit, TrainDiTConfig)
    assert isinstance(evaluate, EvaluateCaptionsConfig)
    assert isinstance(dit.denoiser.conditioner, TextConditionerConfig)
    # A window must begin where its clip does: that is where a clip is drawn from words alone.
    assert record.num_frames == record.environment.num_frames == runs["dit"].data.clip_frames
    assert evaluate.num_clips <= record.num_heldout
    assert dit.text_guidance_scale > 1
    assert {target.at_least for target in evaluate.targets} == {0.8}


@pytest.mark.slow
def test_from_recordings_to_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "shapes"
    assert pipeline.main([str(CONFIGS), "--root", str(root), "--local", *SHORT]) == 0
    assert "python -m tools.draw" in capsys.readouterr().out
    report = json.loads((root / "report/report.json").read_text())
    assert report["vae"]["real_all"]["value"] == 1.0
    assert report["teacher-2"]["all"]["trials"] == 4
    assert (root / "report/report.html").stat().st_size > 1000
    clip = tmp_path / "clip.mp4"
    caption = "a red circle moves left behind a green square"
    assert draw.main([str(root / "artifact"), caption, "--out", str(clip), "--enlarge", "1"]) == 0
    assert decode(clip.read_bytes(), 0, 5).shape == (5, 64, 64, 3)
