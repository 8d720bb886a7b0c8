"""Work that is killed at any of its function calls."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

FORK = multiprocessing.get_context("fork")


class Countdown:
    """Kills its process at the `place`-th call of a function of Python or C; None only counts."""

    def __init__(self, place: int | None) -> None:
        self.place, self.count = place, 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self.place:
                os.kill(os.getpid(), signal.SIGKILL)


def die_in(work: Callable[[], Any], place: int | None) -> int:
    """Run `work` in a process that is killed at `place`; the number of calls that it made, 0 if it was killed."""
    counted = FORK.Value("q", 0)

    def child() -> None:
        countdown = Countdown(place)
        sys.setprofile(countdown)
        work()
        sys.setprofile(None)
        counted.value = countdown.count

    process = FORK.Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == (0 if counted.value else -signal.SIGKILL)
    return counted.value
