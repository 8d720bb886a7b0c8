"""Told to stop once, a training is asked; told twice, it ends at once."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wm.engine.signals import stop_signals

ASKED = """
import time
from wm.engine.signals import stop_signals
with stop_signals() as stopped:
    print("ready", flush=True)
    while not stopped.is_set():  # as a training looks: an event that is waited for has a lock, which the handler needs
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_second_ends_at_once(number: signal.Signals) -> None:
    command, here = [sys.executable, "-c", ASKED], Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word in ("ready", "asked"):
            assert process.stdout.readline() == f"{word}\n"
            assert process.poll() is None
            process.send_signal(number)
        assert process.wait(60) == -number  # of the 600 s that it would have slept


def test_handlers_are_as_before_afterwards_and_other_threads_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    seen: list[bool] = []

    def elsewhere() -> None:
        with stop_signals() as stopped:
            seen.extend([signal.getsignal(signal.SIGTERM) == before, stopped.is_set()])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [True, False]
