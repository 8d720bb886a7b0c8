"""Being told to stop: the first signal asks, the second does what it always did."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGUSR1 sets; a second does what it always did. Off the main thread: none."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, _: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number in numbers:
            signal.signal(number, before[number])
