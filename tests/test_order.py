"""Every window comes once an epoch, whatever the readers and blocks; windows lie inside their clip and cover it."""

from collections import Counter

import numpy as np
import pytest

from data_pipeline.order import Order, uniform
from data_pipeline.windows import Windows

# Shards and clips of unlike size, one clip and one shard without a window: 28 windows.
SHARDS = [[3, 1, 4], [1, 5], [0], [9, 2, 0, 3]]
TOTAL = 28
ALL = Counter((clip, window) for clip, n in enumerate(n for shard in SHARDS for n in shard) for window in range(n))


@pytest.mark.parametrize("num_readers", [1, 2, 3, 5, 8, 28, 40])
@pytest.mark.parametrize("block_clips", [1, 2, 100])
@pytest.mark.case("D-07")
def test_every_window_comes_once_in_each_epoch(num_readers: int, block_clips: int) -> None:
    order = Order(SHARDS, seed=3, num_readers=num_readers, block_clips=block_clips)
    assert order.num_windows == TOTAL
    for epoch in range(3):
        samples = [order.sample(i) for i in range(epoch * TOTAL, (epoch + 1) * TOTAL)]
        assert {sample[0] for sample in samples} == {epoch}
        assert Counter(sample[1:] for sample in samples) == ALL


@pytest.mark.case("D-07")
def test_epochs_and_seeds_differ_and_calls_do_not() -> None:
    order, again = Order(SHARDS, seed=0), Order(SHARDS, seed=0)
    first = [order.sample(i)[1:] for i in range(TOTAL)]
    assert first != [order.sample(i)[1:] for i in range(TOTAL, 2 * TOTAL)]
    assert first != [Order(SHARDS, seed=1).sample(i)[1:] for i in range(TOTAL)]
    far = 10**12  # any place of the stream can be asked for first
    assert again.sample(far) == order.sample(far)
    assert [again.sample(i)[1:] for i in reversed(range(TOTAL))] == first[::-1]


def test_a_reader_needs_only_a_block_of_clips_at_a_time() -> None:
    clips, windows, readers, block = 64, 10, 4, 2
    order = Order([[windows] * 16] * 4, seed=0, num_readers=readers, block_clips=block)
    for reader in range(readers):
        seen = [order.sample(i)[1] for i in range(reader, order.num_windows, readers)]
        assert len(set(seen)) == clips // readers  # nothing is shared between readers
        for start in range(0, len(seen), block * windows):
            assert len(set(seen[start : start + block * windows])) == block


def test_the_order_is_the_same_for_ever() -> None:
    """A run resumed after an upgrade must see the stream that it began with."""
    order = Order(SHARDS, seed=7, num_readers=3, block_clips=2)
    assert [order.sample(i)[1:] for i in range(6)] == [(6, 7), (6, 8), (0, 1), (6, 5), (9, 1), (1, 0)]


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no windows"):
        Order([[0, 0], []], seed=0)
    with pytest.raises(ValueError, match="num_readers 0"):
        Order(SHARDS, seed=0, num_readers=0)


def test_uniform_is_uniform_and_depends_on_every_part_of_its_key() -> None:
    numbers = np.array([uniform(5, i, j) for i in range(100) for j in range(100)])
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 45  # chi square, 19 degrees of freedom: p is about 0.001
    assert len(set(numbers)) == len(numbers)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05


@pytest.mark.parametrize(("num_frames", "clip_frames", "stride"), [(50, 8, 5), (8, 8, 3), (9, 8, 20), (31, 1, 4)])
def test_windows_lie_inside_the_clip_and_differ(num_frames: int, clip_frames: int, stride: int) -> None:
    windows = Windows(clip_frames, stride, seed=2)
    count = windows.count(num_frames)
    assert count == len(range(0, num_frames - clip_frames + 1, stride))
    seen = set()
    for epoch in range(300):
        starts = [windows.start(num_frames, np.array([]), epoch, 4, w) for w in range(count)]
        assert len(set(starts)) == count
        assert all(0 <= s <= num_frames - clip_frames for s in starts)
        seen.update(starts)
    assert seen == set(range(num_frames - clip_frames + 1))  # every alignment is seen


def test_a_clip_shorter_than_a_window_has_none() -> None:
    assert Windows(8, 1, seed=0).count(7) == 0


def test_from_the_start_a_clip_has_one_window_and_it_begins_there() -> None:
    windows = Windows(4, 1, seed=3, event_fraction=1.0, from_start=True)
    assert [windows.count(num_frames) for num_frames in (1, 3, 4, 5, 40)] == [0, 0, 1, 1, 1]
    for epoch in range(20):
        assert windows.start(40, np.array([9, 30]), epoch, 2, 0) == 0
        assert windows.starts(40, epoch, 2).tolist() == [0]


def test_event_windows_hold_a_change_in_their_later_half() -> None:
    changed = np.full(60, 0.012)  # a moving cursor
    changed[[2, 20, 21, 59]] = [0.5, 0.04, 0.2, 0.9]
    windows = Windows(10, 4, seed=1, event_fraction=0.6, event_area=0.03)
    plain = Windows(10, 4, seed=1)
    events = windows.events(tuple(changed))
    assert events.tolist() == [20, 21, 59]  # frame 2 can never have half a window before it
    moved, chosen = 0, set()
    for epoch in range(400):
        start = windows.start(60, events, epoch, 0, 3)
        assert 0 <= start <= 50
        assert start == windows.start(60, events, epoch, 0, 3)
        held = [int(e) for e in events if start + 5 <= e < start + 10]
        if start != plain.start(60, events, epoch, 0, 3):
            moved += 1
            assert held
            chosen.update(held)
    assert 0.5 * 400 < moved < 0.7 * 400
    assert chosen == {20, 21, 59}


def test_a_clip_without_events_is_windowed_as_ever() -> None:
    windows, plain = Windows(10, 4, seed=1, event_fraction=1.0), Windows(10, 4, seed=1)
    none = windows.events((0.0,) * 60)
    assert all(windows.start(60, none, e, 0, 2) == plain.start(60, none, e, 0, 2) for e in range(20))
