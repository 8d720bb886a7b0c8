"""Busy windows come more often, by exactly their weight; the stream stays a pure function of (seed, epoch, step)."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.change import change_scores, drawn, weights, window_scores
from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.loader import Batches, DataConfig, open_batches
from data_pipeline.order import Order
from data_pipeline.policies import HumanPolicyConfig
from data_pipeline.record import record
from data_pipeline.schema import DatasetManifest, Sample
from data_pipeline.shards import write_manifest, write_shard
from wm.batch import PRESSED, ActionSpace

SPACE = ActionSpace(buttons=("left",), keys=("KeyA",))
H, W, FRAMES = 20, 30, 8


def sample(change: np.ndarray, key: str = "a") -> Sample:
    """A clip of rest, in whose frame i the part change[i] of the pixels is another than before."""
    video = np.zeros((len(change), H, W, 3), np.uint8)
    for i, part in enumerate(change):
        video[i] = video[i - 1] if i else 0
        video[i].reshape(-1, 3)[: round(part * H * W)] += 1
    shapes = {"pointer": (2,), "buttons": (1, 3), "keys": (1, 3), "wheel": (2,), "axes": (0,)}
    rows = {name: np.zeros((len(change), *shape), np.float32) for name, shape in shapes.items()}
    rows["pointer"][:] = 0.99
    return Sample(key, rows, {"fps": 10.0}, video=video)


def test_a_window_that_slides_sums_what_it_shows() -> None:
    scores = np.random.default_rng(0).random(23)
    starts = np.array([0, 3, 15, 7, 3])
    slow = [sum(scores[start + 1 : start + 8]) for start in starts]
    assert np.allclose(window_scores(scores, starts, 8), slow)


@pytest.mark.parametrize("offset", [0.0, 0.4, 0.999])
def test_each_comes_as_often_as_its_weight_says(offset: float) -> None:
    rng = np.random.default_rng(1)
    given = np.concatenate([np.zeros(5), rng.exponential(size=60)])
    counts = np.bincount(drawn(given, offset), minlength=65)
    exact = given / given.mean()
    assert counts.sum() == 65
    assert (np.abs(counts - exact) < 1 + 1e-9).all()
    assert (counts[:5] == 0).all()


def test_offsets_together_draw_by_weight() -> None:
    given = np.array([0.1, 2.0, 0.7, 1.2])
    counts = sum(np.bincount(drawn(given, (i + 0.5) / 1000), minlength=4) for i in range(1000))
    assert np.allclose(counts / 1000, given, atol=0.01)


def test_equal_weights_draw_everything_once() -> None:
    assert drawn(np.ones(17), 0.3).tolist() == list(range(17))
    assert weights(np.zeros(4), 0.5).tolist() == [1.0] * 4  # a dataset in which nothing happens


def test_an_order_with_weights_keeps_its_length_and_blocks() -> None:
    counts = [[5, 1, 4], [7], [3, 6]]
    flat = np.random.default_rng(2).exponential(size=26)
    order = Order(counts, seed=3, num_readers=3, block_clips=2, weights=lambda epoch: flat)
    first = np.cumsum([0, 5, 1, 4, 7, 3])
    seen: Counter[int] = Counter()
    for i in range(26 * 400):
        epoch, clip, window = order.sample(i)
        assert epoch == i // 26
        seen[int(first[clip] + window)] += 1
    exact = flat / flat.mean() * 400
    assert np.allclose([seen[i] for i in range(26)], exact, rtol=0.2, atol=8)


def test_scores_see_what_is_done_and_not_the_cursor() -> None:
    """On a real recording: a hand that only moves leaves no score where it moves over what does not answer."""
    environment = DesktopSimConfig().build()
    clip = record(environment, HumanPolicyConfig().build(), 300, 5, "a")
    scores = change_scores(clip, environment.action_space)
    quiet = [not kinds for kinds in clip.meta["events"]]
    busy = [
        bool(set(kinds) & {"open", "close", "restore", "minimise", "drag", "raise"}) for kinds in clip.meta["events"]
    ]
    typed = [kinds == ["type"] for kinds in clip.meta["events"]]
    assert sum(quiet) > 50
    assert scores[quiet].max() < 0.12  # a button that goes up near a moving cursor
    assert np.median(scores[quiet]) == 0
    assert min(scores[busy]) > 0.2
    assert min(scores[typed]) > 0.01


def dataset(folder: Path) -> Path:
    """Clips of rest with one busy place each."""
    clips = []
    for number in range(6):
        change = np.zeros(60)
        change[10 + 5 * number : 14 + 5 * number] = 0.25
        clips.append(sample(change, f"clip-{number}"))
    shards = tuple(write_shard(folder / f"{i}.tar", clips[3 * i : 3 * i + 3]) for i in range(2))
    manifest = DatasetManifest(action_space=SPACE, fps=10.0, height=H, width=W, kind="video", shards=shards, source={})
    write_manifest(folder, manifest)
    return folder


def opened(folder: Path, fraction: float, rank: int = 0, world: int = 1, workers: int = 0) -> Batches:
    config = DataConfig(
        folder="x", clip_frames=FRAMES, clip_stride=4, global_batch_size=6, num_readers=2, block_clips=2,
        num_workers=workers, change_fraction=fraction,
    )  # fmt: skip
    return open_batches(config, folder, rank, world, seed=3)


def shown(batches: Batches, epochs: int) -> float:
    """Mean over the windows of `epochs` of the number of frames in which something changes before their eyes."""
    names = []
    for batch, cursor in batches(0):
        names += batch.sample_ids
        if cursor >= epochs * batches.num_windows:
            break
    counts = []
    for name in names:
        key, start = name.split("@")
        first = 10 + 5 * int(key.removeprefix("clip-"))
        counts.append(len(set(range(first, first + 4)) & set(range(int(start) + 1, int(start) + FRAMES))))
    return float(np.mean(counts))


def test_windows_with_change_are_drawn_more_often(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    even, some, all_of_it = (shown(opened(folder, fraction), 20) for fraction in (0.0, 0.5, 1.0))
    assert all_of_it > 2.5  # never a window in which nothing happens
    assert some == pytest.approx((even + all_of_it) / 2, rel=0.1)
    assert even < 0.6


def test_the_stream_is_the_same_over_ranks_threads_and_restarts(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    alone = [batch.sample_ids for batch, _ in itertools.islice(opened(folder, 0.7)(0), 40)]
    for world, workers in ((2, 0), (3, 2)):
        ranks = [itertools.islice(opened(folder, 0.7, rank, world, workers)(60), 30) for rank in range(world)]
        for whole, parts in zip(alone[10:], zip(*ranks, strict=True), strict=True):
            assert all(parts[rank][0].sample_ids == whole[rank::world] for rank in range(world))
    assert alone != [batch.sample_ids for batch, _ in itertools.islice(opened(folder, 0.0)(0), 40)]


def test_presses_count_whole() -> None:
    clip = sample(np.array([0, 1 / 300, 1 / 300]))
    clip.actions["pointer"][:] = 0.0  # on what changes
    assert change_scores(clip, SPACE).tolist() == [0, 0, 0]
    clip.actions["keys"][2, 0, PRESSED] = 1
    assert change_scores(clip, SPACE)[1:].tolist() == [0, pytest.approx(300**-0.5)]


def test_a_fraction_is_a_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="change_fraction"):
        opened(dataset(tmp_path), 1.5)
