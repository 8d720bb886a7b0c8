"""The export stage: the trained networks and some held-out clips to start from become the artifact folder."""

from pathlib import Path
from typing import Any

import torch

from data_pipeline.shards import Dataset
from launch.measuring import clip_of
from launch.worker import facts_of
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
