"""One rank of a training as launch/worker.py runs it. Run as `world_run.py ROOT CONFIG OVERRIDE...` by gloo_ranks.py.

Beside the stage's own output it writes ids-<rank>.json: the ids and global places of the samples of each step.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch

from data_pipeline.worker_processes import open_with_workers
from launch.run_config import load_run
from launch.worker import train
from wm.engine.world import World


def main(root: Path, config: Path, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    world, run = World.from_environment("cpu", timeout_seconds=120), load_run(config, overrides)
    train(run, root, world)
    data, loop = run.parts()
    stream = open_with_workers(data, root, world.rank, world.world_size, run.seed)(0)
    seen = [list(zip(part.index.tolist(), part.sample_ids, strict=True)) for part, _ in islice(stream, loop.num_steps)]
    (run.output(root) / f"ids-{world.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
