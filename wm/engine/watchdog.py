"""A run that hangs says where: every rank's stacks and place in its folder, who waits and for whom, then an exit.

Nothing is asked over the network, which may be what hangs: ranks leave their reports in the run folder. A rank that leaves
none is stopped, dead or cut off. The exit code is its own, so that whoever started the rank starts it again.
"""

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wm.engine import failures, phases
from wm.engine.world import World

logger = logging.getLogger(__name__)

HUNG = 76  # exit code; EX_PROTOCOL of sysexits.h
GRACE_SHARE = 0.1  # of the limit: how long the first that reports waits for the others
C10D = os.path.join("torch", "distributed", "distributed_c10d.py")


@contextmanager
def watched(folder: Path, world: World, limit_seconds: float) -> Iterator[None]:
    """While it lasts, a phase of this rank's training (phases.py) that takes longer ends the process with HUNG.

    0 is no limit. Reports are `folder`/hang/rank-N.json and, with the stack of every thread, rank-N.txt.
    """
    if not limit_seconds:
        yield
        return
    phases.enter("start")
    stop = threading.Event()
    reports = Reports(folder / "hang", world)
    reports.clear()
    watch = threading.Thread(target=_watch, args=(reports, limit_seconds, stop), daemon=True, name="watchdog")
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _watch(reports: "Reports", limit: float, stop: threading.Event) -> None:
    while not stop.wait(min(10.0, limit / 20)):
        place = phases.where()
        if time.monotonic() - place.since > limit or reports.new_of_others():
            reports.write(place)
            deadline = time.monotonic() + GRACE_SHARE * limit
            while (
                time.monotonic() < deadline and len(reports.read()) < reports.world.world_size and not stop.wait(0.05)
            ):
                pass
            if phases.where() == place and not stop.is_set():
                _give_up(verdict(reports.read(), reports.world.world_size), reports, place)


def _give_up(text: str, reports: "Reports", place: phases.Place) -> None:
    line = f"hung: {text}; stacks are in {reports.folder}"
    failures.note(reports.folder.parent, reports.world, place.step, line)
    logger.critical(line)
    print(line, file=sys.stderr, flush=True)
    # Not an exception: the thread that trains is in a call that does not come back.
    os._exit(HUNG)


class Reports:
    """What the ranks say of where they are; reading takes what there is."""

    def __init__(self, folder: Path, world: World):
        self.folder, self.world = folder, world
        self._begun = time.time()
        self._answered: set[tuple[str, int]] = set()

    def clear(self) -> None:
        """Forget this rank's report of an earlier attempt."""
        with suppress(OSError):
            (self.folder / f"rank-{self.world.rank}.json").unlink(missing_ok=True)

    def write(self, place: phases.Place) -> None:
        """This rank's report: where it is, and the stack of every thread."""
        where = {
            "rank": self.world.rank, "host": socket.gethostname(), "step": place.step, "phase": place.phase,
            "seconds": round(time.monotonic() - place.since, 1), "collective": collective_of(place.thread),
            "time": time.time(),
        }  # fmt: skip
        with suppress(OSError):  # a disk that is full: the exit matters more
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / f"rank-{self.world.rank}.txt", "w") as file:
                file.write(json.dumps(where) + "\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            partial = self.folder / f".rank-{self.world.rank}.partial"
            partial.write_text(json.dumps(where))
            partial.replace(self.folder / f"rank-{self.world.rank}.json")

    def read(self) -> list[dict[str, Any]]:
        """All reports of this attempt, in rank order."""
        found = []
        for path in self.folder.glob("rank-*.json"):
            with suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return sorted((r for r in found if r["time"] >= self._begun), key=lambda report: report["rank"])

    def new_of_others(self) -> bool:
        """Whether another rank reports that was not seen before."""
        seen = {(report["rank"], report["time"]) for report in self.read() if report["rank"] != self.world.rank}
        new = seen - self._answered
        self._answered |= seen
        return bool(new)


def verdict(reports: Sequence[Mapping[str, Any]], world_size: int) -> str:
    """Who waits in which collective and for whom, in one line."""
    parts = []
    waiting = [r for r in reports if r["collective"]]
    for collective, step in sorted({(r["collective"], r["step"]) for r in waiting}):
        ranks = [r["rank"] for r in waiting if (r["collective"], r["step"]) == (collective, step)]
        parts.append(f"{_ranks(ranks)} in {collective} at step {step}")
    for r in reports:
        if not r["collective"]:
            parts.append(
                f"rank {r['rank']} on {r['host']} in no collective, {r['seconds']:g} s in {r['phase']} at step {r['step']}"
            )
    silent = sorted(set(range(world_size)) - {r["rank"] for r in reports})
    if silent:
        parts.append(f"{_ranks(silent)} silent: stopped, dead or cut off")
    return "; ".join(parts)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def collective_of(thread: int) -> str | None:
    """The torch.distributed function that the thread waits in; None where it is in none."""
    frame, name = sys._current_frames().get(thread), None
    while frame is not None:
        if frame.f_code.co_filename.endswith(C10D):
            name = frame.f_code.co_name  # the outermost is what was called
        frame = frame.f_back
    return name
