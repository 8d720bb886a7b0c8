"""Wrong input to the commands of `launch`: one line that says what to do, exit code 2, nothing touched."""

import errno
import re
from pathlib import Path

import pytest

from launch import pipeline, run, stage_state
from launch.entry import StageError, explain, sole_user
from launch.ray_runtime import SETTINGS
from launch.recordings import seed_of
from launch.resources import Resources
from launch.run_config import load_run, scaled
from wm.config import ConfigError

SMOKE = Path(__file__).parent.parent / "configs" / "smoke"


def complaint(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line on stderr of a command that ended with 2."""
    captured = capsys.readouterr()
    assert code == 2
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.out + captured.err
    return lines[0]


def test_a_config_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = run.main([str(tmp_path / "none.yaml"), "--root", str(tmp_path)])
    assert f"no config file at {tmp_path / 'none.yaml'}" in complaint(capsys, code)


def test_an_unknown_key_is_named_with_its_path_and_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = run.main([str(SMOKE / "vae.yaml"), "--root", str(tmp_path), "stage.learner.learning_rat=1"])
    line = complaint(capsys, code)
    assert "stage.learner.learning_rat:" in line
    assert "did you mean learning_rate?" in line


def test_a_value_of_the_wrong_type(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = pipeline.main([str(SMOKE), "--root", str(tmp_path), "vae.loop.num_steps=many"])
    assert "loop.num_steps" in complaint(capsys, code)


def test_an_override_for_no_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = pipeline.main([str(SMOKE), "--root", str(tmp_path), "tokenizer.seed=1"])
    line = complaint(capsys, code)
    assert "tokenizer.seed=1" in line
    assert "record, vae, encode, dit, distill, evaluate, export" in line


def test_a_folder_without_stage_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "has no stage file" in complaint(capsys, pipeline.main([str(tmp_path), "--root", str(tmp_path)]))
    assert "no folder" in complaint(capsys, pipeline.main([str(tmp_path / "x"), "--root", str(tmp_path)]))


@pytest.mark.parametrize(
    ("stage", "missing", "maker"),
    [
        ("vae", "recordings: no manifest under", "record.yaml"),
        ("dit", "latents: no manifest under", "encode.yaml"),
        ("encode", "recordings: no manifest under", "record.yaml"),
        ("evaluate", "recordings: no manifest under", "record.yaml"),
    ],
)
def test_a_missing_stage_output_names_the_command_that_makes_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, stage: str, missing: str, maker: str
) -> None:
    root = tmp_path / "world"
    line = complaint(capsys, run.main([str(SMOKE / f"{stage}.yaml"), "--root", str(root)]))
    assert missing in line
    assert f"python -m launch.run {SMOKE / maker} --root {root}" in line
    assert not root.exists()


def test_a_gpu_that_is_absent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [str(SMOKE / "record.yaml"), "--root", str(tmp_path), "--local", "resources.gpus_per_worker=64"]
    line = complaint(capsys, run.main(arguments))
    assert "64 GPUs" in line
    assert "resources.gpus_per_worker=0" in line


@pytest.mark.case("L-07")
def test_a_stage_made_with_other_settings_is_refused_with_the_difference(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = load_run(SMOKE / "record.yaml")
    stage_state.begin(before.output(tmp_path), before, stage_state.identity(before, tmp_path))
    code = run.main([str(SMOKE / "record.yaml"), "--root", str(tmp_path), "--local", "stage.num_frames=9"])
    line = complaint(capsys, code)
    assert "stage.num_frames: 48 -> 9" in line
    assert "--again" in line


def test_a_root_that_another_run_uses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with sole_user(tmp_path):
        line = complaint(capsys, run.main([str(SMOKE / "record.yaml"), "--root", str(tmp_path), "--local"]))
    assert "another run is using" in line


def test_a_traceback_only_when_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run.main([str(tmp_path / "none.yaml"), "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_errors_in_a_line() -> None:
    full = explain(OSError(errno.ENOSPC, "No space left on device", "runs/x/shard.tar"))
    assert full.startswith("the disk is full (runs/x/shard.tar)")
    assert explain(ConfigError("a\n b")) == "a b"
    assert explain(StageError("lost")) == "lost"
    assert "KeyError" in explain(KeyError("x"))


@pytest.mark.case("L-15")
@pytest.mark.parametrize("on_ray", [True, False])
def test_every_time_out_is_said_and_is_what_ray_is_told(on_ray: bool) -> None:
    said = [
        float(number) for number in re.findall(r"within (\d+) s", run.patience(Resources(timeout_seconds=60), on_ray))
    ]
    rays = [float(SETTINGS[f"RAY_TRAIN_{name}_TIMEOUT_S"]) for name in ("WORKER_GROUP_START", "COLLECTIVE")]
    rays.append(float(SETTINGS["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"]))
    assert said == (rays if on_ray else []) + [60, 90]
    assert max(said) <= 1800


def test_hours_scale_the_training_and_nothing_else() -> None:
    short, long = load_run(SMOKE / "vae.yaml", hours=0.25), load_run(SMOKE / "vae.yaml", hours=1.0)
    assert short == load_run(SMOKE / "vae.yaml")
    assert short.parts()[1].num_steps * 4 == long.parts()[1].num_steps
    assert long.stage == short.stage
    record = load_run(SMOKE / "record.yaml")
    assert scaled(record, 3.0) == record
    with pytest.raises(ConfigError, match="above 0"):
        scaled(record, -1.0)


def test_the_identity_of_a_stage_sees_settings_and_inputs_but_not_where_it_runs(tmp_path: Path) -> None:
    vae, record = load_run(SMOKE / "vae.yaml"), load_run(SMOKE / "record.yaml")
    before = stage_state.identity(vae, tmp_path)
    elsewhere = ["resources.num_workers=2", "stage.learner.zero_stage=3", "loop.save_every=1"]
    assert stage_state.identity(load_run(SMOKE / "vae.yaml", elsewhere), tmp_path) == before
    assert stage_state.identity(load_run(SMOKE / "vae.yaml", ["seed=2"]), tmp_path) != before
    stage_state.begin(record.output(tmp_path), record, stage_state.identity(record, tmp_path))
    assert stage_state.identity(vae, tmp_path) != before


def test_time_is_added_up_over_attempts_and_begins_anew_with_other_settings(tmp_path: Path) -> None:
    run_config = load_run(SMOKE / "vae.yaml")
    folder = run_config.output(tmp_path)
    assert stage_state.begin(folder, run_config, "a") == 0.0
    stage_state.spend(folder, 12.5)
    assert stage_state.begin(folder, run_config, "a") == 12.5
    assert stage_state.timing([("vae", folder)]) == {"vae": 12.5}
    assert stage_state.begin(folder, run_config, "b") == 0.0


def test_every_recording_has_a_seed_of_its_own() -> None:
    seeds = {seed_of(seed, split, number) for seed in (0, 1) for split in ("train", "heldout") for number in range(50)}
    assert len(seeds) == 200
