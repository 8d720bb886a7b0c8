"""Ray's notice that a node will be taken away: the training on it saves at its next step, and goes on without that node.

Ray Train can start the training again by itself, but only when the time of the notice is over, and it lets nobody save.
"""

import ray._private.state
from ray.train.v2._internal.execution.context import get_train_context


def noticed() -> bool:
    """Whether this worker was told that a node of its training will go.

    As Ray's watcher left it here: ray.train.get_preemption_info has all workers wait for each other, at every step.
    """
    return get_train_context().preemption_context.preemption_info is not None


def leaving() -> set[str]:
    """The ids of nodes that are about to go. They are alive, and nothing new is placed on them."""
    return set(ray._private.state.state.get_draining_nodes())
