"""Told to stop once, a training is asked; told twice, it ends at once."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wm.engine.signals import stop_signals

ASKED = """
import time
from wm.engine.signals import stop_signals
with stop_signals() as stopped:
    print("ready", flush=True)
    stopped.wait()
    print("asked", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_second_ends_at_once(number: signal.Signals) -> None:
    command, here = [sys.executable, "-c", ASKED], Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word in ("ready", "asked"):
            assert process.stdout.readline() == f"{word}\n"
            assert process.poll() is None
            began = time.monotonic()
            process.send_signal(number)
        assert process.wait(30) == -number
        assert time.monotonic() - began < 10  # of the 60 that it would have slept


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
