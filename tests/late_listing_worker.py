"""Two ranks look for the newest checkpoint where the file system of the second lists what was there a while ago."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.test_checkpoint import TREE, Words
from wm.engine import checkpoint, commit
from wm.engine.world import World

LATE = "step-2"  # what the second rank's listings do not show, nor anything in it


def shown(path: Any, name: str) -> bool:
    return LATE not in (name, Path(path).name, Path(path).parent.name)


def list_late() -> None:
    listdir = os.listdir
    os.listdir = lambda path=".": [name for name in listdir(path) if shown(path, name)]  # type: ignore[assignment]
    scandir = os.scandir

    class Late:
        def __init__(self, path: Any = ".") -> None:
            self._entries, self._path = scandir(path), path

        def __enter__(self) -> "Late":
            return self

        def __exit__(self, *error: object) -> None:
            self._entries.close()

        def __iter__(self) -> Any:
            return (entry for entry in self._entries if shown(self._path, entry.name))

    os.scandir = Late  # type: ignore[misc,assignment]


def main(folder: Path) -> None:
    world = World.from_environment("cpu", timeout_seconds=60)
    if world.rank == 1:
        list_late()
    for step in (1, 2):
        commit.save(
            folder, step, {"words": Words(f"step {step}")} if world.rank == 0 else {}, {"step": step}, world, TREE
        )
    listed = [path.name for path in checkpoint.published(folder)]
    found = checkpoint.newest_intact(folder, world)
    assert found is not None
    words = Words()
    state = checkpoint.load(found[0], {"words": words}, world)
    said = {"listed": listed, "found": found[0].name, "state": state, "words": words.text}
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
