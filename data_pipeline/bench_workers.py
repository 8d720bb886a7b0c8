"""What workers that read for a rank cost: their speed as threads and as processes, and the memory that they take."""

import dataclasses
import gc
import itertools
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.bench_clips import latents, manifest, screen_manifest, screen_recording
from data_pipeline.data_config import DataConfig
from data_pipeline.shards import write_manifest, write_shard
from data_pipeline.worker_processes import open_with_workers

Kind = Literal["thread", "process"]


def workers(folder: Path, clips: int = 32, frames: int = 64, batches: int = 24, rounds: int = 3) -> dict[str, Any]:
    """Batches of 8 clips of 16 frames a second, of which every one is decoded: 2 processes against 2 threads.

    Meanwhile the thread that asks for them computes in Python between two batches, as a training's does while it launches
    kernels; threads wait for each other's turn then. Starting the processes, seconds, is not counted.
    """
    clip = screen_recording(frames)
    entry = write_shard(folder / "0.tar", (dataclasses.replace(clip, key=f"clip-{i}") for i in range(clips)))
    write_manifest(folder, screen_manifest([entry]))

    def rate(kind: Kind) -> float:
        config = DataConfig(
            folder=str(folder), clip_frames=16, global_batch_size=8, num_workers=2, worker_kind=kind, cache_megabytes=0
        )
        with closing(open_with_workers(config, folder, 0, 1, seed=1)(0)) as stream:
            for _ in itertools.islice(stream, 6):  # what was made while the processes started
                pass
            began = time.perf_counter()
            for _ in itertools.islice(stream, batches):
                sum(range(1_000_000))
            return batches / (time.perf_counter() - began)

    threads, processes = np.array([(rate("thread"), rate("process")) for _ in range(rounds)]).T
    return {
        "batches_per_second_of_threads": round(float(np.median(threads)), 2),
        "batches_per_second_of_processes": round(float(np.median(processes)), 2),
        "processes_times_threads": round(float(np.median(processes / threads)), 2),
        "wanted": "to know",
    }


def memory(folder: Path, threads: int = 10_000, processes: int = 10_000, warm_up: int = 1_000) -> dict[str, Any]:
    """Memory after so many batches of 4 workers of each kind with full caches of clips, over that after `warm_up`."""
    shards = [write_shard(folder / f"{i}.tar", (latents(8 * i + j, 64) for j in range(8))) for i in range(8)]
    write_manifest(folder, manifest(shards))
    found: dict[str, Any] = {}
    kinds: tuple[tuple[str, Kind, int], ...] = (("threads", "thread", threads), ("processes", "process", processes))
    for name, kind, steps in kinds:
        first, last = _sizes(folder, kind, steps, warm_up)
        found |= {
            f"steps_of_{name}": steps,
            f"megabytes_of_{name}_after_warm_up": round(first / 1e6, 1),
            f"megabytes_of_{name}_at_the_end": round(last / 1e6, 1),
            f"growth_of_{name}": round(last / first - 1, 4),
        }
    return {**found, "wanted": "growth of both below 0.05"}


def _sizes(folder: Path, kind: Kind, steps: int, warm_up: int) -> list[int]:
    config = DataConfig(
        folder=str(folder), clip_frames=16, global_batch_size=8, num_workers=4, worker_kind=kind, cache_megabytes=4
    )
    sizes = []
    with closing(open_with_workers(config, folder, 0, 1, seed=1)(0)) as stream:
        for step, _ in enumerate(itertools.islice(stream, steps), 1):
            if step in (warm_up, steps):
                gc.collect()
                sizes.append(sum(map(_own_bytes, _family(os.getpid()))))
    return sizes


def _family(process: int) -> list[int]:
    """A process and all that it started."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [process, *(below for child in children for below in _family(child))]


def _own_bytes(process: int) -> int:
    """What a process holds in memory; pages that several share are divided among them."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
