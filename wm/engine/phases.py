"""What the training of this process is doing at the moment, since when, and how long each phase took.

One process trains one thing, so there is one clock, as there is one set of failpoints; the thread that trains sets it, a
watchdog and the log read it.
"""

import threading
import time
from typing import NamedTuple

import torch

# In the order of a step. A rank waits for others in all but these two (at ZeRO 3 in forward as well).
ALONE = ("data", "forward")


class Place(NamedTuple):
    step: int
    phase: str
    since: float  # time.monotonic() when it was entered
    thread: int  # that trains


_place = Place(0, "start", time.monotonic(), threading.get_ident())
_seconds: dict[str, float] = {}
_precise = False


def enter(phase: str, step: int | None = None) -> None:
    """From now on this thread is in `phase`, at `step` where that changed."""
    global _place
    if _precise:
        torch.cuda.synchronize()
    now = time.monotonic()
    before = _place
    _seconds[before.phase] = _seconds.get(before.phase, 0.0) + now - before.since
    _place = Place(before.step if step is None else step, phase, now, threading.get_ident())


def precisely(wanted: bool) -> None:
    """Whether phases wait for the GPU at their ends: else they end when its work is queued."""
    global _precise
    _precise = wanted


def where() -> Place:
    return _place


def take() -> dict[str, float]:
    """Seconds by phase since the last call, the present phase up to now."""
    enter(_place.phase)
    taken = dict(_seconds)
    _seconds.clear()
    return taken
