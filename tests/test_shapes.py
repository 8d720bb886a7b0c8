"""The world of shapes: what is drawn is read back exactly, captions say it, and shards carry them to a batch."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.environments.shapes import (
    BACKGROUND,
    COLOURS,
    DEPTHS,
    DIRECTIONS,
    SHAPES,
    Claim,
    Figure,
    Scene,
    Shapes,
    ShapesConfig,
    draw,
    draw_scene,
    mask,
)
from data_pipeline.environments.shapes_parser import ASPECTS, matches, parse
from data_pipeline.loader import DataConfig, open_batches
from data_pipeline.policies import ScriptedPolicyConfig
from data_pipeline.record import record
from data_pipeline.schema import DataError, DatasetManifest, check
from data_pipeline.shards import Dataset, write_manifest, write_shard

WORLDS = {
    "usual": ShapesConfig(),
    "all there is, fast": ShapesConfig(
        height=34, width=41, size=9, speed=3, num_frames=6, colours=tuple(COLOURS), shapes=SHAPES
    ),
    "smallest, slow": ShapesConfig(height=26, width=31, size=8, speed=1, num_frames=11, colours=("white", "purple")),
    "on the grid of a tokenizer": ShapesConfig(size=12, speed=4, snap=4, num_frames=5),
    "beginning on a coarse grid": ShapesConfig(height=67, width=70, size=16, speed=8, snap=16, num_frames=6),
    "large": ShapesConfig(height=66, width=58, size=15, speed=4, num_frames=7, shapes=("cross", "circle")),
}


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_drawn_is_read_back(name: str) -> None:
    world, rng, seen = WORLDS[name], np.random.default_rng(3), set()
    for _ in range(60):
        scene = draw_scene(world, rng)
        reading = parse(world, draw(world, scene))
        assert reading.scene == scene
        assert reading.agreement == 1
        assert Claim.of(str(scene.claim)) == scene.claim
        seen |= {scene.claim.direction, scene.claim.depth, scene.claim.mover.shape}
    assert seen == {*DIRECTIONS, *DEPTHS, *world.shapes}


def test_figures_stand_on_the_grid() -> None:
    world, rng, apart = (
        ShapesConfig(width=37, height=43, size=10, speed=6, snap=3, num_frames=4),
        np.random.default_rng(4),
        set(),
    )
    for _ in range(60):
        scene = draw_scene(world, rng)
        places = np.array([scene.place, *(scene.at(frame, world.speed) for frame in range(world.num_frames))])
        assert (places % 3 == 0).all()
        assert (places >= 0).all()
        assert (places + world.size <= (world.width, world.height)).all()
        apart |= {tuple(sorted(abs(places[0] - places[1])))}
    assert apart == {(0, 12), (3, 12)}


@pytest.mark.parametrize(("speed", "snap"), [(8, 16), (5, 15)])
def test_figures_that_begin_on_a_grid_move_by_less_than_it_and_stay_on_the_screen(speed: int, snap: int) -> None:
    world = ShapesConfig(height=64, width=83, size=16, speed=speed, snap=snap, num_frames=8 - speed // 4)
    rng = np.random.default_rng(5)
    starts = set()
    for _ in range(100):
        scene = draw_scene(world, rng)
        begin = np.array([scene.place, scene.start])
        way = np.array([scene.at(frame, speed) for frame in range(world.num_frames)])
        assert (begin % snap == 0).all()
        assert (way >= 0).all()
        assert (way + world.size <= (world.width, world.height)).all()
        starts.add(scene.start)
    assert len(starts) > 5


def test_a_clip_that_a_model_blurred_is_still_read() -> None:
    world, rng = ShapesConfig(), np.random.default_rng(5)
    for _ in range(20):
        scene = draw_scene(world, rng)
        video = torch.from_numpy(draw(world, scene)).permute(0, 3, 1, 2).float()
        video = torch.nn.functional.avg_pool2d(video, 3, 1, 1, count_include_pad=False) + 12 * torch.randn(video.shape)
        reading = parse(world, video.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
        assert reading.scene is not None
        # A corner of one pixel may blur away; what the caption says may not.
        assert reading.scene.claim.direction == scene.claim.direction
        assert reading.scene.claim.depth == scene.claim.depth
        assert reading.scene.claim.mover.colour == scene.claim.mover.colour
        assert reading.agreement < 1


def test_each_aspect_is_missed_by_itself() -> None:
    world = ShapesConfig()
    claim = Claim(Figure("red", "circle"), Figure("green", "square"), "left", "behind")
    scene = Scene(claim, start=(20, 9), place=(10, 11))
    video = draw(world, scene)
    assert matches(world, video, "a red circle moves left behind a green square") == dict.fromkeys(ASPECTS, True)
    wrong = {
        "colour": "a red circle moves left behind a blue square",
        "shape": "a red triangle moves left behind a green square",
        "direction": "a red circle moves up behind a green square",
        "depth": "a red circle moves left in front of a green square",
    }
    for aspect, caption in wrong.items():
        assert matches(world, video, caption) == {name: name != aspect for name in ASPECTS}
    # The roles count: what moves is not what rests.
    swapped = matches(world, video, "a green square moves left behind a red circle")
    assert swapped == {"colour": False, "shape": False, "direction": True, "depth": True}


def test_what_shows_no_scene_matches_nothing() -> None:
    world, caption = ShapesConfig(), "a red circle moves left behind a green square"
    rng = np.random.default_rng(0)
    empty = np.broadcast_to(np.array(BACKGROUND, np.uint8), (world.num_frames, world.height, world.width, 3))
    noise = rng.integers(0, 256, empty.shape, dtype=np.uint8)
    alone = draw(world, Scene(Claim.of(caption), start=(20, 9), place=(10, 11))).copy()
    alone[(alone == COLOURS["green"]).all(-1)] = BACKGROUND
    for video in (empty, noise, alone):
        assert parse(world, video).scene is None
        assert not any(matches(world, video, caption).values())


def test_the_figure_in_front_hides_the_other() -> None:
    world = ShapesConfig()
    scene = draw_scene(world, np.random.default_rng(1))
    other = next(depth for depth in DEPTHS if depth != scene.claim.depth)
    swapped = dataclasses.replace(scene, claim=dataclasses.replace(scene.claim, depth=other))
    one, two = draw(world, scene), draw(world, swapped)
    assert (one[0] == two[0]).all()
    assert (one != two).any()


def test_shapes_differ_by_more_than_a_corner() -> None:
    for size in (8, 9, 16):
        masks = [mask(shape, size) for shape in SHAPES]
        differences = [(a != b).mean() for i, a in enumerate(masks) for b in masks[:i]]
        assert min(differences) > 0.1
        assert all(m.any(0).all() and m.any(1).all() for m in masks)  # each fills its box


def test_a_seed_gives_its_episode_and_the_hand_changes_nothing() -> None:
    one, two = Shapes(ShapesConfig()), Shapes(ShapesConfig())
    clips = [
        record(env, ScriptedPolicyConfig().build(), 20, seed, "clip") for env, seed in ((one, 4), (two, 4), (one, 5))
    ]
    assert len(clips[0]) == ShapesConfig().num_frames  # the episode ends by itself
    assert clips[0].meta["caption"] == clips[1].meta["caption"]
    assert np.array_equal(clips[0].video, clips[1].video)
    assert not np.array_equal(clips[0].video, clips[2].video)
    assert all(matches(ShapesConfig(), clip.video, clip.meta["caption"])[a] for clip in clips for a in ASPECTS)
    with pytest.raises(ValueError, match="reset first"):
        one.step(None)


def test_captions_go_through_shards_into_the_batch(tmp_path: Path) -> None:
    world, policy = Shapes(ShapesConfig()), ScriptedPolicyConfig().build()
    clips = [record(world, policy, 8, seed, f"clip-{seed}") for seed in range(6)]
    said = {clip.key: clip.meta["caption"] for clip in clips}
    make_dataset(tmp_path / "all", clips)
    for cache in (0, 64):  # windows decoded one by one, and whole clips kept
        config = DataConfig(
            folder="", clip_frames=8, clip_stride=1, global_batch_size=4, num_readers=1, cache_megabytes=cache
        )
        batch = open_batches(config, tmp_path / "all", 0, 1, seed=0).batch(0)
        assert batch.given.text == tuple(said[name.split("@")[0]] for name in batch.sample_ids)
    bare = [dataclasses.replace(clips[0], meta={k: v for k, v in clips[0].meta.items() if k != "caption"}), *clips[1:]]
    make_dataset(tmp_path / "some", bare)
    with pytest.raises(DataError, match="clip-0@0 has no caption"):
        open_batches(dataclasses.replace(config, global_batch_size=6), tmp_path / "some", 0, 1, seed=0).batch(0)
    with pytest.raises(DataError, match="caption is 3, need text"):
        check(dataclasses.replace(clips[0], meta={**clips[0].meta, "caption": 3}))


def make_dataset(folder: Path, clips: list) -> Dataset:
    world = ShapesConfig()
    manifest = DatasetManifest(
        action_space=Shapes(world).action_space, fps=world.fps, height=world.height, width=world.width, kind="video",
        shards=(write_shard(folder / "00000.tar", clips),), source={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return Dataset.open(folder)


def test_captions_and_worlds_that_make_no_sense_are_refused() -> None:
    for caption in ("", "a red circle", "a red circle moves left behind a green square.", "a pink circle moves left"):
        with pytest.raises(ValueError, match="is no caption of this world"):
            Claim.of(caption)
    with pytest.raises(ValueError, match="give at least 7 frames"):
        ShapesConfig(num_frames=5)
    with pytest.raises(ValueError, match="no room"):
        ShapesConfig(height=20)
    with pytest.raises(ValueError, match="snap 4 must be at least 1, and divide speed 6 or be a multiple of it"):
        ShapesConfig(speed=6, snap=4)
    with pytest.raises(ValueError, match="at least two colours"):
        ShapesConfig(colours=("red",))
    with pytest.raises(ValueError, match="name each at most once"):
        ShapesConfig(shapes=("circle", "heart"))
    with pytest.raises(ValueError, match="must be uint8"):
        parse(ShapesConfig(), np.zeros((8, 32, 31, 3), np.uint8))
