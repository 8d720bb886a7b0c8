"""What goes wrong on one rank of ZeroLearner happens on all: a bad loss, a save that fails, a wish to stop."""

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor
from zero_learner import BFLOAT16, FLOAT32, GLOBAL_BATCH, batch, largest_difference, loss_of, make, state, train

from wm.batch import Batch
from wm.engine import loop
from wm.engine.loop import LoopConfig
from wm.engine.protocols import Metrics, Part
from wm.engine.world import World
from wm.engine.zero import ZeroLearner


def skip(stage: int, world: World, folder: Path) -> None:
    """A loss or a gradient that is not finite on the last rank alone is applied on none."""
    for config, where in ((FLOAT32, "gradient"), (BFLOAT16, "loss")):
        learner, twin = make(config, stage, world), make(config, stage, world)
        train(learner, world, 0, 2)
        train(twin, world, 0, 2)
        bad = world.rank == world.world_size - 1
        messages = _messages_of(functools.partial(_break, learner, world, bad, where))
        if world.rank == 0:
            assert "step 77 skipped on all ranks" in messages, messages
            assert f"clip77@{world.world_size - 1}" in messages, messages
        train(learner, world, 2, 4)
        train(twin, world, 2, 4)
        assert largest_difference(state(learner), state(twin)) == 0.0


def _break(learner: ZeroLearner, world: World, bad: bool, where: str) -> None:
    def broken(part: Batch) -> tuple[Tensor, Metrics]:
        value, metrics = loss_of(learner)(part)
        if not bad:
            return value, metrics
        return value + math.inf if where == "loss" else value + (value - value.detach()).sqrt(), metrics

    assert learner.update(broken, batch(77, world))["skipped_steps"] == 1


def spike(stage: int, world: World, folder: Path) -> None:
    """A finite loss beyond spike_sigma, on the last rank and in the first micro-batch alone, moves nothing anywhere."""
    for precision in (FLOAT32, BFLOAT16):
        config = dataclasses.replace(precision, spike_sigma=6.0)
        learner, twin = make(config, stage, world), make(config, stage, world)
        train(learner, world, 0, 18)
        train(twin, world, 0, 18)
        high = 1e4 if world.rank == world.world_size - 1 else 1.0
        messages = _messages_of(functools.partial(_update_high, learner, world, high))
        assert world.rank != 0 or "step 77 skipped on all ranks, a loss far above" in messages, messages
        train(learner, world, 18, 20)
        train(twin, world, 18, 20)
        assert largest_difference(state(learner), state(twin)) == 0.0


def _update_high(learner: ZeroLearner, world: World, factor: float) -> None:
    factors = itertools.chain([factor], itertools.repeat(1.0))

    def high(part: Batch) -> tuple[Tensor, Metrics]:
        return loss_of(learner, next(factors))(part)

    assert learner.update(high, batch(77, world))["skipped_steps"] == 1


def _messages_of(action: Callable[[], None]) -> str:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("wm").addHandler(handler)
    try:
        action()
    finally:
        logging.getLogger("wm").removeHandler(handler)
    return "\n".join(messages)


class Half:
    """A part that fails on the last rank, once."""

    def __init__(self, world: World):
        self._fails = world.rank == world.world_size - 1

    def save(self, folder: Path) -> None:
        if self._fails:
            self._fails = False
            raise OSError(28, "No space left on device")

    def load(self, folder: Path) -> None:
        pass

    def make_room(self) -> None:
        pass

    def snapshot(self) -> "Half":
        return self


class OneLearner:
    """The smallest stage."""

    def __init__(self, learner: ZeroLearner, world: World):
        self._learner, self._half = learner, Half(world)

    def step(self, batch: Batch) -> Metrics:
        return self._learner.update(loss_of(self._learner), batch)

    def parts(self) -> dict[str, Part]:
        return {"model": self._learner, "half": self._half}

    def sample(self, batch: Batch) -> dict[str, Tensor]:
        with self._learner.averaged() as module:
            return {"picture": module(batch.latents.reshape(-1, 9)[:, :6])["deep"][0].sigmoid()[None]}

    def finish(self, folder: Path) -> dict[str, object]:
        return {"sum": sum(tensor.double().sum().item() for tensor in self._learner.weights().values())}


def whole_run(stage: int, world: World, folder: Path) -> None:
    """The loop on all ranks: a save that fails on one is dropped on all, and one that wants to stop stops all."""

    def open_batches(cursor: int) -> Iterator[tuple[Batch, int]]:
        while True:
            cursor += GLOBAL_BATCH
            yield batch(cursor // GLOBAL_BATCH - 1, world), cursor

    def start(place: Path, stop_at: int) -> dict[str, object]:
        steps = itertools.count(1)
        learner = OneLearner(make(BFLOAT16, stage, world), world)
        settings = LoopConfig(num_steps=6, log_every=1, save_every=2, sample_every=3, keep_last=1)
        wants = [world.rank == world.world_size - 1 and step == stop_at for step in range(7)]
        return loop.run(
            learner,
            open_batches,
            settings,
            place,
            world,
            {},
            should_stop=lambda: wants[next(steps)],
            on_checkpoint=heard,
        )

    reported: list[int] = []

    def heard(step: int, path: Path) -> None:
        reported.append(step)

    straight = start(folder / f"straight-{stage}", 0)
    first = start(folder / f"parts-{stage}", 3)
    assert (first["step"], first["stopped"]) == (3, True)
    second = start(folder / f"parts-{stage}", 0)
    assert second["sum"] == straight["sum"]
    assert reported == [4, 6, 3, 6]  # the save at 2 failed, at 4 of the second part too
