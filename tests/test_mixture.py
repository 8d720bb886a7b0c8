"""A mixture is its datasets' own streams, dealt by weight: the same for any ranks, threads and restarts."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.loader import DataConfig, MixturePart, Skip, open_batches
from data_pipeline.mixture import CYCLE, Mixture, Turns, open_mixture
from data_pipeline.schema import DataError, Sample
from data_pipeline.shards import write_manifest, write_shard
from tests.test_shards import make_manifest, make_sample
from wm.batch import Batch
from wm.config import from_dict, to_dict

SIZES = {"a": 5, "b": 3, "c": 7}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixture")
    for name, size in SIZES.items():
        write(root / name, name, size)
    return root


def write(folder: Path, name: str, size: int, **changes: Any) -> None:
    samples = [named(make_sample(i, "latents"), f"{name}-{i}") for i in range(size)]
    manifest = make_manifest([write_shard(folder / "0.tar", samples)], "latents")
    write_manifest(folder, dataclasses.replace(manifest, **changes))


def named(sample: Sample, key: str) -> Sample:
    return dataclasses.replace(sample, key=key)


def data(**changes: Any) -> DataConfig:
    parts = (MixturePart(folder="b", weight=0.5), MixturePart(folder="c", weight=2.5))
    values = {"clip_frames": 4, "clip_stride": 2, "global_batch_size": 12, "num_readers": 3, "num_workers": 0}
    return DataConfig(**{"folder": "a", "mixture": parts, "weight": 1.0, **values, **changes})


def take(root: Path, num: int, cursor: int = 0, rank: int = 0, world: int = 1, **changes: Any) -> list[Batch]:
    batches = open_mixture(data(**changes), root, rank, world, seed=5)
    return [batch for batch, _ in itertools.islice(batches(cursor), num)]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0), (0.5, 7.0, 2.25, 0.01)])
def test_turns_are_dealt_one_to_one_and_by_weight(weights: tuple[float, ...]) -> None:
    turns = Turns(weights, seed=3)
    dealt = [turns(position) for position in range(3 * CYCLE)]
    for dataset, weight in enumerate(weights):
        mine = [place for owner, place in dealt if owner == dataset]
        assert mine == list(range(len(mine)))  # none twice, none left out, in order
        assert abs(len(mine) / len(dealt) - weight / sum(weights)) <= 1 / CYCLE
    again = Turns(weights, seed=3)
    assert [again(position) for position in (2999, 17, 1500, 0)] == [dealt[i] for i in (2999, 17, 1500, 0)]
    if len(weights) > 1:
        assert [owner for owner, _ in dealt[:CYCLE]] != [owner for owner, _ in dealt[CYCLE : 2 * CYCLE]]
        assert dealt != [Turns(weights, seed=4)(position) for position in range(3 * CYCLE)]


def test_each_dataset_gives_its_own_stream_at_its_turns(root: Path) -> None:
    mixed = [name for batch in take(root, 20) for name in batch.sample_ids]
    shares = Counter(name[0] for name in mixed)
    assert 0.15 < shares["a"] / len(mixed) < 0.35
    assert 0.5 < shares["c"] / len(mixed) < 0.75
    for number, part in enumerate("abc"):
        alone = open_batches(data(mixture=()), root / part, 0, 1, 5 + number)
        names = [name for batch, _ in itertools.islice(alone(0), 20) for name in batch.sample_ids]
        mine = [name for name in mixed if name.startswith(part)]
        assert mine == names[: len(mine)]


def test_restarts_ranks_and_threads_change_nothing(root: Path) -> None:
    straight = take(root, 9)
    resumed = [*take(root, 2), *take(root, 3, cursor=24, num_workers=2), *take(root, 4, cursor=60)]
    for a, b in zip(straight, resumed, strict=True):
        assert (a.step, a.sample_ids) == (b.step, b.sample_ids)
        assert torch.equal(a.latents, b.latents)
    for world in (2, 3):
        ranks = [take(root, 9, rank=rank, world=world, num_workers=rank) for rank in range(world)]
        for whole, *parts in zip(straight, *ranks, strict=True):
            for rank, part in enumerate(parts):
                assert part.sample_ids == whole.sample_ids[rank::world]
                assert part.index.tolist() == whole.index.tolist()[rank::world]


def test_without_a_mixture_there_is_the_one_dataset(root: Path) -> None:
    batches = open_mixture(data(mixture=()), root, 0, 1, 5)
    assert not isinstance(batches, Mixture)
    assert next(batches(0))[0].sample_ids == next(open_batches(data(mixture=()), root / "a", 0, 1, 5)(0))[0].sample_ids


def test_bad_samples_of_a_part_are_counted(root: Path, tmp_path: Path) -> None:
    for name, size in SIZES.items():
        write(tmp_path / name, name, size)
    shard = tmp_path / "c" / "0.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 // 512 * 512 - 600] ^= 255
    content[700] ^= 255
    shard.write_bytes(content)
    batches = open_mixture(data(bad_samples=Skip(budget=0.5)), tmp_path, 0, 1, 5)
    assert isinstance(batches, Mixture)
    list(itertools.islice(batches(0), 20))
    assert batches.num_skipped > 0
    assert not batches.parts[0].bad
    assert any("c/0.tar, c-0" in line for line in batches.parts[2].bad.values())


@pytest.mark.parametrize(
    ("changes", "says"), [({"fps": 5.0}, "fps 5.0"), ({"height": 32}, "height 32"), ({"kind": "video"}, "kind video")]
)
def test_datasets_that_are_not_alike_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write(tmp_path / "a", "a", 2)
    write(tmp_path / "b", "b", 2, **changes)
    if changes.get("kind") == "video":
        write_manifest(tmp_path / "b", make_manifest([write_shard(tmp_path / "b" / "0.tar", [make_sample(0)])]))
    with pytest.raises(DataError, match=rf"b has {says}.*must be alike"):
        open_mixture(data(mixture=(MixturePart(folder="b"),)), tmp_path, 0, 1, 0)


def test_weights_that_cannot_be_kept_are_refused() -> None:
    for weights in ((1.0, 0.0), (1.0, -1.0), (np.nan,), ()):
        with pytest.raises(ValueError, match="must be above 0"):
            Turns(weights, 0)
    with pytest.raises(ValueError, match="less than one sample in 1000"):
        Turns((1.0, 1e-6), 0)
    assert from_dict(DataConfig, to_dict(data())) == data()
