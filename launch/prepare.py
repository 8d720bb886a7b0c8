"""Ray tasks: the work that makes datasets and reports, placed on whatever machines there are, retried when one is lost."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import ray
import torch

from launch.resources import Resources

# Tasks given to Ray for each that can run: the next one is there when one ends, and the rest does not crowd the scheduler.
AHEAD = 2


def map_tasks(
    function: Callable[..., dict[str, Any]],
    tasks: Sequence[tuple[Any, ...]],
    resources: Resources,
    on_done: Callable[[int], None],
) -> list[dict[str, Any]]:
    """MapTasks over Ray. A lost worker's task is run again; an error that `function` raises is raised here, as itself.

    The rest of the tasks is cancelled before an error is raised, so that nothing writes on behind the caller's back.
    """
    remote = ray.remote(
        num_cpus=resources.cpus, num_gpus=resources.gpus_per_worker, max_retries=max(3, resources.max_failures)
    )(_task)
    waiting, running = enumerate(tasks), dict[ray.ObjectRef, int]()
    answers: dict[int, dict[str, Any]] = {}
    try:
        while len(answers) < len(tasks):
            for i, arguments in islice(waiting, max(0, AHEAD * _at_once(resources) - len(running))):
                running[remote.remote(function, arguments, resources.threads)] = i
            # A time-out lets an interrupt from the keyboard through, and machines that have come be used.
            done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            for reference in done:
                answers[running.pop(reference)] = ray.get(reference)
                on_done(len(answers))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    return [answers[i] for i in range(len(tasks))]


def _at_once(resources: Resources) -> int:
    """Tasks that all machines together have room for; at least one, so that Ray can ask for machines."""
    there = ray.cluster_resources()
    asked = {"CPU": resources.cpus, "GPU": resources.gpus_per_worker}
    return max(1, min(int(there.get(name, 0) / amount + 1e-9) for name, amount in asked.items() if amount))


def _task(function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    return function(*arguments)
