"""Processes that test_watchdog.py starts: `hang_run.py FOLDER RANK WORLD_SIZE PORT HOW`; one of them hangs or is slow."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from crash_run import DropoutStage

from launch.logs import failing_noted, logged_to
from wm.batch import Batch, Given
from wm.engine.loop import LoopConfig, run
from wm.engine.watchdog import watched
from wm.engine.world import World

LIMIT = 8.0  # seconds


def main(folder: Path, rank: int, world_size: int, port: str, how: str) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    world = World.from_environment("cpu", timeout_seconds=120)

    def open_batches(cursor: int) -> Iterator[tuple[Batch, int]]:
        while True:
            step = cursor // world_size
            if rank == 1 and step == 7 and how != "slow":
                misbehave(how)
            if rank == 1 and how == "slow":
                time.sleep(0.1)
            cursor += world_size
            latents = torch.randn(1, 1, 1, 1, 3)
            ids = (f"clip{cursor}",)
            yield Batch(step=step, index=torch.tensor([rank]), given=Given(), latents=latents, sample_ids=ids), cursor

    stage = DropoutStage(world, folder / f"seen-{rank}.jsonl")  # torch imports much when it makes its first optimizer
    with logged_to(folder, world), failing_noted(folder, world), watched(folder, world, LIMIT):
        logging.getLogger("wm").info("begins")
        settings = LoopConfig(num_steps=20, log_every=5, save_every=5)
        run(stage, open_batches, settings, folder, world, {})


def misbehave(how: str) -> None:
    if how == "data":
        time.sleep(600)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "raise":
        raise ValueError("clip7 is no clip:\nits header is missing")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
