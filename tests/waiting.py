"""Waiting for what other processes and threads do: soon where it is soon, and with what was said where it does not come."""

import os
import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any],
    what: str,
    seconds: float,
    said: Callable[[], str] = str,
    goes_on: Callable[[], bool] = lambda: True,
    pause: float = 0.05,
) -> float:
    """Seconds until `condition` held; AssertionError with what was `said` where that took longer, or nothing `goes_on`."""
    began = time.monotonic()
    while not condition():
        assert goes_on(), f"{what}: it ended before\n{said()}"
        assert time.monotonic() < began + seconds, f"{what}: not within {seconds:g} s\n{said()}"
        time.sleep(pause)
    return time.monotonic() - began


def slept(number: int, seconds: float) -> dict[str, Any]:
    """A task for Ray, whose workers know this file and none of the tests; it says when it ran and which GPUs it was shown."""
    began = time.time()
    time.sleep(seconds)
    return {"number": number, "span": (began, time.time()), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
