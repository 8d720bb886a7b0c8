"""Sessions by their tickets: a page that lost the line finds its session as it was, for a while and against the ticket.

A ticket is drawn by this server and signed by it, so that one that has run out is told from one that was never given.
"""

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.connection import Connection
from tools.play import Play


@dataclass
class Seat:
    """One session and who is at it."""

    ticket: str
    play: Play
    connection: Connection | None = None  # None while its page is away
    left_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Cloakroom:
    """All sessions of a server. `on_end` hears of each that ends."""

    def __init__(self, grace_seconds: float, on_end: Callable[[], None]) -> None:
        self.grace_seconds = grace_seconds
        self.seats: dict[str, Seat] = {}
        self._on_end = on_end
        self._key = secrets.token_bytes(32)
        self._ending: set[asyncio.Task[None]] = set()  # a task that nothing holds may be collected before it is done

    def admit(self, play: Play) -> Seat:
        """A seat for a new session, with a ticket that nobody can guess."""
        name = secrets.token_urlsafe(18)
        seat = Seat(f"{name}.{self._signature(name)}", play)
        self.seats[seat.ticket] = seat
        return seat

    def knows(self, ticket: str) -> bool:
        """Whether `ticket` was given here, at any time."""
        name, _, signature = ticket.partition(".")
        return hmac.compare_digest(self._signature(name).encode(), signature.encode())

    async def claim(self, ticket: str) -> Seat | None:
        """The seat of `ticket`, free; None where its time is over.

        A socket that still sits there gives way: the server may hear late of a line that broke.
        """
        seat = self.seats.get(ticket)
        while seat is not None and seat.connection is not None:
            await seat.connection.give_way()
            seat = self.seats.get(ticket)  # the last socket may have said goodbye meanwhile
        if seat is None:
            return None
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
        return seat

    def keep(self, seat: Seat) -> None:
        """Its page has lost the line: end the session when nobody has claimed it in time."""
        seat.connection, seat.left_at = None, time.monotonic()
        seat.timer = asyncio.get_running_loop().call_later(self.grace_seconds, self._expire, seat)

    def make_room(self) -> bool:
        """End the session whose page is longest away, for a guest who is here; False where none is away."""
        away = [seat for seat in self.seats.values() if seat.timer is not None]
        if not away:
            return False
        self._expire(min(away, key=lambda seat: seat.left_at))
        return True

    async def end(self, seat: Seat) -> None:
        """End a session for good."""
        if self._forget(seat):
            await seat.play.end()

    def close(self) -> None:
        """Free what is left when the server has ended, and its event loop with it."""
        for seat in list(self.seats.values()):
            if self._forget(seat):
                seat.play.release()

    def _expire(self, seat: Seat) -> None:
        if self._forget(seat):
            task = asyncio.ensure_future(seat.play.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _forget(self, seat: Seat) -> bool:
        """Whether the session was there until now; each ends once."""
        if self.seats.pop(seat.ticket, None) is None:
            return False
        if seat.timer is not None:
            seat.timer.cancel()
        self._on_end()
        return True

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), "sha256").hexdigest()[:32]
