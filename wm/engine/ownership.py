"""Whose files a checkpoint is made of. Another user's is not loaded unasked: what it holds becomes part of this run.

Nothing here unpickles: checkpoints are safetensors and JSON, and what no manifest covers is refused by
`checkpoint.verify`. A manifest proves only that nothing changed since it was written, so it must be ours as well.
"""

import os
import pwd
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def foreign(folder: Path, names: Iterable[str]) -> str | None:
    """What in `folder`, itself or a file of `names`, belongs to somebody else, and to whom; None where nothing does.

    Files of root are accepted: root could have changed anything. A missing file is no matter of ownership.
    """
    own = {0, os.geteuid()} | _owner_of_new_files(folder.parent)
    for path in (folder, *(folder / name for name in names)):
        with suppress(FileNotFoundError):
            owner = path.stat().st_uid
            if owner not in own:
                return f"{path} belongs to {_name(owner)}"
    return None


def _owner_of_new_files(folder: Path) -> set[int]:
    """Who owns what this process makes there: file systems that squash users give it to somebody else."""
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as probe:
        return {os.fstat(probe.fileno()).st_uid}
    return set()


def _name(user: int) -> str:
    with suppress(KeyError):
        return f"user {pwd.getpwuid(user).pw_name}"
    return f"user {user}"
