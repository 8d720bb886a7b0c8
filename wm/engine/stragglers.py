"""Which rank the others wait for, and in which phase it loses the time."""

import logging
import math
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wm.engine import phases
from wm.engine.world import World

logger = logging.getLogger(__name__)

NOTED_SHARE = 0.1  # of the time between two rows of the log
LEAST_SECONDS = 0.2  # that are worth a line
QUIET_SECONDS = 60.0  # between two lines about the same rank and phase


class Loss(NamedTuple):
    rank: int
    phase: str
    seconds: float


def slowest(by_rank: Sequence[Mapping[str, float]]) -> Loss:
    """Where one rank spent most seconds more than the middle one, in a phase in which no rank waits for another."""
    losses = [Loss(0, phases.ALONE[0], 0.0)]
    for phase in phases.ALONE:
        spent = [seconds.get(phase, 0.0) for seconds in by_rank]
        rank = max(range(len(spent)), key=spent.__getitem__)
        losses.append(Loss(rank, phase, spent[rank] - statistics.median_low(spent)))
    return max(losses, key=lambda loss: loss.seconds)


class Stragglers:
    """Compares the ranks' phases from one row of the log to the next."""

    def __init__(self, world: World):
        self._world = world
        self._told: dict[tuple[int, str], float] = {}

    def look(self) -> float:
        """Seconds since the last call that the others waited for one rank, which a warning names. Every rank calls."""
        found = self._world.gather_objects((socket.gethostname(), phases.take()))
        loss = slowest([seconds for _, seconds in found])
        total = max(sum(seconds.values()) for _, seconds in found)
        told_at = self._told.get((loss.rank, loss.phase), -math.inf)
        notable = loss.seconds > max(NOTED_SHARE * total, LEAST_SECONDS)
        if notable and time.monotonic() - told_at > QUIET_SECONDS and self._world.rank == 0:
            self._told[loss.rank, loss.phase] = time.monotonic()
            logger.warning(
                "rank %d on %s loses %.1f of %.1f s in %s, and the others wait for it",
                loss.rank, found[loss.rank][0], loss.seconds, total, loss.phase,
            )  # fmt: skip
        return loss.seconds
