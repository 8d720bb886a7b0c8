"""The processes that test_zero.py starts: they put ZeroLearner through its laws and write down what held.

Run as `zero_worker.py FOLDER` by gloo_ranks.py. The number of processes says which checks run; those of one rank also load
what two ranks saved. Each result is "ok" or a traceback, by check.
"""

import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from zero_faults import skip, spike, whole_run
from zero_laws import (
    average,
    bfloat16_parity,
    muon,
    offload,
    other_stage,
    other_world,
    parity,
    resume,
    snapshot,
    two_learners,
)

from wm.engine.world import World

Check = Callable[[int, World, Path], None]
TWO_RANKS: tuple[Check, ...] = (
    parity,
    bfloat16_parity,
    average,
    resume,
    snapshot,
    other_stage,
    skip,
    spike,
    two_learners,
    muon,
    offload,
    whole_run,
)
ONE_RANK: tuple[Check, ...] = (parity, resume, snapshot, skip, spike, muon, other_world)
FOUR_RANKS: tuple[Check, ...] = (parity, muon)
CHECKS = {1: ONE_RANK, 2: TWO_RANKS, 4: FOUR_RANKS}  # by number of ranks


def run(check: Check, stage: int, world: World, folder: Path) -> str:
    try:
        check(stage, world, folder)
    except Exception:
        return traceback.format_exc()
    return "ok"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = World.from_environment("cpu", timeout_seconds=120)
    path = folder / f"results-{world.world_size}-{world.rank}.json"
    checks = CHECKS[world.world_size]
    results = {f"{check.__name__}-{stage}": "not run: one before failed" for check in checks for stage in range(4)}
    for check, stage in itertools.product(checks, range(4)):
        results[f"{check.__name__}-{stage}"] = outcome = run(check, stage, world, folder)
        path.write_text(json.dumps(results))
        if outcome != "ok":
            os._exit(1)  # the other rank would wait for this one in a collective that never comes
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
