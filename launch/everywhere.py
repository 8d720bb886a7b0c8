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
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*given)
        for node, given in zip(nodes, arguments, strict=True)
    ]
    try:
        return list(ray.get(asked, timeout=seconds))
    except RayError as error:
        names, reason = ", ".join(node.host for node in nodes), (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"a node of {names} gave no answer in {seconds:g} s: {type(error).__name__}: {reason}"
        ) from error


def own_address() -> str:
    """Of this machine, as the cluster's nodes know it."""
    return str(ray.util.get_node_ip_address())
