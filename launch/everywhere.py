"""A function run on nodes of a Ray cluster that are named: for what is asked of machines, not for work."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wm.config import ConfigError

NODE_SECONDS = 40.0  # for a node to answer; the first answer waits for a process to start


class Node(NamedTuple):
    id: str
    host: str


def alive() -> list[Node]:
    """In the order of Ray's list."""
    return [Node(node["NodeID"], node["NodeManagerHostname"]) for node in ray.nodes() if node["Alive"]]


def on_nodes(
    nodes: Sequence[Node],
    function: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    seconds: float = NODE_SECONDS,
) -> list[Any]:
    """What `function` returns on each of `nodes` with its own arguments, all at once; ConfigError where one is silent."""
    found = answers(nodes, function, arguments, seconds)
    for node, answer in zip(nodes, found, strict=True):
        if isinstance(answer, RayError):
            raise ConfigError(f"{node.host} gave no answer in {seconds:g} s: {line(answer)}") from answer
    return found


def answers(
    nodes: Sequence[Node], function: Callable[..., Any], arguments: Sequence[Sequence[Any]], seconds: float
) -> list[Any]:
    """As `on_nodes`, with the error in place of what a node did not answer."""
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*given)
        for node, given in zip(nodes, arguments, strict=True)
    ]
    ray.wait(asked, num_returns=len(asked), timeout=seconds)
    return [_answer(reference) for reference in asked]


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=0)
    except RayError as error:
        ray.cancel(reference, force=True)
        return error


def line(error: RayError) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def own_address() -> str:
    """Of this machine, as the cluster's nodes know it."""
    return str(ray.util.get_node_ip_address())
