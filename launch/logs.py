"""A run's log: one file a rank, with rank, host and step on every line, and the first failure noted for whoever asks."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wm.engine import failures, phases
from wm.engine.world import World

# Whose words belong in a run's log.
LOGGERS = ("wm", "launch", "data_pipeline", "py.warnings")

log = logging.getLogger(__name__)


class RankFile(logging.FileHandler):
    """Appends to `log-<rank>.txt`; a full disk is told once on stderr and stops nothing."""

    def __init__(self, folder: Path, world: World):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"log-{world.rank}.txt")
        self._told = False
        place = f"rank {world.rank} {socket.gethostname().replace('%', '%%')}"
        self.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {place} step %(step)s %(name)s: %(message)s"))
        self.addFilter(_with_step)

    def format(self, record: logging.LogRecord) -> str:
        """A message of several lines has them all prefixed, tracebacks too: whoever filters by rank keeps them."""
        first, *more = super().format(record).splitlines()
        prefix = first[: first.index(f" {record.name}: ")] if more else ""
        return "\n".join([first, *(f"{prefix} | {line}" for line in more)])

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._told:
            self._told = True
            print(f"{self.baseFilename} cannot be written ({sys.exc_info()[1]}); training goes on", file=sys.stderr)


def _with_step(record: logging.LogRecord) -> bool:
    record.step = phases.where().step
    return True


@contextmanager
def logged_to(folder: Path, world: World) -> Iterator[None]:
    """While it lasts, what our code and Python's warnings say goes to this rank's file in `folder`, after what is there."""
    handler = RankFile(folder, world)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


@contextmanager
def failing_noted(folder: Path, world: World) -> Iterator[None]:
    """An error that leaves the context is in the log with its traceback, and noted if it is the first of all ranks'."""
    try:
        yield
    except Exception as error:
        failures.note(folder, world, phases.where().step, f"{type(error).__name__}: {error}")
        log.exception("fails")
        raise
