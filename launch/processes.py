"""Which process is which rank of a training: each says so in the stage's folder, in `worker-<rank>.json`."""

import json
import logging
import os
import re
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from wm.durable import write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Process:
    """One rank. A process number is used again in time, so its start time belongs to it."""

    rank: int
    process: int
    started: int  # clock ticks after the machine's start
    host: str

    def alive(self) -> bool:
        return self.host == socket.gethostname() and _started(self.process) == self.started

    def kill(self) -> bool:
        """As kill -9; whether it was alive."""
        with suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.process, signal.SIGKILL)
                return True
        return False


def introduce(folder: Path, rank: int) -> None:
    """Say in `folder` that this process is `rank`."""
    own = Process(rank, os.getpid(), _started(os.getpid()) or 0, socket.gethostname())
    try:
        write_text(folder / f"worker-{rank}.json", json.dumps(asdict(own)))
    except OSError as error:  # a full disk costs no training
        log.warning("which process is rank %d cannot be written (%s); launch.punish will not find it", rank, error)


def introduced(folder: Path) -> list[Process]:
    """Those that said so in `folder` and are alive on this machine, by rank."""
    paths = [path for path in folder.glob("worker-*.json") if re.fullmatch(r"worker-\d+", path.stem)]
    found = [Process(**json.loads(path.read_text())) for path in paths]
    return sorted((process for process in found if process.alive()), key=lambda process: process.rank)


def _started(process: int) -> int | None:
    """Field 22 of /proc/<process>/stat (proc_pid_stat(5)); None where there is no such process, or only its corpse."""
    try:
        fields = (
            Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        )  # the name before may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
