"""One model on the bench: how it is driven, how much it is asked, and what a probe of it gives."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wm.batch import Action, ActionSpace
from wm.config import config
from wm.cursor import Sprite
from wm.measures import Estimate, TransitionRule, mean_interval
from wm.stages.trials import Clip

VAE = ("vae", 0)  # the unit of the tokenizer alone, beside those of (model, number of steps)


def unit_name(model: str, steps: int) -> str:
    """What the files of a unit are called, and its row in a report."""
    return model if (model, steps) == VAE else f"{model}-{steps}"


class Session(Protocol):
    """What a model is driven through; `wm.rollout.WorldSession` is one."""

    def reset(self, frames: Tensor, action: Action) -> Tensor:
        """Forget, then see (B, T, 3, H, W) uint8 with (B, T) actions."""
        ...

    def step(self, action: Action) -> Tensor:
        """The next frame (B, 3, H, W) uint8 after action (B, 1)."""
        ...


class OpenSession(Protocol):
    """`functools.partial(WorldSession, world)` is one."""

    def __call__(self, *, model: str, num_steps: int, seed: int, batch: int) -> Session: ...


@config
class Counts:
    """How much is put to each model. The defaults cost about 105 s on two cores for teacher@16 and student@1, 2, 4."""

    context_frames: int = 8  # real frames before the first generated one
    batch: int = 64  # sessions at once
    transitions_per_kind: int = 24
    next_frames: int = 64
    idle_rollouts: int = 6
    idle_frames: int = 32
    rollouts: int = 6
    rollout_frames: int = 208
    cursor_every: int = 8  # frames of a rollout between two that the cursor is looked for in
    counterfactuals: int = 16
    speed_frames: int = 24
    strip_every: int = 25  # frames of a rollout between two of its film strip
    strip_trials: int = 5  # transitions of a kind that are shown, and frames side by side in the film of a rollout


@dataclass(frozen=True)
class Bench:
    """One model at one number of steps, and all that it is asked about."""

    open_session: OpenSession
    model: str
    num_steps: int
    clips: Sequence[Clip]
    sprites: Sequence[Sprite]  # empty where the world has no cursor to look for
    space: ActionSpace
    counts: Counts
    rule: TransitionRule
    seed: int
    kinds: Mapping[str, str] = field(default_factory=dict)  # of transitions that the world has, and what each means

    def open(self, batch: int, noise: int = 0) -> Session:
        """A session whose noise is number `noise`."""
        return self.open_session(model=self.model, num_steps=self.num_steps, seed=self.seed + noise, batch=batch)

    @property
    def size(self) -> tuple[int, int]:
        """Height, width."""
        height, width = self.clips[0].video.shape[-2:]
        return height, width


@dataclass(frozen=True)
class Sighting:
    """Frames to look for the cursor in, and where it truly is."""

    frames: Tensor  # (N, 3, H, W) uint8
    pointer: Tensor  # (N, 2) x, y pixels
    group: np.ndarray  # (N,) frames with the same number come from one rollout


@dataclass
class Findings:
    """What a probe gives: measures for report.json, details for its plots, pictures (H, W, 3) uint8."""

    measures: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    sightings: list[Sighting] = field(default_factory=list)
    animation: tuple[Tensor, Tensor] | None = None  # real and generated, (T, 3, H, W) uint8

    def add(self, other: "Findings") -> None:
        for name in ("measures", "details", "pictures"):
            getattr(self, name).update(getattr(other, name))
        self.sightings += other.sightings
        self.animation = other.animation or self.animation


def row(estimate: Estimate, **more: Any) -> dict[str, Any]:
    """How an estimate is written in report.json, rounded to what it can mean."""
    return {k: _rounded(v) for k, v in (dataclasses.asdict(estimate) | more).items()}


def speed_rows(seconds: Tensor, batch: int = 1) -> dict[str, Any]:
    """Frames a second with an interval and latencies of steps that took `seconds` (N,), `batch` frames each."""
    taken = seconds.double()
    mean = mean_interval(taken)
    fastest = float(taken.min())  # no interval reaches beyond what was seen
    rate = Estimate(batch / mean.value, batch / mean.high, batch / max(mean.low, fastest), mean.trials)
    p50, p95 = (1000 * float(q) for q in torch.quantile(taken, torch.tensor([0.5, 0.95], dtype=torch.float64)))
    return {"frames_per_second": row(rate), "latency_ms": {"p50": round(p50, 2), "p95": round(p95, 2)}}


def unmeasured(reason: str, *names: str) -> dict[str, Any]:
    """A measure that was not taken, and why."""
    return dict.fromkeys(names or ("value",)) | {
        "low": None,
        "high": None,
        "trials": 0,
        "reason": f"not measured: {reason}",
    }


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
