"""What ZeroLearner keeps: equal to LocalLearner, equal after saving and loading at any ZeRO stage and number of ranks."""

import dataclasses
import math
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from zero_learner import (
    BFLOAT16,
    FLOAT32,
    MUON,
    NUM_STEPS,
    batch,
    largest_difference,
    local,
    make,
    masters,
    masters_of_local,
    outputs,
    save,
    state,
    train,
)

from wm.batch import Batch
from wm.engine.protocols import Learner, Metrics
from wm.engine.world import World


def parity(stage: int, world: World, folder: Path) -> None:
    """20 steps on 8 samples of two ranks, in micro-batches of 3 and 1, against one process with 3, 3 and 2."""
    learner, reference = make(FLOAT32, stage, world), local(FLOAT32)
    for step in range(NUM_STEPS):
        mine = train(learner, world, step, step + 1)
        theirs = train(reference, World.single(), step, step + 1)
        for name in theirs:
            assert math.isclose(float(mine[name]), float(theirs[name]), rel_tol=1e-4), (step, name, mine, theirs)
    assert largest_difference(learner.weights(), reference.weights()) <= 1e-6
    assert largest_difference(masters(learner), masters_of_local(reference)) <= 1e-6
    values = batch(0, World.single()).latents.reshape(-1, 9)[:, :6]
    kept = state(learner)
    before = outputs(learner, values)
    with learner.averaged(), reference.averaged(), torch.no_grad():
        shown = learner.module(values)["deep"][0]
        torch.testing.assert_close(shown, reference.module(values)["deep"][0], rtol=1e-5, atol=1e-5)
    assert largest_difference(state(learner), kept) == 0.0
    assert torch.equal(outputs(learner, values), before)
    assert not torch.equal(shown, before)


def bfloat16_parity(stage: int, world: World, folder: Path) -> None:
    """Documented tolerance: the mean over ranks is taken in bfloat16 at ZeRO 0, 2 and 3."""
    learner, reference = make(BFLOAT16, stage, world), local(BFLOAT16)
    train(learner, world, 0, NUM_STEPS)
    train(reference, World.single(), 0, NUM_STEPS)
    assert learner.module.first.weight.dtype == torch.bfloat16
    assert learner.module.scale.dtype == torch.float32
    assert largest_difference(learner.weights(), reference.weights()) <= 2e-2


def average(stage: int, world: World, folder: Path) -> None:
    """The average against float64, gathered at the end, in bfloat16, where a careless one stands still."""
    learner = make(BFLOAT16, stage, world)
    reference = {name: tensor.double() for name, tensor in masters(learner).items()}
    for step in range(10):
        train(learner, world, step, step + 1)
        for name, tensor in masters(learner).items():
            reference[name] = 0.9 * reference[name] + 0.1 * tensor.double()
    for name, tensor in learner.weights().items():
        if f"master/{name}" in reference:
            expected = reference[f"master/{name}"].view(tensor.shape)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)


def resume(stage: int, world: World, folder: Path) -> None:
    """Three steps, saved, and three by a learner that loaded them are six, bit for bit."""
    for config in (FLOAT32, BFLOAT16):
        place = folder / f"resume-{world.world_size}-{stage}-{config.precision}"
        straight, first = make(config, stage, world), make(config, stage, world)
        train(straight, world, 0, 6)
        train(first, world, 0, 3)
        save(first, place, world)
        second = make(config, stage, world, seed=1)
        second.load(place)
        assert torch.equal(second.weights()["frozen"], first.weights()["frozen"])
        train(second, world, 3, 6)
        assert largest_difference(state(straight), state(second)) == 0.0
        values = batch(0, world).latents.reshape(-1, 9)[:, :6]
        assert torch.equal(outputs(straight, values), outputs(second, values))


def snapshot(stage: int, world: World, folder: Path) -> None:
    """What a snapshot writes after further steps is what a save wrote when it was taken."""
    for config in (FLOAT32, BFLOAT16):
        learner = make(config, stage, world)
        for last in (3, 5):  # the second snapshot lies in the memory of the first
            now, later = (folder / f"{name}-{world.world_size}-{stage}-{config.precision}-{last}" for name in "ab")
            train(learner, world, last - 3, last)
            save(learner, now, world)
            held = learner.snapshot()
            train(learner, world, last, last + 2)
            later.mkdir(exist_ok=True)
            held.save(later)
            for path in now.glob(f"rank-{world.rank:05d}*"):
                assert _content(later / path.name) == _content(path)
            world.barrier()  # before that the other rank's file may be there under its temporary name
            assert {path.name for path in now.iterdir()} == {path.name for path in later.iterdir()}


def _content(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: t.reshape(-1).view(torch.uint8).tolist() for name, t in tensors.items()} | file.metadata()


def other_stage(stage: int, world: World, folder: Path) -> None:
    """What one stage saved another loads, exactly, also before any step was taken."""
    for num_steps in (0, 3):
        place = folder / f"stage-{world.world_size}-{stage}-{num_steps}"
        learner = make(FLOAT32, stage, world)
        if num_steps:
            train(learner, world, 0, num_steps)
        save(learner, place, world)
        other = make(FLOAT32, (stage + 1) % 4, world, seed=1)
        other.load(place)
        assert largest_difference(state(learner), state(other)) == 0.0
        train(learner, world, num_steps, 6)
        train(other, world, num_steps, 6)
        assert largest_difference(state(learner), state(other)) <= 1e-6


def other_world(stage: int, world: World, folder: Path) -> None:
    """One process takes up what two saved at every stage, and LocalLearner takes up what it saves."""
    place = folder / f"stage-2-{stage}-3"
    learner = make(FLOAT32, stage, world, seed=1)
    learner.load(place)
    train(learner, world, 3, 6)
    straight = make(FLOAT32, stage, world)
    train(straight, world, 0, 6)
    assert largest_difference(state(straight), state(learner)) <= 1e-6
    save(learner, folder / f"one-{stage}", world)
    plain = local(FLOAT32, seed=2)
    plain.load(folder / f"one-{stage}")
    assert largest_difference(plain.weights(), learner.weights()) == 0.0


def muon(stage: int, world: World, folder: Path) -> None:
    """Partitions cut through matrices, and Muon's step needs them whole: the same as in one process, resumed or not.

    In bfloat16 the orthogonalised step turns roundings of the gradient into changes of the size of the learning rate.
    """
    learner, reference = make(MUON, stage, world), local(MUON)
    train(learner, world, 0, 3)
    place = folder / f"muon-{world.world_size}-{stage}"
    save(learner, place, world)
    again = make(MUON, (stage + 1) % 4, world, seed=1)
    again.load(place)
    train(again, world, 3, NUM_STEPS)
    train(learner, world, 3, NUM_STEPS)
    train(reference, World.single(), 0, NUM_STEPS)
    assert largest_difference(learner.weights(), reference.weights()) <= 1e-5
    assert largest_difference(again.weights(), reference.weights()) <= 1e-5
    low = dataclasses.replace(MUON, precision="bfloat16")
    learner, reference = make(low, stage, world), local(low)
    train(learner, world, 0, 5)
    train(reference, World.single(), 0, 5)
    assert largest_difference(learner.weights(), reference.weights()) <= 5e-2


def offload(stage: int, world: World, folder: Path) -> None:
    """Moments and averages in files or in host memory: bit for bit the run that has them where it computes, also resumed."""
    for start in (FLOAT32, dataclasses.replace(MUON, precision="bfloat16")):
        plain = dataclasses.replace(start, average_lengths=(0.1,))
        filed = dataclasses.replace(plain, offload="nvme", offload_folder=str(folder / "offload"))
        straight, shelved = make(plain, stage, world), make(filed, stage, world)
        train(straight, world, 0, 3)
        train(shelved, world, 0, 3)
        place = folder / f"offload-{world.world_size}-{stage}-{start.precision}"
        save(shelved, place, world)
        resumed = make(dataclasses.replace(plain, offload="cpu"), stage, world, seed=1)
        resumed.load(place)
        for learner in (straight, shelved, resumed):
            train(learner, world, 3, 6)
        assert largest_difference(state(straight), state(shelved)) == 0.0
        assert largest_difference(state(straight), state(resumed)) == 0.0
        assert largest_difference(straight.weights(), resumed.weights()) == 0.0
    assert not list((folder / "offload").iterdir())  # the files have no names


def two_learners(stage: int, world: World, folder: Path) -> None:
    """A generator and a critic that update in turn, each through the frozen other, against two LocalLearners."""
    pairs = [(make(FLOAT32, stage, world, seed=s), local(FLOAT32, seed=s)) for s in (0, 1)]
    (first, first_local), (second, second_local) = pairs
    for step in range(6):
        _in_turn(first, second, batch(step, world))
        _in_turn(first_local, second_local, batch(step, World.single()))
    for learner, reference in pairs:
        assert largest_difference(learner.weights(), reference.weights()) <= 1e-6


def _in_turn(generator: Learner, critic: Learner, given: Batch) -> None:
    def pad(values: Tensor) -> Tensor:
        return torch.cat([values, values], dim=-1)

    def generate(part: Batch) -> tuple[Tensor, Metrics]:
        made = generator(part.latents.reshape(len(part), 9)[:, :6])["deep"][0]
        return critic.module(pad(made))["deep"][0].square().mean(), {}

    def judge(part: Batch) -> tuple[Tensor, Metrics]:
        values = part.latents.reshape(len(part), 9)
        with torch.no_grad():
            made = generator.module(values[:, :6])["deep"][0]
        return (critic(pad(made))["deep"][0] - critic(pad(values[:, 6:]))["deep"][0]).square().mean(), {}

    for active, passive, loss in ((generator, critic, generate), (critic, generator, judge)):
        trained = [p for p in passive.module.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        active.update(loss, given)
        for parameter in trained:
            parameter.requires_grad_(True)
