"""What runs stages: this process alone, or a Ray runtime (launch/cluster.py). The stages do not know which."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch

from launch import worker
from launch.resources import Resources
from launch.run_config import RunConfig
from launch.shard_work import MapTasks, map_here
from wm.config import ConfigError
from wm.engine import failures
from wm.engine.world import World

# A file of this name in a stage's folder asks its training to save and stop at the next step.
STOP = "stop"


class Runtime(Protocol):
    def train(self, run: RunConfig, root: Path) -> dict[str, Any]:
        """Train `run` to its end, or until an interrupt: then the answer has `stopped` True."""
        ...

    @property
    def map_tasks(self) -> MapTasks: ...


class ThisProcess:
    """A Runtime without Ray: one process, or those that torchrun started."""

    def __init__(self, trust_checkpoint: bool = False):
        self._trust = trust_checkpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def train(self, run: RunConfig, root: Path) -> dict[str, Any]:
        check_gpus(run.resources, torch.cuda.device_count())
        torch.set_num_threads(run.resources.threads)
        world = World.from_environment(
            None if run.resources.gpus_per_worker else "cpu", run.resources.collective_seconds
        )
        if world.rank == 0:
            failures.forget(run.output(root))
        stop = run.output(root) / STOP
        stop.unlink(missing_ok=True)
        with asked_to_stop(stop):
            return worker.train(run, root, world, should_stop=stop.exists, trust_checkpoint=self._trust)

    def map_tasks(
        self,
        function: Callable[..., dict[str, Any]],
        tasks: Sequence[tuple[Any, ...]],
        resources: Resources,
        on_done: Callable[[int], None],
    ) -> list[dict[str, Any]]:
        check_gpus(resources, torch.cuda.device_count())
        torch.set_num_threads(resources.threads)
        return map_here(function, tasks, resources, on_done)


def check_gpus(resources: Resources, num_gpus: float) -> None:
    """ConfigError where more is asked than there is."""
    needed = resources.fewest * resources.gpus_per_worker
    if needed > num_gpus:
        raise ConfigError(
            f"resources ask for {needed:g} GPUs ({resources.fewest} workers with {resources.gpus_per_worker:g} each) and "
            f"there are {num_gpus:g}; give resources.gpus_per_worker=0 to use the CPU, or run where the GPUs are"
        )


@contextmanager
def asked_to_stop(stop: Path) -> Iterator[None]:
    """While it lasts, an interrupt from the keyboard makes the file `stop`; a second one interrupts as usual."""
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.touch()

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        stop.unlink(missing_ok=True)
