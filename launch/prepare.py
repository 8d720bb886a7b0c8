"""Ray tasks: the work that makes datasets and reports, placed on whatever machines there are, retried when one is lost."""

from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch

from launch.resources import Resources


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
    references = [remote.remote(function, arguments, resources.threads) for arguments in tasks]
    order = {reference: i for i, reference in enumerate(references)}
    answers: list[dict[str, Any]] = [{} for _ in tasks]
    waiting = references
    try:
        while waiting:
            # A time-out lets an interrupt from the keyboard through.
            done, waiting = ray.wait(waiting, num_returns=1, timeout=0.5)
            for reference in done:
                answers[order[reference]] = ray.get(reference)
                on_done(len(tasks) - len(waiting))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
    return answers


def _task(function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    return function(*arguments)
