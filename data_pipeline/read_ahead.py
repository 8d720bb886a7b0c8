"""Batches made before they are asked for, by threads or processes, and given out in their order."""

import itertools
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from typing import TypeVar

from data_pipeline.data_config import DataConfig

T = TypeVar("T")


def read_ahead(
    pool: Executor, make: Callable[[int], T], config: DataConfig, cursor: int
) -> Generator[tuple[T, int], None, None]:
    """(make(cursor), next cursor) without end, made by `pool`; an error of `make` is raised where its turn is."""
    step = config.global_batch_size
    pending: deque[Future[T]] = deque()
    for ahead in itertools.count(cursor, step):
        pending.append(pool.submit(make, ahead))
        if len(pending) > config.num_workers + 1:
            cursor += step
            yield pending.popleft().result(), cursor
