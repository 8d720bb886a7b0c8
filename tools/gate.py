"""Who may come in: the Host and Origin of a request, the token, and how many at a time."""

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from wm.config import config

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN_LENGTH = 12


@config
class Limits:
    """What guests may take, together and each."""

    max_sessions: int = 4
    idle_seconds: float = 120.0  # without input, after which the world stands still until there is some
    open_seconds: float = 10.0  # from the handshake to the first message
    send_seconds: float = 10.0  # that one message may take to leave
    stall_seconds: float = 15.0  # without an acknowledgement while frames wait
    grace_seconds: float = 30.0  # that a session waits for a page that has lost the line

    def __post_init__(self) -> None:
        if not 1 <= self.max_sessions <= 256:
            raise ValueError(f"max_sessions is {self.max_sessions}: from 1 to 256")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    return host in LOOPBACK


def wrong_host(headers: Mapping[str, str], loopback: bool) -> str | None:
    """Why a request is refused for the name it used, or None. A page of another site that points its own name at this
    machine (DNS rebinding) is what this keeps out."""
    name = urlsplit("//" + headers.get("host", "")).hostname
    if loopback and name not in LOOPBACK:
        return f"this server answers to {', '.join(LOOPBACK)}, not to {str(name)[:80]!r}"
    return None


def wrong_origin(headers: Mapping[str, str]) -> str | None:
    """Why a socket is refused for the page that opens it, or None. Browsers always say Origin; programs need not."""
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc == headers.get("host", ""):
        return None
    return f"the page {origin[:80]!r} may not play here; open this server's own page"


def token_fits(given: str, wanted: str) -> bool:
    """Whether the token is right, in a time that does not tell how much of it is. No wanted token, no question."""
    return not wanted or hmac.compare_digest(given.encode(), wanted.encode())


class Lobby:
    """Counts who is connected and who plays."""

    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.max_connected = max_sessions + 16
        self.connected = 0
        self.playing = 0
        self.total = 0  # sessions since the server began

    def connect(self) -> bool:
        """Whether there is room for one more socket, which then counts."""
        if self.connected >= self.max_connected:
            return False
        self.connected += 1
        return True

    def leave(self) -> None:
        """A session has ended."""
        self.playing -= 1

    def play(self) -> bool:
        """Whether there is room for one more session, which then counts."""
        if self.playing >= self.max_sessions:
            return False
        self.playing += 1
        self.total += 1
        return True
