"""The trained networks and some held-out clips to start from become the artifact folder: at a run's end, or on its way."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from data_pipeline.shards import Dataset
from launch.measuring import clip_of
from launch.run_config import load_run
from launch.worker import build_stage, facts_of
from wm.config import ConfigError
from wm.engine import checkpoint
from wm.engine.world import World
from wm.stages.export import ExportConfig

NUM_STARTS = 8


def write_artifact(settings: ExportConfig, root: Path, source: Path, folder: Path) -> dict[str, Any]:
    """The artifact in `folder`, starting from the recordings in `source`, and what `result.json` says of it."""
    recordings = Dataset.open(source)
    clips = [clip_of(recordings, number) for number in range(min(NUM_STARTS, len(recordings.clips)))]
    context = settings.context_frames
    starts = [(clip.video[:context], clip.action[:, :context]) for clip in clips if len(clip) >= context]
    environment = recordings.manifest.source.get("environment")
    settings.build(root, torch.device("cpu")).write(folder, starts, facts_of(recordings.manifest), environment)
    return {
        "artifact": str(folder),
        "num_starts": len(starts),
        "bytes": sum(f.stat().st_size for f in folder.iterdir()),
    }


def finish_checkpoint(root: Path, stage: str, step: int | None, folder: Path, trust: bool = False) -> int:
    """Leave in `folder` what the training in `root`/`stage` would leave had it ended at `step`; None is its newest.

    The step comes back. ConfigError where there is no such checkpoint, CheckpointError where it is damaged or another
    user's and `trust` is not given. A training
    that goes on beside this is not disturbed: its files are only read.
    """
    run, world = load_run(root / stage / "config.yaml"), World.single()
    path = _checkpoint(root / stage, step)
    built = build_stage(dataclasses.replace(run, learner="local"), root, world)
    state = checkpoint.load(path, built.parts(), world, trust=trust)
    built.finish(folder)
    return int(state["step"])


def _checkpoint(folder: Path, step: int | None) -> Path:
    found = checkpoint.checkpoints(folder / "checkpoints")
    wanted = [path for path in found if step is None or path.name == f"step-{step}"]
    if not wanted:
        which = "no whole checkpoint" if step is None else f"no whole checkpoint of step {step}"
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{which} in {folder / 'checkpoints'}; there are: {names}")
    return wanted[0]
