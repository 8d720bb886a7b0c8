"""Global batches depend on the cursor alone: not on ranks, threads, restarts or what was prefetched."""

import dataclasses
import gc
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.clip_cache import ClipCache, DecodedClip
from data_pipeline.loader import Batches, DataConfig, Skip, open_batches
from data_pipeline.schema import DataError, DatasetManifest, Sample, to_action
from data_pipeline.shards import Dataset, write_manifest, write_shard
from wm.batch import ActionSpace, Batch
from wm.config import from_dict, to_dict

H, W, C, FRAMES, STRIDE = 6, 10, 4, 5, 3
LENGTHS = ((17, 9, 12), (4, 20), (11, 14, 8, 5))  # one clip is too short


def make_sample(number: int, length: int, kind: str) -> Sample:
    rng = np.random.default_rng(number)
    shapes = {"pointer": (2,), "buttons": (2, 3), "keys": (5, 3), "wheel": (2,), "axes": (1,)}
    return Sample(
        key=f"clip-{number}",
        actions={name: rng.random((length, *shape), dtype=np.float32) for name, shape in shapes.items()},
        meta={"fps": 10.0},
        video=rng.integers(0, 255, (length, H, W, 3), dtype=np.uint8) if kind == "video" else None,
        latents=rng.normal(size=(length, C, 2, 3)).astype(np.float16) if kind == "latents" else None,
    )


def make_dataset(folder: Path, kind: str) -> Path:
    numbers = itertools.count()
    shards = [
        write_shard(folder / f"{i}.tar", [make_sample(next(numbers), length, kind) for length in lengths])
        for i, lengths in enumerate(LENGTHS)
    ]
    space = ActionSpace(buttons=("left", "right"), keys=tuple("abcde"), wheel=True, axes=("x",))
    manifest = DatasetManifest(
        action_space=space, fps=10.0, height=H, width=W, kind=kind, shards=tuple(shards), source={}
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="module", params=["video", "latents"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), request.param)


def data(**changes: Any) -> DataConfig:
    values = {"clip_frames": FRAMES, "clip_stride": STRIDE, "global_batch_size": 12, "num_readers": 4, "block_clips": 2}
    return DataConfig(folder="x", **{**values, "num_workers": 0, **changes})


def stream(
    folder: Path, config: DataConfig, cursor: int = 0, rank: int = 0, world: int = 1
) -> Iterator[tuple[Batch, int]]:
    return open_batches(config, folder, rank, world, seed=5)(cursor)


def take(folder: Path, config: DataConfig, num: int, **place: int) -> list[tuple[Batch, int]]:
    return list(itertools.islice(stream(folder, config, **place), num))


def equal(a: Batch, b: Batch) -> bool:
    frames = (a.video, b.video) if a.video is not None else (a.latents, b.latents)
    actions = [
        (getattr(a.given.action, f.name), getattr(b.given.action, f.name)) for f in dataclasses.fields(a.given.action)
    ]
    tensors = all(torch.equal(x, y) for x, y in [(a.index, b.index), frames, *actions])
    return tensors and (a.step, a.sample_ids) == (b.step, b.sample_ids)


def test_a_batch_is_what_the_recordings_say(folder: Path) -> None:
    dataset = Dataset.open(folder)
    numbers = {clip.key: number for number, clip in enumerate(dataset.clips)}
    batch, cursor = next(stream(folder, data(), cursor=24))
    assert cursor == 36
    assert batch.step == 2
    assert batch.index.tolist() == list(range(24, 36))
    for i, name in enumerate(batch.sample_ids):
        key, start = name.split("@")
        sample = dataset.read(numbers[key], int(start), FRAMES)
        action = to_action(sample.actions)
        assert torch.equal(batch.given.action.keys[i], action.keys[0])
        assert torch.equal(batch.given.action.pointer[i], action.pointer[0])
        if sample.video is not None:
            assert batch.video.dtype == torch.uint8
            assert batch.video.shape == (12, FRAMES, 3, H, W)
            assert np.array_equal(batch.video[i].permute(0, 2, 3, 1).numpy(), sample.video)
        else:
            assert batch.latents.dtype == torch.float32
            assert np.array_equal(batch.latents[i].numpy(), sample.latents.astype(np.float32))


@pytest.mark.parametrize("changes", [{"num_workers": 1}, {"num_workers": 4}, {"cache_megabytes": 0}])
@pytest.mark.case("D-06")
def test_threads_and_cache_change_nothing(folder: Path, changes: dict[str, int]) -> None:
    for (a, x), (b, y) in zip(take(folder, data(), 12), take(folder, data(**changes), 12), strict=True):
        assert x == y
        assert equal(a, b)


@pytest.mark.case("T-03")
@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
@pytest.mark.case("D-08")
def test_ranks_together_see_what_one_sees(folder: Path, world: int) -> None:
    alone = take(folder, data(), 5)
    ranks = [take(folder, data(num_workers=world % 3), 5, rank=rank, world=world) for rank in range(world)]
    for step, (whole, cursor) in enumerate(alone):
        for rank in range(world):
            part, other = ranks[rank][step]
            assert other == cursor
            assert part.step == whole.step
            assert len(part) == 12 // world
            assert part.index.tolist() == whole.index.tolist()[rank::world]
            assert part.sample_ids == whole.sample_ids[rank::world]
            assert torch.equal(part.given.action.axes, whole.given.action.axes[rank::world])


@pytest.mark.case("D-07")
def test_every_sample_comes_once_an_epoch_over_ranks_and_threads(folder: Path) -> None:
    total = open_batches(data(), folder, 0, 1, 5).num_windows
    assert total == sum(
        (length - FRAMES) // STRIDE + 1 for lengths in LENGTHS for length in lengths if length >= FRAMES
    )
    for epoch in range(2):
        names: Counter[str] = Counter()
        for rank, workers in ((0, 0), (1, 2), (2, 3)):
            batches = stream(folder, data(num_workers=workers, global_batch_size=3), 0, rank, 3)
            for batch, _ in itertools.islice(batches, -(-2 * total // 3)):
                here = batch.index // total == epoch
                names.update(name for name, take in zip(batch.sample_ids, here.tolist(), strict=True) if take)
        assert sum(names.values()) == total
        assert set(names.values()) == {1}


@pytest.mark.case("D-09", "D-10")
def test_resuming_anywhere_any_number_of_times_continues_the_stream(folder: Path) -> None:
    straight = [batch for batch, _ in take(folder, data(), 24)]
    for stops in ((1,), (7,), (1, 1, 2), (0, 3, 9, 5), (23,)):
        seen, cursor = [], 0
        for stop in (*stops, 24 - sum(stops)):
            workers = len(seen) % 3  # other threads after each restart
            part = take(folder, data(num_workers=workers), stop, cursor=cursor)
            seen += [batch for batch, _ in part]
            cursor = part[-1][1] if part else cursor
        assert len(seen) == 24
        assert all(equal(a, b) for a, b in zip(seen, straight, strict=True))


@pytest.mark.case("D-08", "D-11")
def test_a_stream_goes_on_at_every_other_number_of_ranks_and_threads(folder: Path) -> None:
    """One batch at a time: 1, 2, 3, 4, 6 and 8 ranks with 0 to 3 threads take turns along one stream."""
    config, cursor = data(global_batch_size=24), 0
    for step, (whole, after) in enumerate(take(folder, config, 6)):
        world = (1, 2, 3, 4, 6, 8)[step]
        changed = dataclasses.replace(config, num_workers=step % 4)
        parts = [take(folder, changed, 1, cursor=cursor, rank=rank, world=world)[0] for rank in range(world)]
        assert {cursor for _, cursor in parts} == {after}
        for rank, (part, _) in enumerate(parts):
            assert part.sample_ids == whole.sample_ids[rank::world]
        cursor = after


@pytest.mark.case("D-09")
def test_the_cursor_counts_consumed_not_prefetched_batches(folder: Path) -> None:
    batches = stream(folder, data(num_workers=3))
    assert [cursor for _, cursor in itertools.islice(batches, 3)] == [12, 24, 36]


def test_closing_or_dropping_the_iterator_ends_its_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, make = threading.Barrier(3), Batches.batch

    def met(batches: Batches, cursor: int) -> Batch:
        if cursor < 36:  # a thread that is done before another batch is asked for would make that one too
            meeting.wait(60)
        return make(batches, cursor)

    def alive() -> int:
        return sum(thread.name.startswith("batches") for thread in threading.enumerate())

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "batch", met)
        batches = stream(folder, data(num_workers=3))
        next(batches)
        assert alive() == 3
        batches.close()
    assert alive() == 0
    batches = stream(folder, data(num_workers=2))
    next(batches)
    del batches
    gc.collect()
    assert alive() == 0


@pytest.mark.parametrize("num_shards", [1, 3, 7])
@pytest.mark.case("D-13")
def test_however_many_shards_every_rank_gets_as_many_batches_as_the_others(tmp_path: Path, num_shards: int) -> None:
    """Batches of 24 on any number of ranks that divides it and any number of threads; the others are refused."""
    numbers = iter(range(14))
    shards = [
        write_shard(
            tmp_path / f"{i}.tar", [make_sample(next(numbers), 9 + i, "latents") for _ in range(14 // num_shards)]
        )
        for i in range(num_shards)
    ]
    space = ActionSpace(buttons=("left", "right"), keys=tuple("abcde"), wheel=True, axes=("x",))
    write_manifest(
        tmp_path,
        DatasetManifest(
            action_space=space, fps=10.0, height=H, width=W, kind="latents", shards=tuple(shards), source={}
        ),
    )
    alone = take(tmp_path, data(global_batch_size=24), 5)
    for world in (3, 4, 8):
        ranks = [
            take(tmp_path, data(global_batch_size=24, num_workers=r % 4), 5, rank=r, world=world) for r in range(world)
        ]
        assert {len(batches) for batches in ranks} == {5}
        for step, (whole, cursor) in enumerate(alone):
            dealt = [ranks[place % world][step][0].sample_ids[place // world] for place in range(24)]
            assert dealt == list(whole.sample_ids)
            assert {batches[step][1] for batches in ranks} == {cursor}
    with pytest.raises(ValueError, match="does not divide among 5"):
        take(tmp_path, data(global_batch_size=24), 1, world=5)


def damage(folder: Path, clip: int) -> None:
    entry = Dataset.open(folder).clips[clip]
    member = entry.members["actions.npz"]
    with (folder / entry.shard).open("r+b") as file:
        file.seek(member.offset + member.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.case("D-18")
def test_a_bad_clip_ends_a_strict_run_with_its_place(tmp_path: Path, num_workers: int) -> None:
    damage(make_dataset(tmp_path, "latents"), 4)
    with pytest.raises(DataError, match=r"1.tar, clip-4.actions.npz at byte \d+: checksum"):
        take(tmp_path, data(num_workers=num_workers), 12)


def test_a_bad_clip_is_skipped_counted_and_named_and_changes_no_other_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = take(make_dataset(tmp_path, "latents"), data(), 12)
    damage(tmp_path, 4)
    config = data(bad_samples=Skip(budget=0.2))
    batches = open_batches(config, tmp_path, 0, 1, 5)
    skipping = list(itertools.islice(batches(0), 12))
    names = [
        (a, b)
        for (x, _), (y, _) in zip(good, skipping, strict=True)
        for a, b in zip(x.sample_ids, y.sample_ids, strict=True)
    ]
    replaced = [(a, b) for a, b in names if a != b]
    assert replaced
    assert all(a.startswith("clip-4@") and not b.startswith("clip-4@") for a, b in replaced)
    assert batches.skipped == len(replaced)
    assert list(batches.bad) == [4]
    assert [record.message.count("clip-4") for record in caplog.records] == [1]
    halves = [take(tmp_path, config, 12, rank=rank, world=2) for rank in range(2)]
    for (whole, _), *parts in zip(skipping, *halves, strict=True):
        assert all(part.sample_ids == whole.sample_ids[rank::2] for rank, (part, _) in enumerate(parts))


@pytest.mark.case("D-05")
def test_more_bad_clips_than_the_budget_end_the_run(tmp_path: Path) -> None:
    make_dataset(tmp_path, "latents")
    for clip in (0, 1, 2, 4, 5):
        damage(tmp_path, clip)
    with pytest.raises(DataError, match=r"3 of 9 clips are bad, the budget is 25.0%; the last: .*checksum"):
        take(tmp_path, data(bad_samples=Skip(budget=0.25)), 24)


@pytest.mark.case("D-08")
def test_what_cannot_be_loaded_is_refused_before_the_start(folder: Path) -> None:
    with pytest.raises(ValueError, match="12 does not divide among 5 ranks"):
        open_batches(data(), folder, 0, 5, 0)
    with pytest.raises(DataError, match=r"no clip has 99 frames .*has 20"):
        open_batches(data(clip_frames=99), folder, 0, 1, 0)
    with pytest.raises(ValueError, match="at least 1"):
        open_batches(data(clip_stride=0), folder, 0, 1, 0)


def test_event_fraction_brings_more_changes_into_the_later_half(tmp_path: Path) -> None:
    video = np.zeros((100, H, W, 3), np.uint8)
    video[60:] = 255  # one change in the whole clip
    rows = {name: np.repeat(values[:1], 100, 0) for name, values in make_sample(0, 1, "video").actions.items()}
    shard = write_shard(tmp_path / "0.tar", [Sample("clip", rows, {"fps": 10.0}, video)])
    manifest = DatasetManifest(
        action_space=ActionSpace(), fps=10.0, height=H, width=W, kind="video", shards=(shard,), source={}
    )
    write_manifest(tmp_path, manifest)

    def share(fraction: float) -> float:
        config = data(clip_frames=10, global_batch_size=300, event_fraction=fraction)
        batch, _ = next(stream(tmp_path, config))
        bright = batch.video.flatten(2).max(-1).values  # (B, T)
        return float(((bright[:, 4] == 0) & (bright[:, 9] == 255)).float().mean())

    assert share(0.0) < 0.1
    assert 0.4 < share(0.5) < 0.65
    assert share(1.0) == 1.0


def test_the_cache_keeps_to_its_size_and_loads_once_for_many_threads() -> None:
    loads: Counter[int] = Counter()
    gate = threading.Barrier(4)

    def load(clip: int) -> DecodedClip:
        loads[clip] += 1
        return DecodedClip(np.zeros((100, clip + 1), np.uint8), {})

    cache = ClipCache(max_bytes=1000)

    def ask() -> None:
        gate.wait()
        assert cache.get(7, load).frames.shape == (100, 8)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == {7: 1}
    cache.get(0, load)
    cache.get(7, load)  # 7 is now the newest
    cache.get(1, load)  # 800 + 100 + 200 bytes: 0 goes
    cache.get(7, load)
    cache.get(0, load)
    assert loads == {7: 1, 0: 2, 1: 1}
    with pytest.raises(KeyError):
        cache.get(3, lambda clip: {}[clip])  # type: ignore[misc]
    assert cache.get(3, load).size == 400


def test_the_config_round_trips() -> None:
    config = data(bad_samples=Skip(budget=0.05))
    assert from_dict(DataConfig, to_dict(config)) == config
    assert from_dict(DataConfig, {"folder": "a", "clip_frames": 2, "global_batch_size": 4}).bad_samples.kind == "strict"
