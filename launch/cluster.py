"""One Ray runtime for all stages of a pipeline, and Ray Train for the stages that train.

Ray places the workers and replaces lost ones. It is no judge of what is complete: every attempt has a name of its own, so
that Ray finds nothing to resume, and the loop takes up our own newest whole checkpoint.
"""

import concurrent.futures
import logging
import os
import shutil
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from launch import elastic, preemption, prepare, worker
from launch.entry import Preempted, StageError, headline
from launch.ray_runtime import ray_runtime
from launch.run_config import RunConfig
from launch.runtime import STOP, check_gpus
from wm.config import ConfigError, from_dict, to_dict
from wm.engine import failures, lock
from wm.engine.world import World

log = logging.getLogger(__name__)

# For workers that Ray has given up to end, if they can be reached. One on a host that is cut off lives on for minutes, and it
# may be rank 0, which has the lock on a shared disk: it is taken away then.
LOST_SECONDS = 5.0
STOP_SECONDS = 120.0  # for one step and one checkpoint after an interrupt

# What a rank says when it lost its peers: the error to blame is another one's, and a second attempt may go well.
LOST_PEER = ConnectionError | TimeoutError | torch.distributed.DistError
LOST_PEER_WORDS = ("connection closed by peer", "connection reset", "gloo", "nccl")


class Cluster:
    """A Runtime on Ray: of this machine, or the one at `address`. One context for all stages."""

    def __init__(self, address: str | None = None, trust_checkpoint: bool = False):
        self._address, self._trust = address, trust_checkpoint

    def __enter__(self) -> Self:
        self._runtime = ray_runtime(self._address)
        self._runtime.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime.__exit__(kind, error, trace)

    map_tasks = staticmethod(prepare.map_tasks)

    def train(self, run: RunConfig, root: Path) -> dict[str, Any]:
        """Train `run`; a lost worker is replaced, an error of our own code is raised here as itself.

        With fewer workers or more as nodes come and go, where the run's resources allow that.
        """
        check_resources(run)
        folder = run.output(root)
        losses, grows = 0, True
        while grows:
            failures.forget(folder)
            try:
                result, grows = _fit(run, root, folder, self._trust)
            except TrainingFailedError as error:
                cause, first = _cause(error), failures.first(folder)
                (folder / "error.log").write_text(str(error))
                if losses == run.resources.max_failures or not _passing(cause):
                    raise _as_ours(cause, folder, first) from error
                losses += 1
                log.warning("a worker was lost (%s); goes on from its last checkpoint", first or headline(cause))
                if not lock.wait_until_free(folder, LOST_SECONDS):
                    lock.revoke(folder)
            except RayError as error:
                raise StageError(
                    f"the Ray cluster is lost ({headline(error)}); start it and give the same command again, "
                    "it goes on from the last checkpoint"
                ) from error
        return result


def check_resources(run: RunConfig) -> None:
    """ConfigError where `run` asks for more than the cluster has; without it Ray would wait for the rest to join."""
    there = ray.cluster_resources()
    check_gpus(run.resources, there.get("GPU", 0.0))
    needed, cores = run.resources.fewest * run.resources.cpus, there.get("CPU", 0.0)
    if needed > cores:
        raise ConfigError(
            f"resources ask for {needed:g} cores ({run.resources.fewest} workers with {run.resources.cpus:g} each) and "
            f"there are {cores:g}; lower resources.num_workers or resources.cpus_per_worker"
        )


def _fit(run: RunConfig, root: Path, folder: Path, trust: bool) -> tuple[dict[str, Any], bool]:
    """The result of one attempt, and whether it stopped only to go on with more workers, or without a node that leaves.

    Preempted where a node leaves and the run needs all its workers.
    In a thread: Ray would take the interrupt from the keyboard for itself on the main one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop, interrupted = folder / STOP, False
    stop.unlink(missing_ok=True)
    num_workers = elastic.settle(run) if run.resources.elastic else run.resources.num_workers
    trainer = _trainer(run, root, folder, num_workers, trust)
    outcome: Future[ray.train.Result] = Future()
    threading.Thread(target=_fulfil, args=(outcome, trainer), daemon=True, name="fit").start()
    with elastic.growing(run, num_workers, stop) as grows:
        try:
            _wait(outcome)
        except KeyboardInterrupt:
            interrupted = True
            stop.touch()
            _wait(outcome, STOP_SECONDS)
            if not outcome.done():
                raise
        finally:
            stop.unlink(missing_ok=True)
            shutil.rmtree(folder / ".ray", ignore_errors=True)
    result: dict[str, Any] = outcome.result().return_value
    preempted = result.pop("preempted")
    if interrupted or not result.get("stopped"):
        return result, False
    if preempted:
        _go_on_without_the_node(run, result["step"])
    return result, preempted or grows.is_set()


def _go_on_without_the_node(run: RunConfig, step: int) -> None:
    """Say so; Preempted where the run needs all its workers."""
    if not run.resources.elastic:
        raise Preempted(f"saved at step {step}: Ray takes a node away that a worker is on")
    log.warning("saved at step %d: a node will be taken away; goes on without it", step)


def _fulfil(outcome: "Future[ray.train.Result]", trainer: TorchTrainer) -> None:
    try:
        outcome.set_result(trainer.fit())
    except BaseException as error:  # raised again where the outcome is asked for
        outcome.set_exception(error)


def _wait(outcome: "Future[ray.train.Result]", seconds: float = float("inf")) -> None:
    """Until there is an outcome. In short waits, or the interrupt would not get through; and not by Thread.join, which an
    interrupt makes believe that the thread has ended."""
    end = time.monotonic() + seconds
    while not outcome.done() and time.monotonic() < end:
        concurrent.futures.wait([outcome], timeout=0.2)


def _trainer(run: RunConfig, root: Path, folder: Path, num_workers: int, trust: bool) -> TorchTrainer:
    wants = run.resources
    environment = {"OMP_NUM_THREADS": str(wants.threads), "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"]}
    return TorchTrainer(
        train_worker,
        train_loop_config={"run": to_dict(run), "root": str(root.resolve()), "trust": trust},
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if wants.gpus_per_worker else "gloo", timeout_s=int(wants.collective_seconds)
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=wants.gpus_per_worker > 0,
            resources_per_worker={"CPU": wants.cpus}
            | ({"GPU": wants.gpus_per_worker} if wants.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=f"{folder.name}-{time.time_ns()}",
            storage_path=str((folder / ".ray").resolve()),
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
            worker_runtime_env={"env_vars": environment},
        ),
    )


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each training worker does, in its own process."""
    run, root = from_dict(RunConfig, settings["run"]), Path(settings["root"])
    torch.set_num_threads(run.resources.threads)
    world = World.from_environment(None if run.resources.gpus_per_worker else "cpu", run.resources.collective_seconds)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    stop = run.output(root) / STOP
    result = worker.train(
        run,
        root,
        world,
        on_checkpoint=_report,
        should_stop=lambda: stop.exists() or preemption.noticed(),
        trust_checkpoint=settings["trust"],
    )
    # One rank may have heard it a moment before the others, and Ray returns what rank 0 says.
    return result | {"preempted": world.any(preemption.noticed())}


def _report(step: int, folder: Path) -> None:
    """Tell Ray that a checkpoint is whole and where. All ranks call.

    As a number and a name, not as Ray's Checkpoint: that would have to lie in Ray's own folder.
    """
    ray.train.report({"step": step, "checkpoint": str(folder)})


def _cause(error: TrainingFailedError) -> BaseException:
    """What went wrong first: an error of our own code where there is one, else how Ray describes the loss of a worker."""
    if not isinstance(error, WorkerGroupError):
        return error
    causes = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
    return min(causes, key=_passing, default=error)


def _passing(cause: BaseException) -> bool:
    """Whether a second attempt may go well: a process or its connection died, nothing in our code complained."""
    return isinstance(cause, LOST_PEER | RayError | RayTrainError) or (
        isinstance(cause, RuntimeError) and any(word in str(cause).lower() for word in LOST_PEER_WORDS)
    )


def _as_ours(cause: BaseException, folder: Path, first: str | None) -> BaseException:
    """`cause` itself if its text says what to do, else what failed first, in one line that says where to look."""
    if isinstance(cause, ValueError | OSError | FloatingPointError) and not _passing(cause):
        return cause
    return StageError(
        f"{first or headline(cause)}; the traceback is in {folder / 'error.log'}, the log in {folder}/log-0.txt"
    )
