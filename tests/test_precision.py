"""`precision: auto`: settled once for all that a stage has, kept while it goes on, and never left to a learner."""

import json
from pathlib import Path

import pytest
import torch

from launch import run, stage_state
from launch.precision import AUTO, fastest, settled, with_precision
from launch.run_config import RunConfig, load_run
from wm.config import ConfigError, difference, load
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.world import World
from wm.precision import dtype_of

CONFIGS = Path(__file__).parent.parent / "configs"
FORMATS = {"float32", "bfloat16"}
VAE = ["stage.learner.precision=auto", "stage.critic_learner.precision=auto"]


def vae() -> RunConfig:
    return load_run(CONFIGS / "desktop_sim" / "vae.yaml", VAE)


def test_a_gpu_computes_in_bfloat16_and_a_processor_in_what_is_faster_there() -> None:
    assert fastest(on_gpu=True) == "bfloat16"
    assert fastest(on_gpu=False) in FORMATS


@pytest.mark.parametrize("precision", sorted(FORMATS))
def test_it_stands_wherever_auto_was_and_nowhere_else(precision: str) -> None:
    changed = difference(vae(), with_precision(vae(), precision))
    assert changed == [f"stage.{name}.precision: auto -> {precision}" for name in ("critic_learner", "learner")]
    assert with_precision(vae(), AUTO) == vae()
    named = load_run(CONFIGS / "desktop" / "vae.yaml")
    assert with_precision(named, "float32") == named


def test_what_goes_on_keeps_what_it_began_with(tmp_path: Path) -> None:
    stage_state.begin(tmp_path, vae(), "0" * 16)
    began = settled(vae(), tmp_path)
    assert stage_state.read(tmp_path)["precision"] == fastest(on_gpu=torch.cuda.is_available())
    assert began == settled(vae(), tmp_path)
    (other,) = FORMATS - {stage_state.read(tmp_path)["precision"]}
    stage_state.write(tmp_path, stage_state.read(tmp_path) | {"precision": other})
    assert stage_state.begin(tmp_path, vae(), "0" * 16) == 0.0
    assert settled(vae(), tmp_path) == with_precision(vae(), other) != began


def test_a_stage_that_is_run_says_which_it_was_and_is_finished_by_the_same_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path), "--local"]
    few = ["stage.num_recordings=2", "stage.num_heldout=1", "stage.recordings_per_shard=1"]
    assert run.main([str(CONFIGS / "smoke" / "record.yaml"), *root, *few]) == 0
    command = [str(CONFIGS / "smoke" / "vae.yaml"), *root, *VAE, "loop.num_steps=2"]
    assert run.main(command) == 0
    precision = json.loads((tmp_path / "vae" / "stage.json").read_text())["precision"]
    ran = load(RunConfig, tmp_path / "vae" / "config.yaml")
    assert precision in FORMATS
    assert with_precision(load_run(CONFIGS / "smoke" / "vae.yaml", [*VAE, "loop.num_steps=2"]), precision) == ran
    capsys.readouterr()
    assert run.main(command) == 0
    assert "finished already" in capsys.readouterr().out


def test_a_learner_needs_a_number_format_by_name() -> None:
    with pytest.raises(ValueError, match="auto is settled where a stage is launched"):
        LocalLearner(torch.nn.Linear(2, 3), LearnerConfig(precision="auto"), num_steps=1, world=World.single())
    assert {dtype_of(precision) for precision in ("float32", "bfloat16")} == {torch.float32, torch.bfloat16}
    with pytest.raises(ConfigError, match="precision"):
        load_run(CONFIGS / "desktop_sim" / "vae.yaml", ["stage.learner.precision=fast"])
