"""The processes that test_conversion.py starts: `convert_worker.py FOLDER RANK WORLD_SIZE PORT BEFORE`.

The first world (BEFORE 0) trains one learner a ZeRO stage and writes down what each holds; a later one loads into every
stage what every stage of the world BEFORE saved, compares, and saves it again.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from zero_learner import BFLOAT16, FLOAT32, make, save, state, train

from wm.engine.world import World


def main(folder: Path, rank: int, world_size: int, port: str, before: int) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    world = World.from_environment("cpu", timeout_seconds=400)
    for stage in range(4):
        if before:
            convert(folder, world, stage, before)
        else:
            begin(folder, world, stage)
    if dist.is_initialized():
        dist.destroy_process_group()


def begin(folder: Path, world: World, stage: int) -> None:
    learner = make(BFLOAT16 if stage % 2 else FLOAT32, stage, world)
    train(learner, world, 0, 3)
    save(learner, folder / f"{world.world_size}/{stage}-{stage}", world)
    held = {name: tensor.contiguous() for name, tensor in state(learner).items()}
    if world.rank == 0:
        save_file(held, folder / f"expected-{stage}.safetensors")
    world.barrier()


def convert(folder: Path, world: World, stage: int, before: int) -> None:
    for source in range(4):
        origin = source if (folder / "first").read_text() == str(before) else (source + stage) % 4
        learner = make(BFLOAT16 if origin % 2 else FLOAT32, stage, world, seed=1)
        learner.load(folder / f"{before}/{source}-{origin}")
        expected, found = load_file(folder / f"expected-{origin}.safetensors"), state(learner)
        assert found.keys() == expected.keys()
        assert {name.split("/")[0] for name in found} == {"master", "exp_avg", "exp_avg_sq", "average"}
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (
                f"{name}: stage {source} of {before} to {stage} of {world.world_size}"
            )
        assert learner._count.applied == 3
        save(learner, folder / f"{world.world_size}/{stage}-{origin}", world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
