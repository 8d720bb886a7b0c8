"""Preparing data dies anywhere and is run again: the same bytes, nothing lost, nothing twice, nothing half under its name."""

import dataclasses
import os
import random
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.shards import Dataset, write_manifest, write_shard
from data_pipeline.tar_index import build_index, load_index
from launch.latents import make_latents
from launch.recordings import RecordConfig, make_recordings, record_shard
from launch.resources import Resources
from launch.shard_work import map_here, noted
from launch.stage_state import move_aside
from tests.dying import die_in
from tests.test_shards import make_manifest, make_sample
from tests.tiny_world import HEIGHT, VAE, WIDTH, some_frames, vae
from wm.artifact import VAEWeights, save_weights
from wm.config import to_dict
from wm.stages.encode_latents import EncodeLatentsConfig, Encoder

SHARDS = ((0, 1), (2,), (3, 4, 5))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_missing(folder: Path) -> None:
    """What a stage does: the shards that are not there yet, then the manifest."""
    entries = []
    for index, numbers in enumerate(SHARDS):
        path = folder / f"{index}.tar"
        if not path.exists():
            write_shard(path, (make_sample(number, "latents") for number in numbers))
        entries.append(load_index(path)[0])
    write_manifest(folder, make_manifest(entries, "latents"))


@pytest.mark.case("D-16")
def test_a_writer_killed_at_fifty_places_and_run_again_leaves_what_an_uncrashed_one_leaves(tmp_path: Path) -> None:
    write_missing(tmp_path / "reference")
    reference = contents(tmp_path / "reference")
    total = die_in(lambda: write_missing(tmp_path / "counted"), None)
    assert contents(tmp_path / "counted") == reference
    left, manifests = 0, 0
    for number in range(50):
        folder = tmp_path / str(number)
        assert die_in(lambda folder=folder: write_missing(folder), 1 + number * total // 50) == 0
        for shard in folder.glob("*.tar"):
            assert build_index(shard)["entry"] == to_dict(load_index(shard)[0])
        left += any(".partial" in path.name for path in folder.glob(".*"))
        manifests += (folder / "dataset.json").exists()
        write_missing(folder)
        assert contents(folder) == reference
    assert left > 5  # some died in the middle of a file
    assert manifests < 5


SETTINGS = RecordConfig(
    environment=DesktopSimConfig(),
    policy=HumanPolicyConfig(),
    num_recordings=3,
    num_heldout=1,
    num_frames=6,
    recordings_per_shard=1,
)


def recorded(folder: Path, map_tasks: Any = map_here) -> dict[str, bytes]:
    make_recordings(SETTINGS, 5, folder, map_tasks, Resources(), lambda done: None)
    for split in ("train", "heldout"):
        Dataset.open(folder / split).verify()
    return {name: data for name, data in contents(folder).items() if name != "lint.json"}  # which names the folder


@pytest.mark.case("D-17")
def test_tasks_killed_at_random_and_asked_again_record_every_shard_once(tmp_path: Path) -> None:
    reference = recorded(tmp_path / "reference")
    rng, deaths, reused = random.Random(4), [], []

    def killing(function: Any, tasks: Any, resources: Any, on_done: Any) -> list[dict[str, Any]]:
        """As Ray does it: a task whose worker died is run again, sometimes also one that had ended."""
        assert function is record_shard
        for task in tasks:
            calls = die_in(lambda task=task: function(*task), None) if not deaths else deaths[0]
            deaths.append(calls)
            for _ in range(3):
                place = rng.randrange(1, calls)
                deaths.append(die_in(lambda task=task, place=place: function(*task), place))
        answers = [function(*task) for task in tasks]
        reused.extend(answers == [function(*task) for task in tasks] for _ in range(2))
        return answers

    assert recorded(tmp_path / "killed", killing) == reference
    assert deaths.count(0) >= 3
    assert all(reused)


@pytest.mark.slow
@pytest.mark.case("D-16", "D-17")
def test_a_preparation_killed_anywhere_and_given_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """From the first shard to the manifests, notes and the linter's look: the whole stage dies, not a task of it."""
    reference = recorded(tmp_path / "reference")
    total = die_in(lambda: recorded(tmp_path / "counted"), None)
    for number in range(12):
        folder = tmp_path / str(number)
        for place in (1 + number * total // 12, total // 3):  # and dies once more when it is given again
            die_in(lambda folder=folder, place=place: recorded(folder), place)
        assert recorded(folder) == reference


def test_a_note_of_other_work_or_of_a_shard_that_is_gone_is_not_believed(tmp_path: Path) -> None:
    task = (SETTINGS, 5, "train", 0, (0,), tmp_path)
    answer = record_shard(*task)
    assert record_shard(*task) == answer
    other = record_shard(SETTINGS, 6, "train", 0, (0,), tmp_path)
    assert other["entry"]["sha256"] != answer["entry"]["sha256"]
    assert record_shard(*task) == answer
    os.truncate(tmp_path / "00000.tar", 1000)
    assert record_shard(*task) == answer
    (tmp_path / "00000.tar").unlink()
    assert noted(tmp_path, "00000.tar", "anything") is None
    assert record_shard(*task) == answer


@pytest.mark.parametrize("leftover", [b"", b"half a shard"])
@pytest.mark.case("D-17")
def test_what_dead_workers_left_goes_when_the_dataset_is_whole(tmp_path: Path, leftover: bytes) -> None:
    (tmp_path / ".1.tar.4242.partial").write_bytes(leftover)
    write_missing(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 4 + [".tar"] * 3


def encoded(root: Path, folder: str = "latents") -> tuple[dict[str, bytes], list[str]]:
    """The files of the dataset of latents of `root`/clips, without notes, and the shards that were encoded for it."""
    made: list[str] = []

    def watching(function: Any, tasks: Any, resources: Any, on_done: Any) -> list[dict[str, Any]]:
        answers = []
        for task in tasks:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    Encoder, "encode", lambda self, video, name=task[3]: made.append(name) or real(self, video)
                )
                answers.append(function(*task))
        return answers

    real = Encoder.encode
    make_latents(EncodeLatentsConfig(), root, root / "clips", root / folder, watching, Resources(), lambda done: None)
    files = {name: data for name, data in contents(root / folder).items() if not name.startswith(".notes")}
    return files, sorted(set(made))


def write_clips(root: Path, seeds: tuple[int, ...]) -> None:
    entries = []
    for index, seed in enumerate(seeds):
        sample = make_sample(index)
        video = some_frames(1, len(sample), seed)[0].permute(0, 2, 3, 1).numpy()
        entries.append(write_shard(root / "clips" / f"{index}.tar", [dataclasses.replace(sample, video=video)]))
    manifest = dataclasses.replace(make_manifest(entries), height=HEIGHT, width=WIDTH)
    write_manifest(root / "clips", manifest)


def test_latents_made_again_encode_only_what_changed_and_are_as_if_all_had_been(tmp_path: Path) -> None:
    save_weights(tmp_path / "vae" / "weights", vae(1).state_dict(), VAEWeights(vae=VAE))
    write_clips(tmp_path, (1, 2, 3))
    first, made = encoded(tmp_path)
    assert made == ["0.tar", "1.tar", "2.tar"]
    assert encoded(tmp_path) == (first, [])
    write_clips(tmp_path, (1, 9, 3, 4))  # one changed, one new
    set_aside = move_aside(tmp_path, tmp_path / "latents")
    again, made = encoded(tmp_path)
    assert made == ["1.tar", "3.tar"]
    assert again == encoded(tmp_path, "anew")[0]
    assert contents(set_aside)["1.tar"] == first["1.tar"]
    write_clips(tmp_path, (1, 9))  # fewer: none of the others is left
    fewer, made = encoded(tmp_path)
    assert (sorted(fewer), made) == (["0.tar", "0.tar.index.json", "1.tar", "1.tar.index.json", "dataset.json"], [])
    save_weights(tmp_path / "vae" / "weights", vae(2).state_dict(), VAEWeights(vae=VAE))
    other, made = encoded(tmp_path)
    assert made == ["0.tar", "1.tar"]
    assert other["0.tar"] != fewer["0.tar"]
