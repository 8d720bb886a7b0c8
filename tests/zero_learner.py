"""The small network that ZeroLearner is tested on, the same in LocalLearner, and what is compared of the two."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from wm.batch import Batch, Given
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.protocols import Learner, Metrics
from wm.engine.world import World
from wm.engine.zero import ZeroLearner

NUM_STEPS, GLOBAL_BATCH = 20, 8
FLOAT32 = LearnerConfig(
    learning_rate=1e-2, warmup_steps=3, weight_decay=0.1, decay="cosine", average_decay=0.9, micro_batch_size=3
)
BFLOAT16 = dataclasses.replace(FLOAT32, precision="bfloat16")
MUON = dataclasses.replace(FLOAT32, optimizer="muon", decay="wsd")


class Net(nn.Module):
    """Odd sizes, so that partitions cut through parameters; a frozen one, a buffer, and one no loss reaches."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.last = nn.Linear(6, 11), nn.LayerNorm(11), nn.Linear(11, 3)
        self.unused = nn.Parameter(torch.randn(7, 2))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.register_buffer("scale", torch.randn(3))

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        hidden = self.norm(self.first(x.to(self.first.weight.dtype))).tanh()
        return {"deep": [self.last(hidden) * self.scale + self.frozen]}


def batch(step: int, world: World) -> Batch:
    """This rank's part of global batch `step`: positions p with p % world_size == rank."""
    latents = torch.randn(GLOBAL_BATCH, 1, 1, 3, 3, generator=torch.Generator().manual_seed(step))
    index = torch.arange(world.rank, GLOBAL_BATCH, world.world_size)
    ids = tuple(f"clip{step}@{i}" for i in index.tolist())
    return Batch(step=step, index=index, given=Given(), latents=latents[index], sample_ids=ids)


def loss_of(learner: Learner, factor: float = 1.0) -> Callable[[Batch], tuple[Tensor, Metrics]]:
    """Calls the module twice, as a loss is free to."""

    def loss(part: Batch) -> tuple[Tensor, Metrics]:
        values = part.latents.reshape(len(part), 9)
        once = (learner(values[:, :6])["deep"][0].float() - values[:, 6:]).square().mean()
        again = learner(-values[:, :6])["deep"][0].float().square().mean()
        return (once + 0.1 * again) * factor, {"once": once.detach()}

    return loss


def train(learner: Learner, world: World, first: int, last: int) -> Metrics:
    for step in range(first, last):
        metrics = learner.update(loss_of(learner), batch(step, world))
    return metrics


def make(config: LearnerConfig, stage: int, world: World, seed: int = 0) -> ZeroLearner:
    config = dataclasses.replace(config, zero_stage=stage)
    return ZeroLearner(Net(seed), config, num_steps=NUM_STEPS, world=world)


def local(config: LearnerConfig, seed: int = 0) -> LocalLearner:
    return LocalLearner(Net(seed), config, num_steps=NUM_STEPS, world=World.single())


def state(learner: ZeroLearner) -> dict[str, Tensor]:
    """All that a checkpoint holds, whole on every rank, for comparing."""
    fragments = learner._fragments()
    return {f"{kind}/{f.name}": learner._gather(f, kind).clone() for f in fragments for kind in f.tensors}


def masters(learner: ZeroLearner) -> dict[str, Tensor]:
    return {f"master/{f.name}": learner._gather(f, "master").clone() for f in learner._fragments()}


def masters_of_local(learner: LocalLearner) -> dict[str, Tensor]:
    return {f"master/{name}": tensor.reshape(-1) for name, tensor in learner._whole(None).items()}


def outputs(learner: ZeroLearner, values: Tensor) -> Tensor:
    with torch.no_grad():
        return learner.module(values)["deep"][0].clone()


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def save(learner: Learner, place: Path, world: World) -> None:
    place.mkdir(parents=True, exist_ok=True)
    learner.save(place)
    world.barrier()
