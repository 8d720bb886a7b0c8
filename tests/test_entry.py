"""Exit codes of launch's commands: what a scheduler stopped is to be queued again, what a person stopped is not."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from launch.entry import BAD_INPUT, FAILED, INTERRUPTED, OK, REQUEUE, guarded


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def told_to_stop(number: int, answer: int | None) -> int:
    """Work that is sent a signal, and lets it through or answers it with an exit code of its own."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(30)
    except KeyboardInterrupt:
        if answer is None:
            raise
        return answer
    raise AssertionError("the signal did not come")


@pytest.mark.case("L-08")
@pytest.mark.parametrize("answer", [None, INTERRUPTED])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, REQUEUE)])
def test_only_what_a_scheduler_stopped_is_queued_again(number: int, code: int, answer: int | None) -> None:
    assert guarded(lambda: told_to_stop(number, answer), "command", False) == code


@pytest.mark.case("L-08")
@pytest.mark.parametrize("answer", [OK, FAILED, BAD_INPUT])
def test_what_ended_or_failed_although_it_was_told_to_stop_is_not_queued_again(answer: int) -> None:
    assert guarded(lambda: told_to_stop(signal.SIGTERM, answer), "command", False) == answer
