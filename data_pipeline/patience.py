"""Reads again what a file system could not give at the moment: waits longer each time, by chance a bit less, and counts."""

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from data_pipeline.schema import DataError
from wm.config import config

T = TypeVar("T")
log = logging.getLogger(__name__)

# What network file systems and tired disks say, and what a second later may be over.
TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


@config
class RetryConfig:
    """How long a read that fails is tried again: with the defaults for about six seconds."""

    attempts: int = 7  # all in all; 1 gives up at the first error
    first_seconds: float = 0.1  # wait before the second attempt; each further one is twice as long
    most_seconds: float = 10.0  # of one wait

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_seconds < 0 or self.most_seconds < self.first_seconds:
            raise ValueError(
                f"attempts {self.attempts} (at least 1), first_seconds {self.first_seconds} (at least 0), most_seconds "
                f"{self.most_seconds} (at least first_seconds): these do not fit together"
            )


class Patience:
    """Calls with retries, from any thread."""

    def __init__(self, config: RetryConfig = RetryConfig()) -> None:
        self.config = config
        self.retries = 0  # so far, over all files
        self._lock = threading.Lock()

    def __call__(self, read: Callable[[], T], path: Path | str) -> T:
        """What `read()` gives, which reads `path`; DataError when it failed too often. Other errors go on at once."""
        for attempt in range(1, self.config.attempts):
            try:
                return read()
            except OSError as error:
                if error.errno not in TRANSIENT:
                    raise
                self._wait(attempt, path, error)
        try:
            return read()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            raise DataError(
                f"{path} could not be read in {self.config.attempts} attempts: {error.strerror}; see whether its disk or "
                "server is well, then give the same command again"
            ) from error

    def _wait(self, attempt: int, path: Path | str, error: OSError) -> None:
        with self._lock:
            self.retries += 1
            number = self.retries
        longest = min(self.config.first_seconds * 2 ** (attempt - 1), self.config.most_seconds)
        # By chance shorter, so that many readers do not come back all at once.
        seconds = longest * random.uniform(0.5, 1.0)
        log.warning("%s: %s; reading it again in %.2f s (retry number %d)", path, error.strerror, seconds, number)
        time.sleep(seconds)
