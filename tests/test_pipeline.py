"""The whole pipeline on the smoke config: killed, interrupted, continued, played."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from data_pipeline.shards import Dataset
from launch import pipeline
from tests.namespaces import missing
from tests.waiting import wait_for
from tools import export
from wm import artifact
from wm.batch import Action
from wm.rollout import WorldSession

HERE = Path(__file__).parent.parent
STAGES = ("record", "vae", "encode", "dit", "distill", "evaluate", "export")
FOLDERS = ("recordings", "vae", "latents", "dit", "distill", "evaluate", "export")
# Long enough to be caught in the middle, saved often enough to lose little.
LONGER = ["vae.loop.num_steps=60", "vae.loop.save_every=5"]
PATIENCE = 900.0  # seconds, on a machine that does much else


@dataclass(frozen=True)
class Made:
    root: Path
    killed: str  # what each attempt said
    finished: str


def arguments(root: Path) -> list[str]:
    return [str(HERE / "configs" / "smoke"), "--root", str(root), *LONGER]


def start(root: Path, log: Path, *more: str, **variables: str) -> subprocess.Popen[bytes]:
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "launch.pipeline", *arguments(root), *more]
        return subprocess.Popen(command, cwd=HERE, env=os.environ | variables, stdout=file, stderr=subprocess.STDOUT)


def wait_beside(process: subprocess.Popen[bytes], log: Path, what: str, condition: Callable[[], bool]) -> None:
    wait_for(condition, what, PATIENCE, log.read_text, lambda: process.poll() is None)


def has_checkpoint(stage: Path) -> bool:
    return any((stage / "checkpoints").glob("step-*[0-9]"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A world made in two attempts; the first is killed while it trains the tokenizer."""
    folder = tmp_path_factory.mktemp("pipeline")
    root, logs = folder / "smoke", [folder / f"{i}.log" for i in range(2)]
    # Once there is a checkpoint a step takes a second, so that the kill comes before the end however late it is.
    process = start(root, logs[0], WM_FAILPOINTS="loop.step=sleep:1@6+")
    wait_beside(process, logs[0], "a checkpoint", lambda: has_checkpoint(root / "vae"))
    process.kill()
    process.wait()
    process = start(root, logs[1])
    code = process.wait(PATIENCE)
    killed, finished = (log.read_text() for log in logs)
    assert code == 0, finished
    return Made(root, killed, finished)


@pytest.mark.case("T-14")
def test_a_killed_run_goes_on_where_it_was(made: Made) -> None:
    assert "done in" in made.killed, "the recordings were finished before the kill"
    log = (made.root / "vae" / "log-0.txt").read_text()
    assert "resumed from step" in log
    assert log.count("finished at step 60") == 1
    assert "finished before" in made.finished.splitlines()[0]


@pytest.mark.case("C-18", "L-13")
@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_an_interrupt_saves_and_says_how_to_go_on(made: Made, tmp_path: Path) -> None:
    root, log = tmp_path / "smoke", tmp_path / "log"
    shutil.copytree(made.root / "recordings", root / "recordings")
    process = start(root, log, "vae.loop.num_steps=100000")
    wait_beside(process, log, "a checkpoint", lambda: has_checkpoint(root / "vae"))
    os.kill(int((root / "vae" / "run.lock").read_text().split()[1]), signal.SIGKILL)
    stage = root / "vae" / "log-0.txt"
    wait_beside(process, log, "the second attempt", lambda: "resumed from step" in stage.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    said = log.read_text()
    assert "a worker was lost" in said
    assert "Go on with: python -m launch.pipeline" in said
    assert "Traceback" not in said
    assert "stopped at step" in stage.read_text()
    assert not (root / "vae" / "stop").exists()


@pytest.mark.case("T-14")
@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "there can be namespaces")
def test_the_whole_miniature_is_made_without_a_network(tmp_path: Path) -> None:
    """In a network namespace with nothing but loopback; what would look for a GPU finds none."""
    command = [sys.executable, "-m", "launch.pipeline", str(HERE / "configs" / "smoke"), "--root", str(tmp_path)]
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && ip -br link && exec "$@"', "sh", *command]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(alone, cwd=HERE, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stderr
    links = [line.split()[0] for line in done.stdout.splitlines() if "LOOPBACK" in line or "BROADCAST" in line]
    assert links == ["lo"]
    assert (tmp_path / "artifact" / "manifest.yaml").exists()


@pytest.mark.case("L-15")
def test_time_outs_are_said_at_the_start(made: Made) -> None:
    said = (made.root / "vae" / "log-0.txt").read_text()
    found = re.search(r"time-outs: a phase of a step (\S+) s, a collective (\S+) s, writing a checkpoint (\S+) s", said)
    assert found
    assert all(60 <= float(seconds) <= 1800 for seconds in found.groups())


def test_every_stage_says_what_it_does_and_ray_says_nothing(made: Made) -> None:
    for number, name in enumerate(STAGES, 1):
        assert f"[{number}/{len(STAGES)}] {name}" in made.finished
    said = made.finished.replace(str(made.root), "")
    for noise in ("ray", "Ray", "WARNING", "Traceback", "DeepSpeed", "pid="):
        assert noise not in said
    for place in ("report/report.html", "artifact", "tensorboard --logdir", "python -m tools.rollout"):
        assert place in made.finished


@pytest.mark.case("T-14")
def test_every_stage_leaves_its_result_and_its_settings(made: Made) -> None:
    for folder in FOLDERS:
        assert (made.root / folder / "result.json").exists(), folder
        assert (made.root / folder / "config.yaml").exists(), folder
    assert not list(made.root.rglob("*.partial"))
    assert not (made.root / "dit" / "stop").exists()
    assert not (made.root / "dit" / ".ray").exists()


def test_latents_carry_statistics_of_all_shards(made: Made) -> None:
    latents = Dataset.open(made.root / "latents")
    statistics = latents.manifest.latents
    assert statistics is not None
    frames = torch.cat([torch.from_numpy(latents.frames(i).copy()).double() for i in range(len(latents.clips))])
    mean, std = frames.mean(dim=(0, 2, 3)), frames.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.tensor(statistics.mean, dtype=torch.float64), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(std, torch.tensor(statistics.std, dtype=torch.float64), atol=1e-9, rtol=1e-6)
    assert statistics.vae_hash == artifact.load_vae(made.root / "vae" / "weights")[1]


def test_training_and_held_out_recordings_share_no_seed(made: Made) -> None:
    splits = [Dataset.open(made.root / "recordings" / split) for split in ("train", "heldout")]
    train, heldout = ({data.read(i, 0, 1).meta["seed"] for i in range(len(data.clips))} for data in splits)
    assert len(train) == len(splits[0].clips)
    assert not train & heldout


def test_the_report_knows_the_time_of_every_stage(made: Made) -> None:
    report = json.loads((made.root / "report" / "report.json").read_text())
    assert set(report["timing"]) == set(STAGES)
    assert all(seconds > 0 for seconds in report["timing"].values())
    assert (made.root / "report" / "report.html").stat().st_size > 1000


@pytest.mark.case("T-15")
def test_the_artifact_plays_and_repeats_itself(made: Made) -> None:
    world = artifact.load(made.root / "artifact")
    frames, actions = world.starts[0]
    played = []
    for _ in range(2):
        session = WorldSession(world, num_steps=2, seed=5)
        session.reset(frames[None], actions)
        idle = Action.idle(world.manifest.action_space, 1, 1)
        played.append(torch.cat([session.step(idle) for _ in range(3)]))
    assert played[0].shape == (3, 3, world.manifest.height, world.manifest.width)
    assert played[0].dtype == torch.uint8
    assert torch.equal(played[0], played[1])


def test_an_artifact_of_the_last_checkpoints_is_that_of_the_end(made: Made, tmp_path: Path) -> None:
    out, last = tmp_path / "world", ["--vae", "vae@60", "--teacher", "dit@10", "--student", "distill@8"]
    assert export.main([str(made.root), "--out", str(out), "--context-frames", "4", *last]) == 0
    for name, digest in artifact.load(made.root / "artifact").manifest.files.items():
        assert artifact.file_hash(out / name) == digest, name
    assert not list(made.root.glob(".export-*"))


def test_an_artifact_of_a_checkpoint_on_the_way_plays(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "world"
    for student in ("distill@4", "dit"):  # an artifact is replaced by the next
        assert export.main([str(made.root), "--out", str(out), "--student", student, "--teacher", "none"]) == 0
        world = artifact.load(out)
        assert set(world.models) == {"student"}
        assert artifact.file_hash(out / "student.safetensors") != artifact.file_hash(
            made.root / "artifact" / "student.safetensors"
        )
        frames, actions = world.starts[0]
        assert len(frames) == world.manifest.models["student"].denoiser.dit.window
        session = WorldSession(world)
        session.reset(frames[None], actions)
        session.step(Action.idle(world.manifest.action_space, 1, 1))


def test_an_export_says_in_a_line_what_is_not_there(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    wrong = {
        "no whole checkpoint of step 7 in .*; there are: step-8, step-4": ["--student", "distill@7"],
        "a number, as in distill@100": ["--student", "distill@last"],
        "no stage other": ["--student", "other"],
        "name the stage that trained it": ["--student", "none"],
        "holds a vae, not a denoiser": ["--student", "vae"],
        "is no artifact": ["--out", str(tmp_path / "full")],
    }
    for said, more in wrong.items():
        assert export.main([str(made.root), "--out", str(tmp_path / "out"), *more]) == 2
        assert re.fullmatch(f"error: .*{said}.*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"


def test_a_finished_stage_is_not_run_again(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in made.root.rglob("*") if path.is_file()}

    before = times()
    assert pipeline.main(arguments(made.root)) == 0
    assert capsys.readouterr().out.count("finished before") == len(STAGES)
    assert times() == before


def test_other_settings_make_a_stage_anew_and_keep_the_old(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """Last, because it changes the world: the export alone is asked for again, without the teacher."""
    assert pipeline.main([*arguments(made.root), "--local", "export.stage.teacher=null"]) == 0
    output = capsys.readouterr().out
    assert "stage.teacher: dit -> None: made anew" in output
    assert output.count("finished before") == len(STAGES) - 1
    assert [path.name.rsplit("-", 2)[0] for path in (made.root / "old").iterdir()] == ["export"]
    assert set(artifact.load(made.root / "artifact").models) == {"student"}
