"""Faults on purpose: named places in the code where a test or a person can make a run die, hang or meet a bad disk.

Armed by one environment variable, for example to kill rank 1 when it comes to write its second checkpoint's manifest:

    WM_FAILPOINTS="checkpoint.manifest/1=kill@2"

Each entry is `name[/rank]=action[:argument][@first[+]]`; several are separated by commas. Without a rank it is meant for
all, without @ for the first arrival, and `@3+` is the third and every later one. Off, a place costs a look at a global.
"""

import errno
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

VARIABLE = "WM_FAILPOINTS"

# Where a run can be hit, in the order in which it comes by.
POINTS = {
    "loop.resumed": "the newest checkpoint is loaded, no step is taken yet",
    "loop.step": "before an optimizer step",
    "learner.gradients": "the backward is done, the optimizer's step is not",
    "learner.applied": "the optimizer's step is done, the average is not yet moved",
    "loop.stepped": "after an optimizer step, before anything is logged or saved",
    "metrics.row": "before a row of metrics.jsonl is written",
    "checkpoint.begin": "before step-N.partial is made (rank 0)",
    "checkpoint.part": "before each part is written",
    "checkpoint.file": "this rank's file of a learner is written and not synced; has the file",
    "checkpoint.written": "this rank's files are synced, others' may not be",
    "checkpoint.manifest": "all files are written, the manifest is not (rank 0)",
    "checkpoint.publish": "the manifest is synced, the folder is not renamed (rank 0); has the manifest",
    "checkpoint.renamed": "the folder is renamed, its parent not synced (rank 0); has the manifest",
    "checkpoint.published": "the checkpoint is whole, older ones are still there; has its largest file",
    "checkpoint.retire": "an old checkpoint is renamed and not removed (rank 0)",
    "loop.finish": "the last step is saved, result.json is not written",
}


class Fault(RuntimeError):
    """What the action `raise` raises."""


@dataclass
class _Armed:
    rank: int | None
    act: Callable[[str, Path | None], None]
    first: int
    further: bool  # later arrivals too
    arrivals: int = 0

    def reached(self, name: str, path: Path | None) -> None:
        if self.rank is not None and self.rank != (dist.get_rank() if dist.is_initialized() else 0):
            return
        self.arrivals += 1
        if self.arrivals == self.first or (self.further and self.arrivals > self.first):
            self.act(name, path)


_armed: dict[str, list[_Armed]] | None = None  # None: the environment was not read yet


def reach(name: str, path: Path | None = None) -> None:
    """The run is at the place `name`, with `path` at hand for `corrupt`. Returns at once where nothing is armed."""
    if _armed is None:
        arm(os.environ.get(VARIABLE, ""))
    if _armed:
        for entry in _armed.get(name, ()):
            entry.reached(name, path)


def arm(text: str) -> None:
    """Arm what `text` says, in place of what was armed; "" disarms. ValueError names the entry that is wrong."""
    global _armed
    armed: dict[str, list[_Armed]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, fault = _parse(entry)
        armed.setdefault(name, []).append(fault)
    _armed = armed


def _parse(entry: str) -> tuple[str, _Armed]:
    match = re.fullmatch(r"([\w.]+)(?:/(\d+))?=([a-z]+)(?::([\d.]+))?(?:@(\d+)(\+)?)?", entry)
    if match is None:
        raise ValueError(f"{VARIABLE} has {entry!r}; needed is name[/rank]=action[:argument][@first[+]]")
    name, rank, action, argument, first, further = match.groups()
    if name not in POINTS:
        raise ValueError(f"{VARIABLE} names {name}; there are {', '.join(POINTS)}")
    if action not in ACTIONS and action != "sleep":
        raise ValueError(f"{VARIABLE} has the action {action}; there are {', '.join([*ACTIONS, 'sleep:SECONDS'])}")
    if (argument is None) == (action == "sleep"):
        raise ValueError(
            f"{VARIABLE} has {entry!r}; sleep needs seconds, as sleep:2, and no other action takes a number"
        )
    act = ACTIONS[action] if argument is None else _sleep(float(argument))
    return name, _Armed(None if rank is None else int(rank), act, int(first or 1), further is not None)


def _signalled(number: signal.Signals) -> Callable[[str, Path | None], None]:
    return lambda name, path: os.kill(os.getpid(), number)


def _failing(number: int) -> Callable[[str, Path | None], None]:
    def act(name: str, path: Path | None) -> None:
        raise OSError(number, f"{os.strerror(number)} (failpoint {name})", None if path is None else str(path))

    return act


def _sleep(seconds: float) -> Callable[[str, Path | None], None]:
    return lambda name, path: time.sleep(seconds)


def _raise(name: str, path: Path | None) -> None:
    raise Fault(f"failpoint {name}")


def _corrupt(name: str, path: Path | None) -> None:
    """One bit in the middle of the file, its size kept."""
    if path is None:
        raise ValueError(f"failpoint {name} has no file to corrupt; {VARIABLE} needs one that has")
    with open(path, "r+b") as file:
        middle = os.fstat(file.fileno()).st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


ACTIONS: dict[str, Callable[[str, Path | None], None]] = {
    "kill": _signalled(signal.SIGKILL),
    "term": _signalled(signal.SIGTERM),
    "stop": _signalled(signal.SIGSTOP),
    "raise": _raise,
    "enospc": _failing(errno.ENOSPC),
    "eio": _failing(errno.EIO),
    "erofs": _failing(errno.EROFS),
    "corrupt": _corrupt,
}
