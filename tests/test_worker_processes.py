"""Processes that read for a rank give what threads give, say where the training says things, and end with it."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.loader import DataConfig, Skip
from data_pipeline.schema import DataError
from data_pipeline.worker_processes import open_with_workers
from tests.test_loader import damage, data, equal, make_dataset
from tests.waiting import wait_for
from wm.batch import Batch

HERE = Path(__file__).parent.parent


def read(
    root: Path, config: DataConfig, num: int, cursor: int = 0, rank: int = 0, world: int = 1
) -> list[tuple[Batch, int]]:
    return list(itertools.islice(open_with_workers(config, root, rank, world, 5)(cursor), num))


def beside(number: int, **changes: Any) -> DataConfig:
    return data(num_workers=number, worker_kind="process", **changes)


def ignores(process: int, number: signal.Signals) -> bool:
    """Whether the process has said so, by its SigIgn in proc_pid_status(5)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return bool(int(dict(line.split(":\t", 1) for line in lines)["SigIgn"], 16) >> (number - 1) & 1)


@pytest.mark.case("D-06", "D-08", "D-11")
def test_one_stream_whoever_reads_it(tmp_path: Path) -> None:
    """The last of 1, 2, 3, 4, 6 and 8 ranks, with 0 to 3 processes, along the stream that one rank reads by itself."""
    make_dataset(tmp_path / "x", "latents")
    alone, cursor = read(tmp_path, data(global_batch_size=24), 18), 0
    for turn, world in enumerate((1, 2, 3, 4, 6, 8)):
        part = read(tmp_path, beside(turn % 4, global_batch_size=24), 3, cursor, world - 1, world)
        for (batch, after), (whole, expected) in zip(part, alone[3 * turn : 3 * turn + 3], strict=True):
            assert after == expected
            assert batch.step == whole.step
            assert batch.sample_ids == whole.sample_ids[world - 1 :: world]
            assert batch.latents.equal(whole.latents[world - 1 :: world])
            assert batch.given.action.keys.equal(whole.given.action.keys[world - 1 :: world])
        cursor = part[-1][1]


def test_a_bad_clip_is_named_where_the_training_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(make_dataset(tmp_path / "x", "latents"), 4)
    skip = {"bad_samples": Skip(budget=0.2)}
    wanted = read(tmp_path, data(**skip), 8)
    caplog.clear()
    found = read(tmp_path, beside(1, **skip), 8)
    assert all(equal(a, b) for (a, _), (b, _) in zip(wanted, found, strict=True))
    assert [record.message.count("clip-4") for record in caplog.records] == [1]
    with pytest.raises(DataError, match=r"^[^\n]*1.tar, clip-4.actions.npz at byte \d+: checksum[^\n]*$"):
        read(tmp_path, beside(1), 12)
    with pytest.raises(DataError, match=r"^[^\n]*no clip has 99 frames[^\n]*$"):
        read(tmp_path, beside(1, clip_frames=99), 1)


def test_they_leave_an_interrupt_to_the_training_and_end_with_the_stream(tmp_path: Path) -> None:
    make_dataset(tmp_path / "x", "latents")
    stream = open_with_workers(beside(2), tmp_path, 0, 1, 5)(0)
    first = next(stream)
    children = multiprocessing.active_children()
    assert len(children) == 2
    # Either may have read the first batch while the other was still starting, when an interrupt ends a process.
    wait_for(lambda: all(ignores(child.pid, signal.SIGINT) for child in children), "both at work", 120)
    for child in children:
        os.kill(child.pid, signal.SIGINT)
    later = list(itertools.islice(stream, 9))
    assert [cursor for _, cursor in (first, *later)] == list(range(12, 132, 12))
    stream.close()
    wait_for(lambda: not any(child.is_alive() for child in children), "their end", 120)


@pytest.mark.case("D-18")
def test_one_that_was_killed_is_a_loss_that_a_second_attempt_may_mend(tmp_path: Path) -> None:
    make_dataset(tmp_path / "x", "latents")
    stream = open_with_workers(beside(1), tmp_path, 0, 1, 5)(0)
    next(stream)
    (child,) = multiprocessing.active_children()
    child.kill()
    with pytest.raises(ConnectionError, match="a process that reads data for this rank was killed"):
        list(itertools.islice(stream, 9))


def test_they_do_not_outlive_a_training_that_was_killed(tmp_path: Path) -> None:
    make_dataset(tmp_path / "x", "latents")
    lines = (
        "import multiprocessing, os, signal, sys",
        "from pathlib import Path",
        "from tests.test_worker_processes import beside, open_with_workers",
        "stream = open_with_workers(beside(2), Path(sys.argv[1]), 0, 1, 5)(0)",
        "next(stream)",
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    said = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), tmp_path], stdout=subprocess.PIPE, text=True, cwd=HERE, check=False
    ).stdout
    children = [int(word) for word in said.split()]
    assert len(children) == 2
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "their end", 120)
