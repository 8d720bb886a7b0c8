"""When a group of processes has come to rest.

Stepped recording needs to know when every program has finished drawing what an input asked for. The kernel knows: at rest
all of the desktop's processes sleep, and none has run between two looks, whatever the load of the machine.
"""

import os
import time

LOOK_SECONDS = 0.0002  # between two looks at the processes
# The same after a key or a button: what a shell writes reaches its terminal through a kernel thread, which is not ours to see.
SURE_SECONDS = 0.004

_IDLE_STATES = ("S", "Z")  # sleeping until something comes; dead and waiting to be fetched


def at_rest(parent: int, seconds: float, look_seconds: float = LOOK_SECONDS) -> bool:
    """Wait until all descendants of process `parent` slept for `look_seconds`; False if not within `seconds`."""
    deadline = time.monotonic() + seconds
    before = _activity(parent)
    while True:
        time.sleep(look_seconds)
        after = _activity(parent)
        # Each process slept from its first look to its second, and all these spans share the moment in between.
        if after is not None and after == before:
            return True
        if time.monotonic() > deadline:
            return False
        before = after


def _activity(parent: int) -> dict[int, bytes] | None:
    """How often each thread of each descendant of `parent` has been scheduled so far; None while one of them runs."""
    counts: dict[int, bytes] = {}
    queue = _children(parent, parent)
    while queue:
        pid = queue.pop()
        for thread in _threads(pid):
            queue += _children(pid, thread)  # before the count: a later fork changes the count
            status = _status(pid, thread)
            if status is None or status[0] not in _IDLE_STATES:
                return None
            counts[thread] = status[1]
    return counts


def _threads(pid: int) -> list[int]:
    """Of a process that is gone, itself: it has no status, so it does not rest."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return [pid]


def _children(pid: int, thread: int) -> list[int]:
    return [int(child) for child in (_read(f"/proc/{pid}/task/{thread}/children") or b"").split()]


def _status(pid: int, thread: int) -> tuple[str, bytes] | None:
    """State letter and numbers of context switches; None for a thread that is gone."""
    text = _read(f"/proc/{pid}/task/{thread}/status")
    if text is None:
        return None
    state = text[text.index(b"\nState:") + 8 :][:1].decode()
    return state, text[text.index(b"\nvoluntary_ctxt_switches:") :]


def _read(path: str) -> bytes | None:
    """A small file of /proc in one piece; None for a process that is gone. Called thousands of times a second."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 8192)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return None
