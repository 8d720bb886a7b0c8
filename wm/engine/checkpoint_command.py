"""`python -m wm.engine.checkpoint verify|list|show RUN`: what the checkpoints of a run are and whether they are whole.

Reads only. RUN is a run's folder, its `checkpoints` folder, or one `step-N` folder.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wm.engine import checkpoint
from wm.engine.checkpoint import CheckpointError
from wm.engine.world import World

OK, DAMAGED, BAD_INPUT = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all is whole, 1 when a checkpoint is damaged, 2 when there is none or the arguments are wrong."""
    arguments = _parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](_folders(arguments.run, arguments.step))
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wm.engine.checkpoint", description="Look at a run's checkpoints.")
    parser.add_argument(
        "command",
        choices=sorted(_COMMANDS),
        help="verify: compare every file's SHA-256; list: one line each; show: what the newest whole one says of itself",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, as runs/desktop_sim/dit")
    parser.add_argument("--step", type=int, help="only the checkpoint of this step")
    return parser


def _folders(run: Path, step: int | None) -> list[Path]:
    """The published checkpoints that `run` names, newest first; CheckpointError where there is none."""
    if re.fullmatch(r"step-\d+", run.name):
        found = [run] if run.is_dir() else []
    else:
        found = checkpoint.published(run / "checkpoints" if (run / "checkpoints").is_dir() else run)
    found = [path for path in found if step is None or path.name == f"step-{step}"]
    if not found:
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise CheckpointError(f"{run} holds no {wanted}; give a run's folder, as runs/desktop_sim/dit")
    return found


def _verify(folders: Sequence[Path]) -> int:
    """One line each; every byte is read."""
    worst = OK
    for folder in folders:
        try:
            body = checkpoint.verify(folder, World.single())
            print(f"{folder.name} intact, {_content(body)}")
        except CheckpointError as error:
            worst = DAMAGED
            print(f"{folder.name} damaged: {error}")
    return worst


def _list(folders: Sequence[Path]) -> int:
    """One line each; sizes are looked at, contents are not read."""
    worst, newest = OK, "  newest"
    for folder in folders:
        fault = checkpoint.fault(folder)
        if fault is not None:
            worst = DAMAGED
            print(f"{folder.name}  damaged: {fault}")
            continue
        body = checkpoint.manifest(folder)
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((folder / checkpoint.MANIFEST).stat().st_mtime))
        ranks = f"{body['world_size']} rank{'s' if body['world_size'] > 1 else ''}"
        print(f"{folder.name}  {written}  {_content(body)}, {ranks}, config {body['config_hash']}{newest}")
        newest = ""
    return worst


def _show(folders: Sequence[Path]) -> int:
    """The manifest of the newest whole one as JSON, with sizes by part in place of the files."""
    for folder in folders:
        if checkpoint.fault(folder) is None:
            body = checkpoint.manifest(folder)
            sizes = {part: _bytes(_size(body, f"{part}/")) for part in body["parts"]}
            shown = {name: value for name, value in body.items() if name != "files"} | {"parts": sizes}
            print(json.dumps({"folder": str(folder), **shown}, indent=1))
            return OK
    raise CheckpointError(f"none of {', '.join(path.name for path in folders)} is whole; `list` says why")


_COMMANDS: Mapping[str, Callable[[Sequence[Path]], int]] = {"verify": _verify, "list": _list, "show": _show}


def _content(body: Mapping[str, Any]) -> str:
    return f"{len(body['files'])} files, {_bytes(_size(body, ''))}"


def _size(body: Mapping[str, Any], prefix: str) -> int:
    return sum(entry["size"] for name, entry in body["files"].items() if name.startswith(prefix))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"
