"""What a training stage is handed when it is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from wm.batch import ActionSpace
from wm.engine.protocols import MakeLearner


class LatentFacts(Protocol):
    """What the latents on disk are: raw, with these statistics, made by that tokenizer."""

    @property
    def mean(self) -> tuple[float, ...]: ...  # a channel each
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def vae_hash(self) -> str: ...
    @property
    def stride(self) -> int: ...  # pixels a latent covers, a side


@dataclass(frozen=True)
class DatasetFacts:
    action_space: ActionSpace
    fps: float
    height: int  # pixels
    width: int
    latents: LatentFacts | None = None


def is_first_rank() -> bool:
    """True on the one rank that writes what all ranks hold alike."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@dataclass(frozen=True)
class StageContext:
    root: Path  # the run folder of the world: what earlier stages left is named relative to it
    make_learner: MakeLearner
    device: torch.device
    seed: int
    num_steps: int  # optimizer steps of the whole run
    facts: DatasetFacts
