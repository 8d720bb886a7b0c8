"""What the benches read: a recording of a screen, and latents of noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.loader import Batches, DataConfig
from data_pipeline.record import record
from data_pipeline.schema import DatasetManifest, LatentStatistics, Sample, ShardEntry
from data_pipeline.shards import Dataset
from wm.batch import ActionSpace

SCREEN = DesktopSimConfig(height=384, width=512, scale=4, snap=16)
_SPACE = ActionSpace(buttons=("left",), keys=("KeyA", "Enter"))


def screen_recording(frames: int) -> Sample:
    """A recording of the simulated desktop at 512x384."""
    return record(SCREEN.build(), HumanPolicyConfig().build(), frames, seed=3, key="clip")


def screen_manifest(shards: Sequence[ShardEntry]) -> DatasetManifest:
    """Of shards with such recordings."""
    space = SCREEN.build().action_space
    return DatasetManifest(
        action_space=space, fps=space.fps, height=384, width=512, kind="video", shards=tuple(shards), source={}
    )


def latents(number: int, frames: int, size: tuple[int, int] = (16, 24)) -> Sample:
    """A clip of noise, drawn from its number."""
    rng = np.random.default_rng(number)
    shapes = {"pointer": (2,), "buttons": (1, 3), "keys": (2, 3), "wheel": (2,), "axes": (0,)}
    return Sample(
        key=f"clip-{number:06d}",
        actions={name: np.zeros((frames, *shape), np.float32) for name, shape in shapes.items()},
        meta={"fps": 10.0},
        latents=rng.normal(size=(frames, 4, *size)).astype(np.float16),
    )


def manifest(shards: Sequence[ShardEntry], size: tuple[int, int] = (16, 24)) -> DatasetManifest:
    """Of shards with such clips."""
    statistics = LatentStatistics(mean=(0.0,) * 4, std=(1.0,) * 4, vae_hash="none", stride=8)
    return DatasetManifest(
        action_space=_SPACE, fps=10.0, height=8 * size[0], width=8 * size[1], kind="latents", shards=tuple(shards),
        source={"environment": "noise of the bench"}, latents=statistics,
    )  # fmt: skip


def batches_of(folder: Path, batch: int, **changes: Any) -> Batches:
    """Windows of 16 frames of them, all for one rank."""
    config = DataConfig(folder=str(folder), clip_frames=16, global_batch_size=batch, **changes)
    return Batches(config, Dataset.open(folder), 0, 1, seed=1)
