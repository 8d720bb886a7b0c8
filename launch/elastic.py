"""How many workers a training has while nodes come and go: as many as there is room for, between two limits.

Ray Train has such limits too (ScalingConfig with a pair). They are not used: it takes any number between them, also one
among which the global batch does not divide, and to resize it ends the workers without letting them save.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from launch.entry import StageError
from launch.preemption import leaving
from launch.resources import Resources
from launch.run_config import RunConfig
from wm.config import ConfigError

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0  # for a node to take a connection
LOOK_SECONDS = 2.0  # from one look at the cluster to the next
STAY_SECONDS = 15.0  # that room for more workers must last: a restart costs about as much
WAIT_SECONDS = 600.0  # for the fewest workers to have room again


def sizes(run: RunConfig) -> list[int]:
    """The numbers of workers that `run` may train on, the largest first: those among which its global batch divides.

    ConfigError where there is none.
    """
    data, _ = run.parts()
    wants = run.resources
    found = [n for n in range(wants.num_workers, wants.fewest - 1, -1) if data.global_batch_size % n == 0]
    if not found:
        raise ConfigError(
            f"{run.kind}: data.global_batch_size {data.global_batch_size} does not divide among any number of workers from "
            f"{wants.fewest} to {wants.num_workers}; change it, resources.min_workers or resources.num_workers"
        )
    return found


def room(nodes: Sequence[Mapping[str, float]], wants: Resources) -> int:
    """Workers that have their cores and GPUs on nodes with these resources; a worker is on one node."""
    needs = {"CPU": wants.cpus} | ({"GPU": wants.gpus_per_worker} if wants.gpus_per_worker else {})
    # A hair more than there is counts as there: a third of a core, three times, is a core.
    return sum(min(int(node.get(name, 0.0) / need + 1e-6) for name, need in needs.items()) for node in nodes)


def largest(run: RunConfig, places: int) -> int:
    """The most workers that `run` may have where there are so many places; 0 where that is too few."""
    return next((n for n in sizes(run) if n <= places), 0)


def settle(run: RunConfig, look: Callable[[], int] | None = None) -> int:
    """The number of workers to train on now; waits where there is too little room, StageError after WAIT_SECONDS."""
    look = look or (lambda: room(answering(), run.resources))
    end, told = time.monotonic() + WAIT_SECONDS, False
    while not (found := largest(run, places := look())):
        if time.monotonic() > end:
            raise StageError(
                f"{_too_few(run, places)}, for {WAIT_SECONDS:.0f} s; add nodes and give the same command again"
            )
        if not told:
            log.warning("%s; waits for nodes", _too_few(run, places))
            told = True
        time.sleep(LOOK_SECONDS)
    if found < run.resources.num_workers:
        log.warning("trains on %d of at most %d workers", found, run.resources.num_workers)
    return found


@contextmanager
def growing(run: RunConfig, now: int, stop: Path) -> Iterator[threading.Event]:
    """While it lasts, room for more workers than `now` makes the file `stop`, and sets the event that it gives.

    The file asks the training to save and stop at its next step; nothing is lost by growing.
    """
    asked, over = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch, args=(run, now, stop, asked, over), daemon=True, name="growing")
    if now < sizes(run)[0]:
        watch.start()
    try:
        yield asked
    finally:
        over.set()


def _watch(run: RunConfig, now: int, stop: Path, asked: threading.Event, over: threading.Event) -> None:
    since: float | None = None
    while not over.wait(LOOK_SECONDS):
        try:
            more = largest(run, room(answering(), run.resources))
            grows = more > now and _free(run.resources, more - now)
        except RayError:  # the head does not answer; if it is lost, the training says so
            grows = False
        if not grows:
            since = None
            continue
        seen = time.monotonic()
        since = since or seen
        if seen - since >= STAY_SECONDS:
            log.warning("there is room for %d workers: saves, and goes on from %d to %d", more, now, more)
            asked.set()
            stop.touch()
            return


def answering() -> list[dict[str, float]]:
    """The resources of each node that is in the cluster to stay and takes a connection.

    A node that is cut off counts as alive for Ray until it has missed its health checks, half a minute and more.
    """
    going = leaving()
    return [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in going and _answers(n)]


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), ANSWER_SECONDS):
            return True
    except OSError:
        return False


def _free(wants: Resources, more: int) -> bool:
    """Whether nobody else uses what `more` workers need."""
    free = ray.available_resources()
    return free.get("CPU", 0.0) >= more * wants.cpus and free.get("GPU", 0.0) >= more * wants.gpus_per_worker


def _too_few(run: RunConfig, places: int) -> str:
    return f"the nodes that answer have room for {places} workers of {run.resources.cpus:g} cores, needed are {sizes(run)[-1]}"
