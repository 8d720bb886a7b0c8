"""An artifact: what comes back is what was saved, and what is no artifact of ours is refused in one line."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_world
import torch
from dying import die_in
from tiny_stages import make_root, vae_hash
from tiny_world import CARD, some_action, some_frames

from wm import artifact
from wm.artifact import (
    FORMAT_VERSION,
    ArtifactError,
    World,
    assemble,
    load,
    load_denoiser,
    load_vae,
    save,
    save_weights,
)
from wm.batch import Action
from wm.rollout import WorldSession

ROOT = Path(__file__).parent.parent
STARTS = ((some_frames(1, 3)[0], some_action(1, 3)), (some_frames(1, 5, seed=1)[0], some_action(1, 5, seed=1)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tiny_world.world(starts=STARTS), tmp_path / "artifact", "# A tiny world")
    return tmp_path / "artifact"


def played(world: World, model: str = "student") -> torch.Tensor:
    session = WorldSession(world, model=model, seed=3)
    frames, action = world.starts[1]
    session.reset(frames.unsqueeze(0), action)
    return torch.stack([session.step(some_action(1, 1, seed=i)) for i in range(4)])


def refused(action, *words: str) -> None:
    """`action` raises one ArtifactError of one line with all `words`."""
    with pytest.raises(ArtifactError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.case("C-15")
@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_loaded_world_draws_the_same_frames(folder: Path, model: str) -> None:
    assert torch.equal(played(load(folder), model), played(tiny_world.world(starts=STARTS), model))


def test_everything_else_comes_back_too(folder: Path) -> None:
    world, saved = load(folder), tiny_world.world(starts=STARTS)
    assert dataclasses.replace(world.manifest, files={}) == saved.manifest
    assert set(world.manifest.files) == {f"{n}.safetensors" for n in ("vae", "student", "teacher", "starts")}
    assert len(world.starts) == 2
    for (frames, action), (expected, expected_action) in zip(world.starts, STARTS, strict=True):
        assert torch.equal(frames, expected)
        for field in dataclasses.fields(Action):
            assert torch.equal(getattr(action, field.name), getattr(expected_action, field.name))
    assert (folder / "README.md").read_text() == "# A tiny world"
    assert not any(p.requires_grad or m.training for m in world.models.values() for p in m.parameters())


def test_a_world_without_starts_comes_back(tmp_path: Path) -> None:
    save(tiny_world.world(), tmp_path / "artifact", "")
    assert load(tmp_path / "artifact").starts == ()


@pytest.mark.parametrize("name", ["vae", "student", "teacher", "starts"])
def test_a_damaged_or_missing_file_is_named(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(lambda: load(folder), str(path), "missing or damaged", "export again")
    path.unlink()
    refused(lambda: load(folder), str(path), "missing or damaged")


def test_what_is_no_artifact_is_refused(tmp_path: Path, folder: Path) -> None:
    refused(lambda: load(tmp_path / "nowhere"), "no artifact in", "nowhere", "make demo")
    (folder / "manifest.yaml").write_text("world: [")
    refused(lambda: load(folder), "manifest.yaml", "is not YAML")
    (folder / "manifest.yaml").write_text("name: other\n")
    refused(lambda: load(folder), "manifest.yaml", "unknown field", f"reads artifacts of format {FORMAT_VERSION}")


def test_another_version_is_refused(folder: Path) -> None:
    path = folder / "manifest.yaml"
    path.write_text(
        path.read_text().replace(f"format_version: {FORMAT_VERSION}", f"format_version: {FORMAT_VERSION + 1}")
    )
    refused(lambda: load(folder), f"of format {FORMAT_VERSION + 1}", f"reads format {FORMAT_VERSION}", "export again")
    path.write_text(path.read_text() + "novelty: 3\n")
    refused(
        lambda: load(folder), "novelty: unknown field", f"reads artifacts of format {FORMAT_VERSION}", "export again"
    )


def test_the_tokenizer_and_the_models_must_belong_together(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    world = assemble(root / "vae/weights", {"student": root / "dit/weights"}, world="tiny", context_frames=3)
    assert (world.manifest.height, world.manifest.width, world.manifest.fps) == (16, 24, 8.0)
    save_weights(root / "vae/weights", tiny_world.vae(seed=9).state_dict(), artifact.VAEWeights(vae=tiny_world.VAE))
    refused(
        lambda: assemble(root / "vae/weights", {"student": root / "dit/weights"}, world="tiny", context_frames=3),
        "the student in",
        world.manifest.models["student"].vae_hash,
        vae_hash(root),
        "encode the latents and train again",
    )


def test_weights_that_are_not_what_is_asked_for_are_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    refused(lambda: load_vae(root / "dit/weights"), "dit/weights holds a denoiser, not a tokenizer")
    refused(lambda: load_denoiser(root / "vae/weights"), "vae/weights holds a vae, not a denoiser")
    refused(lambda: load_vae(root / "none"), "no weights in", "run the stage that trains them first")
    save_weights(root / "mixed", tiny_world.vae().state_dict(), CARD)
    refused(lambda: load_denoiser(root / "mixed"), "model.safetensors does not hold the weights")
    (root / "vae/weights/model.safetensors").write_bytes(b"short")
    refused(lambda: load_vae(root / "vae/weights"), "model.safetensors does not hold the weights")
    (root / "vae/weights/model.safetensors").unlink()
    refused(lambda: load_vae(root / "vae/weights"), "model.safetensors does not hold the weights")


@pytest.mark.case("C-16")
def test_a_failure_while_writing_leaves_the_old_artifact_whole(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = tiny_world.world(starts=STARTS[:1], world="other")
    with pytest.raises(TypeError):
        save(other, folder, card=None)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert load(folder).manifest.world == "tiny"
    save(other, folder, "again")
    assert load(folder).manifest.world == "other"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["artifact"]


@pytest.mark.case("C-16")
def test_killed_anywhere_it_leaves_a_whole_artifact_and_the_next_export_clears_up(folder: Path, tmp_path: Path) -> None:
    other = tiny_world.world(starts=STARTS[:1], world="other")
    shutil.copytree(folder, tmp_path / "untouched")
    total = die_in(lambda: save(other, folder, "again"), None)
    new, ended = {path.name: path.read_bytes() for path in folder.iterdir()}, []
    for number in range(20):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "untouched", root / "artifact")
        assert die_in(lambda root=root: save(other, root / "artifact", "again"), 1 + number * total // 20) == 0
        found = root / "artifact" if (root / "artifact").exists() else root / "artifact.old"
        ended.append(load(found).manifest.world)
        save(other, root / "artifact", "again")
        assert {path.name: path.read_bytes() for path in (root / "artifact").iterdir()} == new
        assert [path.name for path in root.iterdir()] == ["artifact"]
    assert ended == sorted(ended, reverse=True)  # the old one first, and then the new one
    assert ended[0] == "tiny"


@pytest.mark.case("C-15")
def test_a_fresh_process_plays_without_the_libraries_of_training(folder: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from wm.artifact import load
from wm.rollout import WorldSession
world = load(Path({str(folder)!r}))
frames, action = world.starts[0]
session = WorldSession(world)
session.reset(frames.unsqueeze(0), action)
print(tuple(session.step(action[:, :1]).shape))
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shape, modules = done.stdout.splitlines()
    assert shape == "(1, 3, 16, 24)"
    loaded = set(modules.split())
    assert {"ray", "deepspeed", "webdataset", "xformers", "transformers", "tensorboard"} & loaded == set()
    assert not [name for name in loaded if name.startswith(("wm.engine", "wm.stages", "data_pipeline", "launch"))]
