"""Clips of different lengths from shards, packed in batches: which come when, and what training makes of them."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_stages
import torch
from gloo_ranks import run_ranks
from tiny_world import COLUMNS, DENOISER, HEIGHT, ROWS, SPACE, WIDTH
from torch import Tensor

from data_pipeline.buckets import open_stream
from data_pipeline.loader import Bucket, DataConfig, MixturePart, open_batches
from data_pipeline.schema import DataError, DatasetManifest, Sample
from data_pipeline.shards import write_manifest, write_shard
from launch.run_config import RunConfig
from wm.batch import Batch
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.caption import TextConditionerConfig
from wm.conditioning.text import ByteTextConfig
from wm.engine.learner import LearnerConfig
from wm.engine.loop import LoopConfig
from wm.models.denoiser import DenoiserConfig
from wm.stages.train_dit import TrainDiTConfig
from wm.stages.train_vae import TrainVAEConfig

LENGTHS = {"a": (3, 7, 2, 5, 11, 4), "b": (6, 1, 3)}
ACTIONS = {"pointer": (2,), "buttons": (2, 3), "keys": (3, 3), "wheel": (2,), "axes": (1,)}
NUM_CLIPS = 6  # of a global batch
WORDS = ByteTextConfig(width=12, depth=1, num_heads=2, max_tokens=24)
DIT = dataclasses.replace(DENOISER.dit, window=3, carry=True, action_window=2)
ACTING = ActionConditionerConfig(tokens=True)
DENOISERS = {
    "actions": DenoiserConfig(dit=DIT, conditioner=ACTING),
    "text": DenoiserConfig(
        dit=dataclasses.replace(DIT, text="joint"), conditioner=TextConditionerConfig(encoder=WORDS, action=ACTING)
    ),
}


def make(key: str, frames: int) -> Sample:
    rng = np.random.default_rng(list(key.encode()))
    return Sample(
        key=key,
        actions={name: rng.random((frames, *shape), dtype=np.float32) for name, shape in ACTIONS.items()},
        meta={"fps": SPACE.fps, "caption": f"clip {key}"},
        latents=rng.normal(size=(frames, 3, ROWS, COLUMNS)).astype(np.float16),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_stages.make_root(tmp_path_factory.mktemp("packed"))
    for name, lengths in LENGTHS.items():
        shard = write_shard(root / name / "0.tar", [make(f"{name}-{i}", frames) for i, frames in enumerate(lengths)])
        sizes = {"height": HEIGHT, "width": WIDTH, "fps": SPACE.fps}
        write_manifest(
            root / name, DatasetManifest(action_space=SPACE, kind="latents", shards=(shard,), source={}, **sizes)
        )
    return root


def data(**changes: Any) -> DataConfig:
    values = {"clip_frames": 5, "clip_stride": 2, "shortest_clip": 2, "global_batch_size": NUM_CLIPS, "num_workers": 0}
    parts = (MixturePart(folder="b", weight=0.7),)
    return DataConfig(**{"folder": "a", "mixture": parts, "num_readers": 3, **values, **changes})


def take(root: Path, num: int, cursor: int = 0, rank: int = 0, world: int = 1, **changes: Any) -> list[Batch]:
    stream = open_stream(data(**changes), root, rank, world, seed=5)
    return [batch for batch, _ in itertools.islice(stream(cursor), num)]


def assert_same(one: Batch, other: Batch) -> None:
    assert (one.step, one.sample_ids, one.lengths) == (other.step, other.sample_ids, other.lengths)
    assert one.index.tolist() == other.index.tolist()
    assert one.given.text == other.given.text
    assert torch.equal(one.latents, other.latents)
    assert torch.equal(one.given.action.axes, other.given.action.axes)


def test_short_clips_come_whole_once_an_epoch_and_long_ones_in_windows(root: Path) -> None:
    stream = open_batches(data(mixture=(), global_batch_size=2), root / "a", 0, 1, 5)
    # 3, 2 and 4 frames are a window each, 5 is one, 7 has two, 11 has four.
    assert stream.num_windows == 10
    epoch = [clip for batch, _ in itertools.islice(stream(0), 5) for clip in batch.clips()]
    made = {clip.sample_ids[0]: clip for clip in epoch}
    assert len(made) == 10
    whole = {f"a-{i}": frames for i, frames in enumerate(LENGTHS["a"])}
    for name, clip in made.items():
        key, start = name.split("@")
        sample, first = make(key, whole[key]), int(start)
        assert clip.latents.shape[:2] == (1, min(5, whole[key]))
        length = clip.latents.shape[1]
        wanted = sample.latents[first : first + length].astype(np.float32)
        np.testing.assert_array_equal(clip.latents[0].numpy(), wanted)
        np.testing.assert_array_equal(clip.given.action.axes[0].numpy(), sample.actions["axes"][first : first + length])
        assert clip.given.text == (f"clip {key}",)


def test_restarts_ranks_and_threads_change_nothing(root: Path) -> None:
    straight = take(root, 9)
    assert len({batch.lengths for batch in straight}) > 1
    resumed = [*take(root, 2), *take(root, 7, cursor=2 * NUM_CLIPS, num_workers=2)]
    for one, other in zip(straight, resumed, strict=True):
        assert_same(one, other)
    for world in (2, 3):
        ranks = [take(root, 9, rank=rank, world=world, num_workers=rank % 2) for rank in range(world)]
        for whole, *parts in zip(straight, *ranks, strict=True):
            for rank, part in enumerate(parts):
                assert part.latents.shape[:2] == (1, sum(part.lengths))
                assert_same(part, whole[rank::world])


def test_buckets_of_clips_in_a_row(root: Path) -> None:
    buckets = (Bucket(clip_frames=3, weight=2.0), Bucket(clip_frames=5, global_batch_size=2))
    batches = take(root, 30, buckets=buckets)
    assert {len(batch) for batch in batches} == {NUM_CLIPS, 2}
    assert {n for batch in batches if len(batch) == NUM_CLIPS for n in batch.lengths} == {2, 3}
    assert {n for batch in batches if len(batch) == 2 for n in batch.lengths} == {2, 3, 4, 5}


def losses_and_gradients(stage: Any, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of `batches`, and its gradients."""
    module = stage.denoiser.module
    total = torch.stack([stage.loss(batch)[0] for batch in batches]).mean()
    gradients = torch.autograd.grad(total, list(module.parameters()), allow_unused=True)
    named = zip(dict(module.named_parameters()), gradients, strict=True)
    return total, {name: gradient for name, gradient in named if gradient is not None}


@pytest.mark.parametrize(("name", "world"), [("actions", 3), ("text", 1), ("text", 2)])
def test_loss_and_gradients_are_those_of_the_clips_alone_at_any_number_of_ranks(
    root: Path, name: str, world: int
) -> None:
    dropping = {"drop_condition": 0.3, "drop_text": 0.3, "learn_first": False, "change_weight": 0.5}
    stage = tiny_stages.make("train_dit", tiny_stages.context(root), denoiser=DENOISERS[name], **dropping)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in stage.denoiser.module.parameters():
            parameter.normal_(std=0.1)
    (batch,) = take(root, 1, cursor=NUM_CLIPS)
    assert len(set(batch.lengths)) > 2
    alone = losses_and_gradients(stage, list(batch.clips()))
    parts = [take(root, 1, cursor=NUM_CLIPS, rank=rank, world=world)[0] for rank in range(world)]
    packed = losses_and_gradients(stage, parts)
    torch.testing.assert_close(packed[0], alone[0], rtol=1e-5, atol=1e-7)
    assert packed[1].keys() == alone[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in alone[1].values())
    assert sum(bool(gradient.any()) for gradient in alone[1].values()) > len(alone[1]) * 3 / 4
    for key, gradient in packed[1].items():
        torch.testing.assert_close(gradient, alone[1][key], rtol=0, atol=1e-5 * largest)


def test_micro_batches_of_a_row_make_the_step_of_the_row(root: Path) -> None:
    left = []
    for size in (0, 4):
        learner = LearnerConfig(learning_rate=5e-3, warmup_steps=0, average_decay=0.0, micro_batch_size=size)
        stage = tiny_stages.make("train_dit", tiny_stages.context(root), learner, denoiser=DENOISERS["actions"])
        losses = [float(stage.step(batch)["loss"]) for batch in take(root, 3)]
        left.append((losses, stage.sample(take(root, 1)[0])["rollout"]))
    assert left[0][0] == pytest.approx(left[1][0], rel=1e-4)
    assert left[0][1].shape == (5, 3, 2 * HEIGHT, WIDTH)  # of the longest clip


@pytest.mark.slow
def test_two_ranks_of_every_zero_stage_leave_what_one_process_leaves(root: Path) -> None:
    said = run_ranks(str(Path(__file__).with_name("packed_zero_worker.py")), [str(root)], 2, 300)
    for rank, output in enumerate(said):
        path = root / f"packed-{rank}.json"
        assert path.exists(), output
        assert max(json.loads(path.read_text()).values()) <= 2e-5


def test_what_cannot_be_packed_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="shortest_clip is 6 and clip_frames 5"):
        take(root, 1, shortest_clip=6)
    with pytest.raises(DataError, match=r"no clip has 12 frames \(the longest of 6 has 11\); set data.shortest_clip"):
        take(root, 1, shortest_clip=12, clip_frames=13, mixture=())
    run = {"data": data(), "loop": LoopConfig(num_steps=1)}
    assert RunConfig(stage=TrainDiTConfig(), **run).data.shortest_clip == 2
    with pytest.raises(ValueError, match="train_dit alone trains on"):
        RunConfig(stage=TrainVAEConfig(), **run)
    with pytest.raises(ValueError, match="with sequence_parallel 2"):
        RunConfig(stage=TrainDiTConfig(), sequence_parallel=2, **run)
