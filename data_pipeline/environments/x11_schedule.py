"""When frames are taken that come by the clock: on a fixed grid, never hastily, and a missed one is never made up for."""

import time

_WAKE_SECONDS = 0.0005  # before the time; the rest is waited for awake, because sleeping ends late


class Schedule:
    """A grid of `fps` moments a second from `begin` on."""

    def __init__(self, fps: float) -> None:
        self.period = 1 / fps
        self.begin()

    def begin(self) -> None:
        """The first moment is now."""
        self._start = time.perf_counter()
        self._slot = 0

    def now(self) -> float:
        """Seconds since `begin`."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """Seconds until the next moment; below zero where it has passed."""
        return (self._slot + 1) * self.period - self.now()

    def wait(self) -> float:
        """Until the next moment, and the time that it is then. Moments that have passed a whole period ago are left out."""
        self._slot += 1
        if self.left < 0:  # even the moment after it has passed
            self._slot = int(self.now() / self.period)
        due = self._slot * self.period
        ahead = due - self.now() - _WAKE_SECONDS
        if ahead > 0:
            time.sleep(ahead)
        while self.now() < due:
            pass
        return self.now()
