"""One rank that trains on clips in a row by ZeRO, and alone on the whole batch: what test_packed_batches.py holds together."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_stages import ALONE, PARITY, context, make

from tests.test_packed_batches import DENOISERS, NUM_CLIPS, take
from wm.engine.learner import LocalLearner
from wm.engine.world import World
from wm.engine.zero import ZeroLearner

STEPS = 3
NARROW = DENOISERS["text"]
# Wide enough that ZeRO 3 partitions some parameters and keeps others whole. Without recall: the bias of its keys has no
# gradient but rounding, of which Adam makes whole steps.
WIDE = dataclasses.replace(NARROW, dit=dataclasses.replace(NARROW.dit, hidden_size=192, num_heads=2, recall=0))


def trained(root: Path, learner: type, place: World, zero_stage: int) -> dict[str, Any]:
    settings = dataclasses.replace(PARITY, zero_stage=zero_stage, micro_batch_size=0)
    stage = make("train_dit", context(root, learner, place), settings, denoiser=WIDE, drop_condition=0.3)
    for step in range(STEPS):
        (batch,) = take(root, 1, cursor=NUM_CLIPS * step, rank=place.rank, world=place.world_size)
        assert len(set(batch.lengths)) > 1
        stage.step(batch)
    return dict(stage.denoiser.weights())


def main(root: Path) -> None:
    torch.set_num_threads(1)
    world, found = World.from_environment("cpu", timeout_seconds=120), {}
    for zero_stage in range(4):
        alone = trained(root, LocalLearner, ALONE, zero_stage)
        together = trained(root, ZeroLearner, world, zero_stage)
        found[zero_stage] = max(float((alone[name] - together[name]).abs().max()) for name in alone)
    (root / f"packed-{world.rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
