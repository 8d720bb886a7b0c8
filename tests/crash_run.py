"""A small training of one or two processes that test_crashes.py lets die: LocalLearner with dropout, 40 steps.

Its folder tells afterwards where each attempt began and which samples each step saw (`seen-<rank>.jsonl`).
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wm.batch import Batch, Given
from wm.engine import failpoints
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.loop import LoopConfig, run
from wm.engine.protocols import Metrics, Part
from wm.engine.world import World

NUM_STEPS, SAVE_EVERY, GLOBAL_BATCH = 40, 4, 6


class DropoutStage:
    """Learns y = 2x, with draws that are not keyed by sample."""

    def __init__(self, world: World, seen: Path):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 7), nn.Dropout(0.5), nn.Linear(7, 3))
        settings = LearnerConfig(
            learning_rate=1e-2, warmup_steps=3, weight_decay=0.1, decay="cosine", average_decay=0.9
        )
        self.learner = LocalLearner(module, settings, num_steps=NUM_STEPS, world=world)
        self._seen, self._attempt = seen, os.getpid()

    def step(self, batch: Batch) -> Metrics:
        def loss(part: Batch) -> tuple[Tensor, Metrics]:
            assert part.latents is not None
            x = part.latents.reshape(-1, 3)
            return (self.learner(x) - 2 * x).square().mean(), {}

        metrics = self.learner.update(loss, batch)
        with open(self._seen, "a") as file:
            row = {
                "attempt": self._attempt,
                "step": batch.step,
                "ids": batch.sample_ids,
                "loss": float(metrics["loss"]),
            }
            file.write(json.dumps(row) + "\n")
        return metrics

    def parts(self) -> Mapping[str, Part]:
        return {"model": self.learner}

    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        return {}

    def finish(self, folder: Path) -> Mapping[str, Any]:
        return {}


def attempt(folder: Path, rank: int, world_size: int, port: int, armed: str, beside: bool = False) -> None:
    """One process of one attempt."""
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    failpoints.arm(armed)
    if world_size > 1:
        place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    world = World.from_environment("cpu", timeout_seconds=60)

    def open_batches(cursor: int) -> Iterator[tuple[Batch, int]]:
        while True:
            latents = torch.randn(GLOBAL_BATCH, 1, 1, 1, 3, generator=torch.Generator().manual_seed(cursor))
            own = torch.arange(rank, GLOBAL_BATCH, world_size)
            ids = tuple(f"clip{cursor + i}" for i in own.tolist())
            step = cursor // GLOBAL_BATCH
            cursor += GLOBAL_BATCH
            yield Batch(step=step, index=own, given=Given(), latents=latents[own], sample_ids=ids), cursor

    stage = DropoutStage(world, folder / f"seen-{rank}.jsonl")
    settings = LoopConfig(num_steps=NUM_STEPS, log_every=1, save_every=SAVE_EVERY, keep_last=2, async_save=beside)
    run(stage, open_batches, settings, folder, world, {"crash": True})
    if dist.is_initialized():
        dist.destroy_process_group()
