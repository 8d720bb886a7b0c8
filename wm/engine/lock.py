"""One run, one folder: a second process that is started on a run's folder is refused."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wm.engine.checkpoint import CheckpointError
from wm.engine.world import World

NAME = "run.lock"


@contextmanager
def locked(folder: Path, world: World, wait_seconds: float = 3.0) -> Iterator[Callable[[], None]]:
    """`folder` belongs to this run until the context ends, or until it is revoked; CheckpointError when another process has it.

    Gives a check, which raises CheckpointError once the folder was revoked. The lock is the kernel's (flock), so one that a
    killed process left is free. A restarted run waits a little for the process that it replaces.
    """
    file = None
    error = None
    if world.rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / NAME, "a+")  # noqa: SIM115
            error = _take(file, folder, wait_seconds)
        except OSError as failure:
            error = f"{folder} cannot be written ({failure}); a run needs a folder of its own"
    error = world.broadcast_object(error)
    try:
        if error is not None:
            raise CheckpointError(error)
        yield lambda: _refuse_revoked(file, folder)
    finally:
        if file is not None:
            file.close()


def wait_until_free(folder: Path, seconds: float) -> bool:
    """Whether nobody has `folder` any more, after at most so many seconds.

    For who starts a run again whose workers are lost: one on a host that is cut off lives on until it notices.
    """
    deadline = time.monotonic() + seconds
    while (folder / NAME).exists():
        with open(folder / NAME) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.2)
    return True


def revoke(folder: Path) -> None:
    """Take `folder` from a run that cannot be reached, and which ends when it next looks.

    By a new file in place of the locked one: locks are of files, not of names. For the one who starts runs in `folder`.
    """
    fresh = folder / f".{NAME}.fresh"
    fresh.touch()
    os.replace(fresh, folder / NAME)


def _refuse_revoked(file: Any, folder: Path) -> None:
    with suppress(OSError):  # a name that is gone, or a disk that does not answer, gives the folder to nobody
        if file is not None and not os.path.samestat(os.fstat(file.fileno()), os.stat(folder / NAME)):
            raise CheckpointError(
                f"{folder} was given to another run, which goes on from its checkpoints; this one ends"
            )


def _take(file: Any, folder: Path, wait_seconds: float) -> str | None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip() or "another process"
                return f"{folder} is in use by {owner}; stop that run or choose another folder"
            time.sleep(0.1)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return None
