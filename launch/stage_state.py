"""What a stage was made of and how long it took: how the pipeline knows what is finished and what must be made again."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.remote import is_address
from launch.run_config import RunConfig
from wm.config import ConfigError, difference, to_dict
from wm.engine.drift import ALWAYS_ALLOWED

STATE, RESULT, DATASET = "stage.json", "result.json", "dataset.json"

# Fields of a stage that name what an earlier stage left, relative to the root.
INPUTS = ("recordings", "vae", "teacher", "student", "weak")


def inputs(run: RunConfig) -> list[str]:
    """What `run` reads: folders relative to the root, each once."""
    named = [getattr(run.stage, name, None) for name in INPUTS]
    folders = [run.source, *run.mixed_in, *named]
    return list(dict.fromkeys(folder for folder in folders if isinstance(folder, str) and folder))


def identity(run: RunConfig, root: Path) -> str:
    """Sixteen hexadecimal digits that change when the settings of `run` or anything that it was made from do."""
    sources = {folder: _identity_of(run, root, folder) for folder in inputs(run)}
    return hashlib.sha256(json.dumps([settings(run), sources], sort_keys=True).encode()).hexdigest()[:16]


def settings(run: RunConfig) -> Any:
    """What of `run` shows in its output: not where it runs, nor how often it tells of itself."""
    return _without({name: value for name, value in to_dict(run).items() if name != "folder"})


def _without(tree: Any) -> Any:
    """`tree` without the fields that a resumed run may change."""
    if isinstance(tree, dict):
        return {name: _without(value) for name, value in tree.items() if name not in ALWAYS_ALLOWED}
    return [_without(value) for value in tree] if isinstance(tree, list) else tree


def _identity_of(run: RunConfig, root: Path, folder: str) -> str:
    """Of a stage's output what its state says; of a dataset brought by the user the hash of its manifest."""
    if is_address(folder):
        return hashlib.sha256((run.located(root, folder) / DATASET).read_bytes()).hexdigest()[:16]
    owner = root / Path(folder).parts[0]
    state = read(owner)
    if state:
        return f"{state['identity']} {state['begun']}"
    manifest = root / folder / DATASET
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.exists() else ""


def read(folder: Path) -> dict[str, Any]:
    """What is written of the stage in `folder`; empty where nothing is."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ConfigError(f"{folder / STATE} cannot be read ({error}); delete it to make this stage again") from None
    return state


def write(folder: Path, state: dict[str, Any]) -> None:
    """In one rename, so that a killed run leaves the old or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{STATE}.{os.getpid()}.partial"
    partial.write_text(json.dumps(state, indent=1))
    partial.replace(folder / STATE)


def finished(folder: Path, name: str) -> bool:
    """Whether the stage in `folder` came to its end as what `name`, its identity, says."""
    return (folder / RESULT).exists() and read(folder).get("identity") == name


def begin(folder: Path, run: RunConfig, name: str) -> float:
    """Note what is being made; returns the seconds that earlier attempts at the same took."""
    state = read(folder)
    if state.get("identity") != name:
        # `begun` tells apart two makings with the same settings: what was made from the first is not of the second.
        state = {"identity": name, "begun": time.time_ns(), "seconds": 0.0, "settings": settings(run)}
        write(folder, state)
    return float(state["seconds"])


def changes(folder: Path, run: RunConfig, name: str) -> str:
    """Why what `folder` holds is not the run of identity `name`; "" where it is, or where nothing is begun."""
    before = read(folder)
    if not before or before["identity"] == name:
        return ""
    lines = difference(before["settings"], settings(run))
    return "; ".join(lines) if lines else f"{', '.join(inputs(run))} was made anew"


def spend(folder: Path, seconds: float) -> None:
    """Note how long the stage took until now, over all attempts."""
    state = read(folder)
    if state:
        write(folder, state | {"seconds": seconds})


def timing(folders: Sequence[tuple[str, Path]]) -> dict[str, float]:
    """Seconds of every stage by its name, over all attempts."""
    return {name: float(read(folder)["seconds"]) for name, folder in folders if read(folder)}


def move_aside(root: Path, folder: Path) -> Path:
    """Keep what is in `folder` under `root`/old, so that it can be made anew; returns where it is."""
    target = root / "old" / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    return target
