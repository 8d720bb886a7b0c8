"""What every command does around its work: one line for a mistake, exit codes, one run a root at a time."""

import errno
import fcntl
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from wm.config import ConfigError

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
REQUEUE = 75  # a scheduler told us to stop, and the same command goes on: EX_TEMPFAIL of sysexits.h


class StageError(RuntimeError):
    """A stage failed by itself: no file or setting is known to be wrong. The traceback is in a file that it names."""


class Preempted(RuntimeError):
    """A training saved and stopped because a machine of it will be taken away."""


def guarded(work: Callable[[], int], command: str, show_traceback: bool) -> int:
    """The exit code of `work`. An error becomes one line on stderr that says what to do; `command` goes on.

    What SIGTERM interrupted or the cluster preempted ends with REQUEUE, what the keyboard did with INTERRUPTED.
    """
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell that started us had set
    signal.signal(signal.SIGTERM, terminate)
    code = _coded(work, command, show_traceback)
    return REQUEUE if terminated and code == INTERRUPTED else code


def _coded(work: Callable[[], int], command: str, show_traceback: bool) -> int:
    try:
        return work()
    except KeyboardInterrupt:
        say(f"interrupted; what is finished stays. Go on with: {command}")
        return INTERRUPTED
    except Preempted as notice:
        say(f"{notice}. Go on with: {command}")
        return REQUEUE
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        say(f"error: {explain(error)}")
        return BAD_INPUT if isinstance(error, ValueError | OSError) else FAILED


def spoken(module: str, argv: Sequence[str] | None) -> str:
    """The command that a person gave: `module` with `argv`, or with what this process was started with."""
    return shlex.join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)])


def explain(error: BaseException) -> str:
    """One line: what was given, what is needed, what to do."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}: make room and give the same command again, it goes on where it was"
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | StageError | FloatingPointError) and text:
        return text
    return f"{type(error).__name__}: {text} (--traceback shows where)"


def headline(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def sole_user(root: Path) -> Iterator[None]:
    """While it lasts no other run uses `root`; ConfigError where one does."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another run is using {root}: wait for it, stop it, or give another --root") from None
        yield
