"""The first failure of a run's ranks: what the others say afterwards are its consequences.

Whoever makes the file first was first, by no clock: ranks notice a lost peer only after it failed.
"""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from wm.engine.world import World

FILE = "failure.json"


def note(folder: Path, world: World, step: int, text: str) -> None:
    """Leave `text` as the failure of this rank, unless a rank failed before."""
    with suppress(OSError), open(folder / FILE, "x") as file:  # also where the disk is what failed
        line = " ".join(text.split())
        report = {"rank": world.rank, "host": socket.gethostname(), "process": os.getpid(), "step": step, "text": line}
        json.dump(report | {"time": time.strftime("%Y-%m-%d %H:%M:%S")}, file)


def first(folder: Path) -> str | None:
    """The failure that was first in one line, with its rank, host and step; None where none was noted."""
    try:
        noted = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return f"rank {noted['rank']} on {noted['host']} failed first, at step {noted['step']}: {noted['text']}"


def forget(folder: Path) -> None:
    """Before the next attempt."""
    with suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)
