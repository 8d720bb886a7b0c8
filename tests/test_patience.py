"""Reads that fail for a moment are tried again and nobody notices; those that go on failing end with their file's name."""

import errno
import itertools
import logging
import os
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_pipeline import patience
from data_pipeline.loader import DataConfig, Skip, open_batches
from data_pipeline.patience import TRANSIENT, Patience, RetryConfig
from data_pipeline.schema import DataError
from tests.test_shards import make_dataset

QUICK = RetryConfig(attempts=4, first_seconds=0.001, most_seconds=0.004)


def data(**changes: object) -> DataConfig:
    values = {"clip_frames": 5, "clip_stride": 3, "global_batch_size": 6, "num_readers": 2, "retries": QUICK}
    return DataConfig(folder="x", **{**values, "cache_megabytes": 0, **changes})


def flaky(monkeypatch: pytest.MonkeyPatch, share: float, code: int, times: int) -> list[int]:
    """From now on `share` of the places that are read fail `times` times with `code`; returns the places that failed."""
    left, failed, real, lock = {}, [], os.pread, threading.Lock()

    def pread(handle: int, size: int, offset: int) -> bytes:
        fails = random.Random(f"fails at {offset}").random() < share  # whatever thread comes first
        with lock:
            if left.setdefault(offset, times if fails else 0):
                left[offset] -= 1
                failed.append(offset)
                raise OSError(code, os.strerror(code))
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return failed


def stalling(monkeypatch: pytest.MonkeyPatch, share: float, seconds: float) -> list[int]:
    """From now on `share` of the places that are read take `seconds` when they are read first; returns those that did."""
    seen, stalled, real, sleep = set(), [], os.pread, time.sleep

    def pread(handle: int, size: int, offset: int) -> bytes:
        if offset not in seen:
            seen.add(offset)
            if random.Random(offset).random() < share:  # whatever thread comes first
                stalled.append(offset)
                sleep(seconds)
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return stalled


@pytest.mark.parametrize("num_workers", [0, 3])
def test_one_read_in_five_that_fails_once_changes_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    make_dataset(tmp_path, "latents", (12, 11))
    smooth = [batch for batch, _ in itertools.islice(open_batches(data(), tmp_path, 0, 1, 3)(0), 12)]
    failed = flaky(monkeypatch, 0.2, errno.EIO, times=1)
    batches = open_batches(data(num_workers=num_workers), tmp_path, 0, 1, 3)
    rough = [batch for batch, _ in itertools.islice(batches(0), 12)]
    assert len(failed) > 3
    assert batches.dataset.patience.retries == len(failed)
    assert (batches.skipped, batches.bad) == (0, {})
    for a, b in zip(smooth, rough, strict=True):
        assert a.sample_ids == b.sample_ids
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.given.action.keys, b.given.action.keys)


@pytest.mark.case("D-15")
@pytest.mark.parametrize("seconds", [0.05, pytest.param(2.0, marks=pytest.mark.slow)])
def test_reads_that_stall_and_fail_lose_repeat_and_reorder_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """One place in five fails once, one in twenty takes `seconds` once, as a tired network storage does it."""
    make_dataset(tmp_path, "latents", (12, 11))
    smooth = [batch for batch, _ in itertools.islice(open_batches(data(), tmp_path, 0, 1, 3)(0), 12)]
    failed = flaky(monkeypatch, 0.2, errno.EIO, times=1)
    stalled = stalling(monkeypatch, 0.05, seconds)
    batches = open_batches(data(num_workers=3), tmp_path, 0, 1, 3)
    rough = [batch for batch, _ in itertools.islice(batches(0), 12)]
    assert len(stalled) >= 2
    assert batches.dataset.patience.retries == len(failed) > 3
    assert [batch.sample_ids for batch in rough] == [batch.sample_ids for batch in smooth]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(smooth, rough, strict=True))


def test_a_read_that_goes_on_failing_ends_with_its_file_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(tmp_path, "latents")
    flaky(monkeypatch, 1.0, errno.ESTALE, times=99)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataError, match=r"00\d.tar could not be read in 4 attempts: .*same command again"),
    ):
        next(open_batches(data(num_workers=0), tmp_path, 0, 1, 3)(0))
    assert len(caplog.records) == 3
    assert "retry number 3" in caplog.text
    batches = open_batches(data(num_workers=0, bad_samples=Skip(budget=0.5)), tmp_path, 0, 1, 3)
    with pytest.raises(DataError, match=r"3 of 5 clips are bad, the budget is 50.0%; the last: .*4 attempts"):
        next(batches(0))


def test_errors_that_waiting_cannot_heal_come_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path, "latents")
    failed = flaky(monkeypatch, 1.0, errno.EACCES, times=99)
    with pytest.raises(PermissionError):
        next(open_batches(data(num_workers=0), tmp_path, 0, 1, 3)(0))
    assert len(failed) == 1


def test_a_read_that_comes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, real = make_dataset(tmp_path, "latents"), os.pread
    whole = dataset.frames(1)
    monkeypatch.setattr(os, "pread", lambda handle, size, offset: real(handle, min(size, 100), offset))
    assert (type(dataset).open(tmp_path).frames(1) == whole).all()


def test_waits_double_up_to_the_longest_and_are_cut_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=waits.append))  # other threads sleep as ever

    def broken() -> bytes:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    for _ in range(20):
        with pytest.raises(DataError, match="7 attempts"):
            Patience()(broken, Path("x.tar"))
    for number, longest in enumerate((0.1, 0.2, 0.4, 0.8, 1.6, 3.2)):
        mine = waits[number::6]
        assert all(longest / 2 <= wait <= longest for wait in mine)
        assert len(set(mine)) == 20
    assert errno.ENOENT not in TRANSIENT
    with pytest.raises(ValueError, match="attempts 0"):
        RetryConfig(attempts=0)
