"""The stream of batches made by other processes: the same batches, whoever makes which.

A process opens the dataset for itself and is asked for batches by their cursor. What it logs and what it complains of comes
back with its batches, so that it is said where the training says things.
"""

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from logging.handlers import QueueHandler
from pathlib import Path
from typing import NamedTuple

from data_pipeline.buckets import open_stream
from data_pipeline.loader import Batches, DataConfig
from data_pipeline.read_ahead import read_ahead
from wm.batch import Batch

OpenBatches = Callable[[int], Generator[tuple[Batch, int], None, None]]


def open_with_workers(config: DataConfig, root: Path, rank: int, world_size: int, seed: int) -> OpenBatches:
    """This rank's view of what `config` describes, as `open_stream`, read by the kind of workers that it asks for."""
    opening = partial(open_stream, config, root, rank, world_size, seed)
    if config.worker_kind == "thread" or config.num_workers == 0:
        return opening()
    return partial(_read, opening, config)


def _read(opening: Callable[[], Batches], config: DataConfig, cursor: int) -> Generator[tuple[Batch, int], None, None]:
    """(Batch, next cursor) without end; ConnectionError where a process was killed, which a second attempt may mend."""
    # Not by fork: it would copy the locks of the training's threads as they are at the moment.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(config.num_workers, spawn, initializer=_begin, initargs=(opening,))
    try:
        for served, after in read_ahead(pool, _serve, config, cursor):
            yield served.unwrapped(), after
    except BrokenProcessPool as error:
        raise ConnectionError("a process that reads data for this rank was killed: is there memory enough?") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Serving(NamedTuple):
    """What a process gives back for a cursor: a batch, or what is wrong, and what it logged meanwhile."""

    made: Batch | ValueError
    said: list[logging.LogRecord]

    def unwrapped(self) -> Batch:
        for record in self.said:
            logging.getLogger(record.name).handle(record)
        if isinstance(self.made, ValueError):
            raise self.made
        return self.made


class _Opened:
    """The stream of this process, opened when the first batch is asked for: what is wrong with it is then told."""

    opening: Callable[[], Batches]
    batches: Batches | None = None


def _begin(opening: Callable[[], Batches]) -> None:
    _Opened.opening = opening
    # An interrupt goes to the whole group of processes; the training saves first, and then ends these.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _serve(cursor: int) -> _Serving:
    with _kept_log() as said:
        return _Serving(_made(cursor), said)


def _made(cursor: int) -> Batch | ValueError:
    try:
        _Opened.batches = _Opened.batches or _Opened.opening()
        return _Opened.batches.batch(cursor)
    except ValueError as error:  # of the data or its config: its text says all
        return error


@contextmanager
def _kept_log() -> Iterator[list[logging.LogRecord]]:
    """The records of our own loggers meanwhile, ready to be sent; they go nowhere else."""
    logger, kept = logging.getLogger("data_pipeline"), queue.SimpleQueue[logging.LogRecord]()
    handler, records = QueueHandler(kept), list[logging.LogRecord]()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        while not kept.empty():
            records.append(kept.get())
