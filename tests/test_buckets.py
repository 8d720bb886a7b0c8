"""Buckets: one shape a batch, dealt by weight; the stream is a function of the step alone, and each bucket's of its own."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.buckets import Bucketed, open_stream
from data_pipeline.loader import Bucket, DataConfig, MixturePart, open_batches
from data_pipeline.mixture import CYCLE
from data_pipeline.schema import DataError, Sample
from data_pipeline.shards import write_manifest, write_shard
from tests.test_shards import make_manifest, make_sample
from wm.batch import Batch
from wm.config import from_dict, to_dict

# Name of a dataset: its latents' height and width, and the lengths of its clips.
DATASETS = {"a": ((2, 3), (11, 12, 20, 31)), "b": ((4, 6), (9, 14, 30)), "c": ((2, 3), (8, 10, 9))}
STRIDE = 8
BUCKETS = (Bucket(clip_frames=4, weight=3.0), Bucket(clip_frames=13, global_batch_size=6))


def make(number: int, name: str, size: tuple[int, int], frames: int) -> Sample:
    sample = make_sample(number, "latents")
    rng = np.random.default_rng(number)
    return dataclasses.replace(
        sample,
        key=f"{name}-{number}",
        actions={row: rng.random((frames, *v.shape[1:]), dtype=np.float32) for row, v in sample.actions.items()},
        latents=rng.normal(size=(frames, 4, *size)).astype(np.float16),
        meta={"fps": 12.5},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    for name, (size, lengths) in DATASETS.items():
        shard = write_shard(root / name / "0.tar", [make(i, name, size, n) for i, n in enumerate(lengths)])
        manifest = make_manifest([shard], "latents")
        write_manifest(root / name, dataclasses.replace(manifest, height=size[0] * STRIDE, width=size[1] * STRIDE))
    return root


def data(**changes: Any) -> DataConfig:
    parts = (MixturePart(folder="b", weight=2.0), MixturePart(folder="c", weight=0.5))
    values = {"clip_frames": 13, "clip_stride": 2, "global_batch_size": 12, "num_readers": 3, "num_workers": 0}
    return DataConfig(**{"folder": "a", "mixture": parts, "buckets": BUCKETS, **values, **changes})


def take(root: Path, num: int, cursor: int = 0, rank: int = 0, world: int = 1, **changes: Any) -> list[Batch]:
    stream = open_stream(data(**changes), root, rank, world, seed=5)
    return [batch for batch, _ in itertools.islice(stream(cursor), num)]


def shape(batch: Batch) -> tuple[int, ...]:
    frames, _, height, width = batch.latents.shape[1:]
    return frames, height, width


def test_every_batch_has_one_shape_and_shapes_come_by_weight(root: Path) -> None:
    stream = open_stream(data(), root, 0, 1, 5)
    assert isinstance(stream, Bucketed)
    # Short clips: a and c together, and b; long ones: a, and b. c has none that is long enough.
    shares = {(4, 2, 3): 3 * 1.5, (4, 4, 6): 3 * 2.0, (13, 2, 3): 1.0, (13, 4, 6): 2.0}
    dealt = Counter(stream.turns(step)[0] for step in range(CYCLE))
    for bucket, share in enumerate(shares.values()):
        assert abs(dealt[bucket] / CYCLE - share / sum(shares.values())) <= 1 / CYCLE
    batches = take(root, 60)
    assert {shape(batch) for batch in batches} == set(shares)
    assert [list(shares).index(shape(batch)) for batch in batches] == [stream.turns(step)[0] for step in range(60)]
    for batch in batches:
        assert len(batch) == len(batch.sample_ids) == (12 if shape(batch)[0] == 4 else 6)
        assert {name[0] for name in batch.sample_ids} <= ({"b"} if shape(batch)[1] == 4 else {"a", "c"})
        assert batch.given.action.keys.shape[:2] == batch.latents.shape[:2]


def test_a_bucket_gives_the_stream_that_it_would_give_alone(root: Path) -> None:
    names = [name for batch in take(root, 120) if shape(batch) == (13, 4, 6) for name in batch.sample_ids]
    stream = open_stream(data(), root, 0, 1, 5)
    seed = stream.parts[3]._order.seed
    alone = open_batches(data(mixture=(), buckets=(), global_batch_size=6), root / "b", 0, 1, seed)
    expected = [name for batch, _ in itertools.islice(alone(0), 120) for name in batch.sample_ids]
    assert len(names) > 40
    assert names == expected[: len(names)]
    epoch = names[: alone.num_windows]
    assert len(set(epoch)) == alone.num_windows  # each window once before any comes again


def test_a_bucket_may_have_first_frames_alone(root: Path) -> None:
    buckets = (Bucket(clip_frames=13, global_batch_size=6), Bucket(clip_frames=1, from_start=True))
    batches = take(root, 60, buckets=buckets)
    starts = {
        length: {name.split("@")[1] for b in batches if shape(b)[0] == length for name in b.sample_ids}
        for length in (1, 13)
    }
    assert starts[1] == {"0"}
    assert len(starts[13]) > 1


def test_restarts_ranks_and_threads_change_nothing(root: Path) -> None:
    straight = take(root, 14)
    resumed = [*take(root, 3), *take(root, 5, cursor=36, num_workers=2), *take(root, 6, cursor=96, num_workers=1)]
    for a, b in zip(straight, resumed, strict=True):
        assert (a.step, a.sample_ids, a.index.tolist()) == (b.step, b.sample_ids, b.index.tolist())
        assert torch.equal(a.latents, b.latents)
    for world in (2, 3, 6):
        ranks = [take(root, 14, rank=rank, world=world, num_workers=rank % 3) for rank in range(world)]
        for whole, *parts in zip(straight, *ranks, strict=True):
            for rank, part in enumerate(parts):
                assert part.sample_ids == whole.sample_ids[rank::world]
                assert part.index.tolist() == whole.index.tolist()[rank::world]
                assert torch.equal(part.given.action.axes, whole.given.action.axes[rank::world])


def test_places_in_the_stream_are_each_given_once_over_all_buckets(root: Path) -> None:
    places = [place for batch in take(root, 50) for place in batch.index.tolist()]
    assert len(set(places)) == len(places)
    assert places == sorted(places)
    assert [batch.step for batch in take(root, 4, cursor=24)] == [2, 3, 4, 5]


def test_what_cannot_be_bucketed_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="6 does not divide among 4 ranks"):
        take(root, 1, world=4)
    with pytest.raises(DataError, match=r"no clip has the 99 frames of a bucket \(the longest has 31\)"):
        take(root, 1, clip_frames=99, buckets=(Bucket(clip_frames=99),))
    with pytest.raises(ValueError, match="longest bucket has 4 frames and clip_frames is 13"):
        data(buckets=BUCKETS[:1])
    with pytest.raises(ValueError, match="largest batch of a bucket has 24"):
        data(buckets=(Bucket(clip_frames=13, global_batch_size=24),))
    with pytest.raises(DataError, match=r"b has height 32.*or read them in data.buckets"):
        take(root, 1, clip_frames=4, buckets=())
    assert from_dict(DataConfig, to_dict(data())) == data()
