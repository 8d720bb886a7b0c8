"""How many desktops are recorded side by side: python -m data_pipeline.bench desktops

Every recorder is a process that steps an X server, a window manager and programs of its own, and encodes what it grabs, as a
task of the record stage does. The seconds of all their processes are counted, not only those that a clock on the wall shows:
on a machine that does other things too, they still say how many desktops two cores would carry.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.environments.x11_desktop import X11DesktopConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.record import record
from data_pipeline.shards import write_shard

FPS = 15.0
CORES = 2
PROGRAMS = ("terminal", "calculator")


def desktops(folder: Path, count: int = 8, frames: int = 150) -> dict[str, Any]:
    """Frames a second of `count` stepped desktops of 512x384 at once, and what a frame costs."""
    spawn = multiprocessing.get_context("spawn")
    ends, recorders = [], []
    for number in range(count):
        end, other = spawn.Pipe()
        recorders.append(spawn.Process(target=_recorder, args=(other, folder / f"{number}.tar", number, frames)))
        recorders[-1].start()
        ends.append(end)
    try:
        for end in ends:
            _answer(end)  # its desktop is there
        began, spent = time.perf_counter(), _cpu_seconds()
        for end in ends:
            end.send(None)
        recorded = sum(_answer(end) for end in ends)
        seconds, spent = time.perf_counter() - began, _cpu_seconds() - spent
        for end in ends:
            end.send(None)
    finally:
        for recorder in recorders:
            recorder.join(30)
            recorder.kill()
    return {
        "desktops": count,
        "frames": recorded,
        "frames_per_second_of_each": round(recorded / seconds / count, 2),
        "milliseconds_of_a_core_per_frame": round(1000 * spent / recorded, 2),
        "desktops_on_two_cores": round(CORES / (FPS * spent / recorded), 1),
        "load_of_the_machine": os.getloadavg()[0],
        "wanted": "desktops_on_two_cores of at least 8",
    }


def _recorder(end: Connection, path: Path, number: int, frames: int) -> None:
    environment = X11DesktopConfig(programs=PROGRAMS).build()
    try:
        environment.reset(seed=number)
        end.send(0)
        end.recv()
        sample = record(environment, HumanPolicyConfig().build(), frames, seed=number, key=f"clip-{number}")
        write_shard(path, [sample])
        end.send(len(sample))
        end.recv()  # its programs live until their seconds are counted
    finally:
        environment.close()


def _answer(end: Connection) -> int:
    try:
        return int(end.recv())
    except EOFError:
        raise RuntimeError("a recorder died; what it said stands above") from None


def _cpu_seconds() -> float:
    """Of this process and all below it, and of those that have ended and were waited for; proc_pid_stat(5)."""
    ticks = 0
    for process in _family(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(np.sum([int(field) for field in fields[11:15]]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                yield from _family(int(child))
