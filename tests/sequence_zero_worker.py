"""One of the four processes that test_sequence_zero.py starts: two share each clip, two such pairs have clips of their own,
under DeepSpeed; the first then trains the same alone, on all clips.
"""

import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_stages import ALONE, NUM_STEPS, context, make, make_root
from tiny_world import COLUMNS, ROWS, some_action
from torch import Tensor, nn

from data_pipeline.loader import DataConfig
from launch.run_config import RunConfig
from launch.worker import make_learner
from wm.batch import Batch, Given
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.loop import LoopConfig
from wm.engine.partition import Reader
from wm.engine.protocols import Learner
from wm.engine.world import World
from wm.models.denoiser import DenoiserConfig
from wm.models.dit import DiTConfig
from wm.stages.train_dit import TrainDiTConfig

B, T, STEPS = 4, 6, 3  # clips of a global batch over all processes, their frames, optimizer steps
# Wide enough that ZeRO 3 partitions some parameters and keeps others whole.
DENOISER = DenoiserConfig(dit=DiTConfig(hidden_size=192, depth=1, num_heads=2, patch_size=2, window=3, recall=4))
LEARNER = LearnerConfig(learning_rate=1e-3, warmup_steps=0, average_decay=0.5, micro_batch_size=1)


def batch(step: int) -> Batch:
    """Global batch `step`, the same in every process."""
    latents = torch.randn(B, T, 3, ROWS, COLUMNS, generator=torch.Generator().manual_seed(step)).half()
    index = torch.arange(B * step, B * step + B)
    return Batch(step=step, index=index, given=Given(some_action(B, T, seed=step)), latents=latents)


def stage_of(root: Path, config: LearnerConfig, learn: Any) -> Any:
    """A teacher whose every weight matters."""

    def learner(module: nn.Module, settings: LearnerConfig) -> Learner:
        torch.manual_seed(7)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.05)
        return learn(module, settings)

    where = dataclasses.replace(context(root), make_learner=learner)
    return make("train_dit", where, config, denoiser=DENOISER, drop_condition=0.3)


def trained(stage: Any, steps: range, place: int, size: int) -> dict[str, Any]:
    """What `steps` on every `size`-th clip from `place` on say; `seen` are hashes of what came in, noise and all."""
    seen: list[str] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(hashlib.sha256(given[0].numpy().tobytes() + given[1].numpy().tobytes()).hexdigest())

    hook = stage.denoiser.module.dit.register_forward_pre_hook(note)
    found: dict[str, Any] = {"seen": seen, "loss": [], "grad_norm": []}
    for step in steps:
        metrics = stage.step(batch(step)[place::size])
        for name in ("loss", "grad_norm"):
            found[name].append(float(metrics[name]))
    hook.remove()
    return found


def first_moments(stage: Any, folder: Path, world: World) -> dict[str, Tensor]:
    """Of a learner after its first step, flat: its clipped gradients, all by the same factor."""
    if world.rank == 0:
        folder.mkdir(parents=True)
    world.barrier()
    stage.denoiser.save(folder)
    world.barrier()
    reader, whole = Reader(folder), {}
    for name, numel in reader.numels.items():
        whole[name] = torch.zeros(numel)
        for start, piece in reader._pieces("exp_avg", name):
            whole[name][start : start + piece.get_shape()[0]] = piece[:]
    return whole


def ran(root: Path, config: LearnerConfig, learn: Any, place: int, size: int, world: World) -> dict[str, Any]:
    """What `trained` finds, and the first step's `moments`."""
    stage = stage_of(root, config, learn)
    first = trained(stage, range(1), place, size)
    moments = first_moments(stage, root / f"{world.world_size}-{config.zero_stage}", world)
    rest = trained(stage, range(1, STEPS), place, size)
    return {name: first[name] + rest[name] for name in first} | {"moments": moments}


def compared(zero_stage: int, root: Path, world: World) -> dict[str, Any]:
    """What the first process found of all of them and of itself alone; nothing on the others."""
    config = dataclasses.replace(LEARNER, zero_stage=zero_stage)
    data = DataConfig(folder="latents", clip_frames=T, global_batch_size=B)
    run = RunConfig(stage=TrainDiTConfig(), data=data, loop=LoopConfig(num_steps=NUM_STEPS), sequence_parallel=2)
    place = run.data_place(world.rank, world.world_size)
    together = ran(root, config, make_learner(run, NUM_STEPS, world), *place, world)
    together["seen"] = world.gather_objects(together["seen"])
    if world.rank:
        return {}
    alone = ran(root, config, functools.partial(LocalLearner, num_steps=NUM_STEPS, world=ALONE), 0, 1, ALONE)
    shared, wanted = together.pop("moments"), alone.pop("moments")
    largest = max(float(value.abs().max()) for value in wanted.values())
    apart = {name: float((shared[name] - value).abs().max()) / largest for name, value in wanted.items()}
    silent = sum(not bool(value.any()) for value in wanted.values()) / len(wanted)
    return {"together": together, "alone": alone, "apart": max(apart.values()), "silent": silent}


def main(folder: Path, zero_stages: list[str]) -> None:
    torch.set_num_threads(1)
    world = World.from_environment("cpu", timeout_seconds=550)
    if world.rank == 0:
        make_root(folder / "tiny")
    world.barrier()
    results = {zero_stage: compared(int(zero_stage), folder / "tiny", world) for zero_stage in zero_stages}
    if world.rank == 0:
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
