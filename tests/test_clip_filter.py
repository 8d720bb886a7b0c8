"""Which clips are encoded: each limit leaves out what lies beyond it, says so, and what is kept is as if it were alone."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.schema import DataError, Sample
from data_pipeline.shards import Dataset, write_manifest, write_shard
from launch.latents import make_latents
from launch.resources import Resources
from launch.shard_work import map_here
from tests.test_preparation import contents
from tests.test_shards import make_manifest, make_sample
from tests.tiny_world import HEIGHT, VAE, WIDTH, some_frames, vae
from wm.artifact import VAEWeights, save_weights
from wm.config import ConfigError, from_dict
from wm.stages.clip_filter import ClipFilterConfig
from wm.stages.encode_latents import EncodeLatentsConfig

META = {"num_frames": 20, "changed": [0.0, 0.1, 0.2, 0.1], "caption": "a red circle", "aesthetic_score": 4.5}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({}, None),
        ({"min_frames": 20, "max_frames": 20, "min_words": 3, "bounds": {"aesthetic_score": [4.5, 4.5]}}, None),
        ({"min_change": 0.0999, "max_change": 0.1001, "bounds": {"aesthetic_score": [None, None]}}, None),
        ({"min_frames": 21}, "frames below 21"),
        ({"max_frames": 19}, "frames above 19"),
        ({"min_change": 0.11}, "change below 0.11"),
        ({"max_change": 0.09}, "change above 0.09"),
        ({"min_words": 4}, "words below 4"),
        ({"bounds": {"aesthetic_score": [4.6, None]}}, "aesthetic_score below 4.6"),
        ({"bounds": {"aesthetic_score": [None, 4.4]}}, "aesthetic_score above 4.4"),
        ({"bounds": {"motion_score": [0, None]}}, "no motion_score"),
        ({"bounds": {"caption": [0, None]}}, "no caption"),
        ({"min_frames": 21, "min_words": 4}, "frames below 21"),
    ],
)
def test_a_clip_is_left_out_by_the_first_limit_that_it_is_beyond(limits: dict[str, Any], reason: str | None) -> None:
    assert from_dict(ClipFilterConfig, limits).reason(META) == reason


def test_a_recording_without_caption_or_change_has_no_words_and_does_not_change() -> None:
    assert ClipFilterConfig().reason({"num_frames": 1}) is None
    assert ClipFilterConfig(min_words=1).reason({"num_frames": 1}) == "words below 1"
    assert ClipFilterConfig(min_change=0.01).reason({"num_frames": 1}) == "change below 0.01"


@pytest.mark.parametrize(
    "limits", [{"min_frames": 9, "max_frames": 8}, {"min_change": 0.2, "max_change": 0.1}, {"bounds": {"a": [2, 1]}}]
)
def test_limits_that_nothing_keeps_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"at least .* and at most .* exchange the two"):
        from_dict(ClipFilterConfig, limits)


def clip(number: int) -> Sample:
    """Two frames and one more for each number, in the size of the tiny world."""
    sample = make_sample(number).window(0, 2 + number)
    video = some_frames(1, len(sample), number)[0].permute(0, 2, 3, 1).numpy()
    return dataclasses.replace(sample, video=video, meta={**sample.meta, "score": float(number)})


def encoded(root: Path, name: str, shards: tuple[tuple[int, ...], ...], keep: dict[str, Any]) -> dict[str, Any]:
    entries = [write_shard(root / name / f"{i}.tar", map(clip, numbers)) for i, numbers in enumerate(shards)]
    write_manifest(root / name, dataclasses.replace(make_manifest(entries), height=HEIGHT, width=WIDTH))
    settings = from_dict(EncodeLatentsConfig, {"keep": keep})
    folder = root / f"latents-{name}"
    return make_latents(settings, root, root / name, folder, map_here, Resources(), lambda done: None)


def test_latents_of_what_is_kept_are_those_of_a_dataset_that_has_nothing_else(tmp_path: Path) -> None:
    save_weights(tmp_path / "vae" / "weights", vae(1).state_dict(), VAEWeights(vae=VAE))
    limits = {"min_frames": 4, "bounds": {"score": [None, 4]}}
    told = encoded(tmp_path, "all", ((0, 2, 5), (3, 4), (1, 6)), limits)
    alone = encoded(tmp_path, "alone", ((2,), (3, 4)), {})
    assert told == alone | {"num_left_out": 4, "left_out": {"frames below 4": 2, "score above 4": 2}}
    made, wanted = (contents(tmp_path / f"latents-{name}") for name in ("all", "alone"))
    without_notes = [name for name in made if not name.startswith(".notes")]
    assert {name: made[name] for name in without_notes} == {name: wanted[name] for name in without_notes}
    assert sorted(without_notes) == ["0.tar", "0.tar.index.json", "1.tar", "1.tar.index.json", "dataset.json"]
    other = encoded(tmp_path, "all", ((0, 2, 5), (3, 4), (1, 6)), {"min_frames": 6})  # notes of the first are not its
    assert (other["num_shards"], other["num_left_out"]) == (3, 4)
    assert [clip.num_frames for clip in Dataset.open(tmp_path / "latents-all").clips] == [7, 6, 8]


def test_a_filter_that_keeps_nothing_says_what_it_left_out(tmp_path: Path) -> None:
    save_weights(tmp_path / "vae" / "weights", vae(1).state_dict(), VAEWeights(vae=VAE))
    with pytest.raises(DataError, match=r"keeps no clip of .*: frames below 99 2; loosen it"):
        encoded(tmp_path, "all", ((0,), (1,)), {"min_frames": 99})
