"""Datasets at an address give the batches that they give on disk, whatever the server does; the cache keeps its bound."""

import dataclasses
import itertools
import json
import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline import shard_cache
from data_pipeline.loader import DataConfig, MixturePart, Skip
from data_pipeline.mirror import mirror_folder, mirrored
from data_pipeline.mixture import open_mixture
from data_pipeline.patience import RetryConfig
from data_pipeline.remote import RemoteFolder
from data_pipeline.schema import DataError
from data_pipeline.shard_cache import ShardCacheConfig, locked
from data_pipeline.shards import Dataset, write_manifest, write_shard
from launch import stage_state
from launch.linting import look
from launch.run_config import load_run
from launch.stages import check_inputs
from tests.shard_server import ShardServer, shard_server
from tests.test_shards import make_dataset, make_manifest, make_sample, same
from tests.waiting import wait_for
from wm.batch import Batch
from wm.config import from_dict, to_dict

SIZES = (3, 2, 4, 1)
QUICK = RetryConfig(attempts=4, first_seconds=0.001, most_seconds=0.004)
CACHE = ShardCacheConfig()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    make_dataset(tmp_path / "served", "latents", SIZES)
    with shard_server(tmp_path / "served") as one:
        yield one


def data(folder: str, **changes: Any) -> DataConfig:
    values = {"clip_frames": 5, "clip_stride": 3, "global_batch_size": 6, "num_readers": 2, "num_workers": 2}
    return DataConfig(**{"folder": folder, "retries": QUICK, "shard_cache": CACHE, **values, **changes})


def take(config: DataConfig, root: Path, num: int = 8, cursor: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
    batches = open_mixture(config, root, rank, world, 3)
    return [batch for batch, _ in itertools.islice(batches(cursor), num)]


def alike(a: list[Batch], b: list[Batch]) -> bool:
    return [x.sample_ids for x in a] == [y.sample_ids for y in b] and all(
        torch.equal(x.latents, y.latents) and torch.equal(x.given.action.keys, y.given.action.keys)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of 2000 bytes, so that a shard takes several."""
    real, size = RemoteFolder.__init__, 2000
    monkeypatch.setattr(
        RemoteFolder, "__init__", lambda self, address, seconds, _, p: real(self, address, seconds, size, p)
    )
    return size


def test_an_address_gives_the_batches_of_the_folder_and_the_next_run_asks_for_no_shard(
    server: ShardServer, tmp_path: Path
) -> None:
    here = take(data("served"), tmp_path)
    assert alike(take(data(server.address), tmp_path), here)
    shards = {name: count for name, count in server.requests.items() if name.endswith(".tar")}
    assert set(shards.values()) == {1}
    assert alike(take(data(server.address + "/", num_workers=0), tmp_path), here)
    assert {name: count for name, count in server.requests.items() if name.endswith(".tar")} == shards
    assert server.requests["000.tar.index.json"] == 1
    ranks = [take(data(f"file://{server.folder}"), tmp_path, rank=rank, world=2) for rank in range(2)]
    for whole, *parts in zip(here, *ranks, strict=True):
        assert [part.sample_ids for part in parts] == [whole.sample_ids[rank::2] for rank in range(2)]
    parts = (MixturePart(folder=server.address, weight=2.0),)
    mixed = take(data("served", mixture=parts), tmp_path)
    assert alike(mixed, take(data("served", mixture=(MixturePart(folder="served", weight=2.0),)), tmp_path))


@pytest.mark.case("D-15")
def test_a_server_that_stalls_fails_and_cuts_off_changes_no_batch(
    server: ShardServer, tmp_path: Path, small_blocks: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.trouble = {
        "dataset.json": ["503", "cut"],
        "000.tar.index.json": ["cut", "500"],
        "000.tar": ["none", "cut", "503", "none", "stall"],
        "001.tar": ["429", "none", "cut", "cut", "cut"],
        "002.tar": ["none", "garble"],
    }
    # A second is also what a busy machine may take: what is answered too late is read again, and as often as that takes.
    config = data(
        server.address,
        shard_cache=dataclasses.replace(CACHE, timeout_seconds=1.0),
        retries=dataclasses.replace(QUICK, attempts=30),
    )
    with caplog.at_level(logging.WARNING):
        assert alike(take(config, tmp_path), take(data("served"), tmp_path))
    assert not any(server.trouble.values())
    for said in (
        "the server answers 503",
        "nothing came for 1 s",
        "002.tar: not the bytes of its manifest",
        "retry number",
    ):
        assert said in caplog.text
    # Only blocks that failed were read again, but for the shard that came garbled.
    size = (server.folder / "000.tar").stat().st_size
    failed = sum("data/000.tar: " in line and "reading it again" in line for line in caplog.messages)
    assert failed >= 3
    assert server.requests["000.tar"] == -(-size // small_blocks) + failed


def test_a_server_without_ranges_is_read_in_one_piece(server: ShardServer, tmp_path: Path, small_blocks: int) -> None:
    server.ranges = False
    server.trouble = {"000.tar": ["cut"]}
    assert alike(take(data(server.address), tmp_path), take(data("served"), tmp_path))
    assert server.requests["000.tar"] == 2


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (["503"] * 9, r"data/001.tar could not be read in 4 attempts: the server answers 503; .*same command again"),
        (["404"], r"data/001.tar is missing; upload"),
        (["403"], r"data/001.tar may not be read \(403.*credentials"),
        (
            ["garble"] * 2,
            r"data/001.tar: its \d+ bytes have SHA-256 \w+..., dataset.json says \w+...; upload this shard",
        ),
    ],
)
def test_what_waiting_cannot_heal_ends_a_strict_run_in_one_line_and_is_skipped_within_a_budget(
    server: ShardServer, tmp_path: Path, trouble: list[str], says: str
) -> None:
    server.trouble = {"001.tar": list(trouble)}
    with pytest.raises(DataError, match=says) as error:
        take(
            data(server.address, num_workers=0, shard_cache=dataclasses.replace(CACHE, prefetch_shards=0)), tmp_path, 20
        )
    assert "\n" not in str(error.value)
    server.trouble = {"001.tar": list(trouble) * 10_000}  # it is tried ahead of every sample
    batches = open_mixture(data(server.address, bad_samples=Skip(budget=0.25)), tmp_path, 0, 1, 3)
    taken = [name for batch, _ in itertools.islice(batches(0), 12) for name in batch.sample_ids]
    assert sorted(batches.bad) == [3, 4]
    assert not any(name.startswith(("clip-003", "clip-004")) for name in taken)


def big_sample(number: int) -> Any:
    """About 300 kB of latents."""
    sample = make_sample(number, "latents")
    latents = np.random.default_rng(number).normal(size=(len(sample), 4, 60, 60)).astype(np.float16)
    return dataclasses.replace(sample, latents=latents)


@pytest.fixture
def big(tmp_path: Path) -> Iterator[ShardServer]:
    """Eight shards of about 0.33 MB, of which three fit into a megabyte."""
    folder = tmp_path / "served"
    shards = [write_shard(folder / f"{i}.tar", [big_sample(i)]) for i in range(8)]
    write_manifest(folder, make_manifest(shards, "latents"))
    assert 3 * shards[0].size < 1 << 20 < 4 * min(entry.size for entry in shards)
    with shard_server(folder) as one:
        yield one


def cached(root: Path) -> int:
    """Bytes of shards and of what is on its way, at a moment at which nothing takes the place of another."""
    total = 0
    with locked(root / "cache" / ".room"):
        for path in (*root.glob("cache/*/*.tar"), *root.glob("cache/*/.*.fetch")):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
    return total


def test_the_cache_never_outgrows_its_bound_and_what_was_read_longest_ago_goes(
    big: ShardServer, tmp_path: Path
) -> None:
    config = ShardCacheConfig(megabytes=1, prefetch_shards=2)
    dataset = Dataset.open(mirrored(big.address, tmp_path / "cache", config, QUICK))
    for clip in (0, 1, 2, 0, 3, 0):  # 1 was read longest ago when 3 came
        assert same(dataset.read(clip), big_sample(clip))
        assert cached(tmp_path) <= 1 << 20
    assert sorted(path.name for path in dataset.folder.glob("*.tar")) == ["0.tar", "2.tar", "3.tar"]
    with big.lock:  # nothing is answered meanwhile, or the first would make room for the third
        dataset.prefetch([4, 5, 6])  # two at a time
    wait_for(
        lambda: {path.name for path in dataset.folder.glob("*.tar")} >= {"4.tar", "5.tar"}, "what was asked for", 60
    )
    assert big.requests["6.tar"] == 0
    assert cached(tmp_path) <= 1 << 20
    assert dataset.read(5) is not None
    assert big.requests["5.tar"] == 1
    dataset.verify()
    tiny = dataclasses.replace(config, megabytes=1)
    entry = dataclasses.replace(dataset.manifest.shards[0], size=2 << 20)
    with pytest.raises(DataError, match=r"0.tar has 2097152 bytes.*give more"):
        shard_cache.ShardCache(dataset.folder, dataset.cache.remote, tiny)._fetch(entry, ahead=False)


def read_all(folder: Path, seed: int, watched: Any) -> None:
    dataset = Dataset.open(folder)
    for clip in np.random.default_rng(seed).integers(0, 8, 25).tolist():
        watched.put(same(dataset.read(clip), big_sample(clip)))


def test_processes_that_share_a_small_cache_read_right_and_keep_its_bound(big: ShardServer, tmp_path: Path) -> None:
    folder = mirrored(big.address, tmp_path / "cache", ShardCacheConfig(megabytes=1), QUICK)
    context = multiprocessing.get_context("fork")  # fsspec and its loop begin anew in a child
    right = context.Queue()
    readers = [context.Process(target=read_all, args=(folder, seed, right)) for seed in range(2)]
    for reader in readers:
        reader.start()
    most = 0
    while any(reader.is_alive() for reader in readers):
        most = max(most, cached(tmp_path))
        time.sleep(0.002)
    for reader in readers:
        reader.join()
    most = max(most, cached(tmp_path))
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert all(right.get(timeout=5) for _ in range(50))
    assert 0 < most <= 1 << 20


def test_what_a_killed_fetch_left_is_neither_used_nor_counted(big: ShardServer, tmp_path: Path) -> None:
    folder = mirrored(big.address, tmp_path / "cache", ShardCacheConfig(megabytes=1), QUICK)
    for name in ("0.tar", "7.tar"):
        (folder / f".{name}.fetch").write_bytes(b"x" * (1 << 20))
    dataset = Dataset.open(folder)
    assert same(dataset.read(0), big_sample(0))
    assert [path.name for path in folder.glob(".*.fetch")] == []


def test_many_threads_fetch_a_shard_once(server: ShardServer, tmp_path: Path) -> None:
    dataset = Dataset.open(mirrored(server.address, tmp_path / "cache", CACHE, QUICK))
    gate, right = threading.Barrier(6), []

    def read(clip: int) -> None:
        gate.wait()
        right.append(same(dataset.read(clip), make_sample(clip, "latents")))

    threads = [threading.Thread(target=read, args=(clip,)) for clip in (5, 6, 7, 8, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 6
    assert server.requests["002.tar"] == 1


def test_shards_ahead_are_fetched_before_they_are_asked_for(server: ShardServer, tmp_path: Path) -> None:
    batches = open_mixture(data(server.address, num_workers=0), tmp_path, 0, 1, 3)
    next(batches(0))
    # Counted after the shard has its name: whoever waits for the files may find the last one not yet counted.
    wait_for(lambda: batches.dataset.cache.fetched == len(SIZES), "what was asked for", 60)
    assert len(list(batches.dataset.folder.glob("*.tar"))) == len(SIZES)


def test_a_dataset_that_changed_at_its_address_is_seen_and_what_stayed_is_kept(
    server: ShardServer, tmp_path: Path
) -> None:
    folder = mirrored(server.address, tmp_path / "cache", CACHE, QUICK)
    dataset = Dataset.open(folder)
    for clip in range(10):
        dataset.read(clip)
    shards = [*dataset.manifest.shards]
    shards[1] = write_shard(server.folder / "001.tar", [make_sample(77, "latents")])
    write_manifest(server.folder, make_manifest(shards[:3], "latents"))
    before = dict(server.requests)
    again = Dataset.open(mirrored(server.address, tmp_path / "cache", CACHE, QUICK))
    assert [path.name for path in sorted(folder.glob("*.tar"))] == ["000.tar", "002.tar"]
    assert same(again.read(3), make_sample(77, "latents"))
    assert same(again.read(4), make_sample(5, "latents"))
    asked = {name for name, count in server.requests.items() if count > before.get(name, 0)}
    assert asked == {"dataset.json", "001.tar.index.json", "001.tar"}
    # A shard that changes while the run goes on has other bytes than the manifest that the run began with.
    write_shard(server.folder / "000.tar", [make_sample(i, "latents") for i in (9, 1, 2)])
    (folder / "000.tar").unlink()
    with pytest.raises(DataError, match=r"data/000.tar"):
        again.read(0)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("pipe://touch ran", "not read from pipe://; valid are s3://"),
        ("simplecache::http://127.0.0.1/x", "not read from"),
        ("http::file://x", "not read from"),
        ("memory://x", "not read from memory"),
        ("https://me:secret@127.0.0.1/x", "holds no user"),
        ("https://127.0.0.1/x?token=secret", "holds no user"),
    ],
)
def test_addresses_that_run_chain_or_tell_secrets_are_refused(tmp_path: Path, address: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        mirrored(address, tmp_path, CACHE, QUICK)
    assert "secret" not in str(error.value)


def test_a_server_that_is_not_there_and_a_folder_that_is_no_dataset_are_named(
    server: ShardServer, tmp_path: Path
) -> None:
    (server.folder / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"127.0.0.1.*data/dataset.json cannot be read"):
        mirrored(server.address, tmp_path / "cache", CACHE, QUICK)
    (server.folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"data/dataset.json is missing"):
        mirrored(server.address, tmp_path / "cache", CACHE, QUICK)
    with pytest.raises(DataError, match=r"dataset.json could not be read in 4 attempts"):
        mirrored("http://127.0.0.1:9/data", tmp_path / "cache", CACHE, QUICK)


def test_the_settings_of_a_mirror_are_kept_with_it_and_checked(server: ShardServer, tmp_path: Path) -> None:
    config = data(server.address)
    assert from_dict(DataConfig, to_dict(config)) == config
    folder = mirrored(server.address, tmp_path / "cache", CACHE, QUICK)
    assert folder == mirror_folder(tmp_path, server.address, CACHE)
    assert json.loads((folder / "remote.json").read_text())["address"] == server.address
    (folder / "remote.json").write_text("{}")
    with pytest.raises(DataError, match=r"remote.json cannot be read .*delete this folder"):
        Dataset.open(folder)
    for change in ({"megabytes": 0}, {"prefetch_shards": -1}, {"timeout_seconds": 0.0}):
        with pytest.raises(ValueError, match="shard_cache"):
            dataclasses.replace(CACHE, **change)


def test_a_lock_is_held_by_one_at_a_time_and_leaves_nothing(tmp_path: Path) -> None:
    inside, most = [], []

    def enter(number: int) -> None:
        for _ in range(50):
            with locked(tmp_path / "lock"):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 200
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_reads_an_address_sees_that_it_changed_and_not_where_it_is_cached(
    server: ShardServer, tmp_path: Path
) -> None:
    smoke = Path(__file__).parent.parent / "configs" / "smoke"
    run, elsewhere = (
        load_run(smoke / "dit.yaml", [f"data.folder={server.address}", f"data.shard_cache.folder={folder}"])
        for folder in ("cache", "another")
    )
    before = stage_state._identity_of(run, tmp_path, server.address)
    assert stage_state._identity_of(elsewhere, tmp_path, server.address) == before
    assert stage_state.settings(elsewhere) == stage_state.settings(run)
    assert look([run.located(tmp_path, run.source)], num_clips=2) >= 0
    write_manifest(server.folder, make_manifest([Dataset.open(server.folder).manifest.shards[2]], "latents"))
    assert stage_state._identity_of(run, tmp_path, server.address) != before
    (server.folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"data/dataset.json is missing; upload"):
        check_inputs(run, tmp_path, smoke)
