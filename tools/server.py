"""The server of the page: three files, a health line, and a socket for each page at play."""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tools.cloakroom import Cloakroom, Seat
from tools.connection import Connection
from tools.gate import Limits, Lobby, token_fits, wrong_host, wrong_origin
from tools.messages import MAX_MESSAGE_BYTES, Open, error_text, parse
from tools.play import Play
from tools.recorder import Recorder, Recording
from tools.session import Game

_WEB = Path(__file__).parent / "web"
_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/screen.js": ("screen.js", "text/javascript"),
    "/hand.js": ("hand.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TRY_AGAIN_LATER, _POLICY = 1013, 1008
PROTOCOL_VERSION = 1  # of tools/PROTOCOL.md


@dataclass
class Hall:
    """What all pages of one server share."""

    game: Game
    recordings: Path  # folder for what pages record
    limits: Limits = field(default_factory=Limits)
    token: str = ""  # asked for in the first message; empty for none
    loopback: bool = True
    with_page: bool = True  # False serves programs only
    make_recording: Callable[[Game, Path], Recording] = Recorder  # what keeps a session's recordings in the folder

    def __post_init__(self) -> None:
        self.lobby = Lobby(self.limits.max_sessions)
        # One thread: models take turns in the order of their asking, and torch keeps one team of threads.
        self.models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self.cloakroom = Cloakroom(self.limits.grace_seconds, self.lobby.leave)

    def close(self) -> None:
        """Free what is left of the sessions, once the server has ended."""
        self.cloakroom.close()


def application(hall: Hall) -> Starlette:
    """The ASGI application of `hall`."""

    def answering(answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def to_those_who_know_its_name(request: Request) -> Response:
            refusal = wrong_host(request.headers, hall.loopback)
            return PlainTextResponse(refusal + "\n", 421, headers=_HEADERS) if refusal else answer(request)

        return to_those_who_know_its_name

    def page(request: Request) -> Response:
        name, media = _FILES[request.url.path]
        return Response((_WEB / name).read_bytes(), media_type=media, headers=_HEADERS)

    def health(request: Request) -> Response:
        lobby = hall.lobby
        counts = {"sessions": lobby.playing, "max_sessions": lobby.max_sessions, "sessions_so_far": lobby.total}
        return JSONResponse({"status": "ready", **counts}, headers=_HEADERS)

    def world(request: Request) -> Response:
        return JSONResponse({"protocol": PROTOCOL_VERSION, "socket": "/play", **hall.game.about()}, headers=_HEADERS)

    async def play(websocket: WebSocket) -> None:
        refusal = wrong_host(websocket.headers, hall.loopback) or wrong_origin(websocket.headers)
        if refusal is not None or not hall.lobby.connect():
            await websocket.close(_POLICY, (refusal or "too many open sockets")[:120])  # before accept: HTTP 403
            return
        try:
            with contextlib.suppress(WebSocketDisconnect):
                await _welcome(websocket, hall)
        finally:
            hall.lobby.connected -= 1

    pages = [Route(path, answering(page)) for path in _FILES] if hall.with_page else []
    told = [Route("/health", answering(health)), Route("/world", answering(world))]
    return Starlette(routes=[*pages, *told, WebSocketRoute("/play", play)])


async def _welcome(websocket: WebSocket, hall: Hall) -> None:
    """Hear the first message, admit the page to a session, its own or a new one, or tell it why not."""
    await websocket.accept()
    try:
        first = await _first_message(websocket, hall)
        seat = (await hall.cloakroom.claim(first.session) if first.session else None) or _new_seat(hall)
    except _RefusedError as refusal:
        text, code = refusal.args
        async with asyncio.timeout(hall.limits.send_seconds):
            await websocket.send_text(text)
            await websocket.close(code)
        return
    await _play_at(seat, websocket, hall, resumed=seat.ticket == first.session)
    with contextlib.suppress(RuntimeError):  # closed already
        await websocket.close(1001)


def _new_seat(hall: Hall) -> Seat:
    if not hall.lobby.play() and not (hall.cloakroom.make_room() and hall.lobby.play()):
        most = hall.limits.max_sessions
        text = f"all {most} places are taken: close another page, or start the server with a higher --max-sessions"
        raise _RefusedError(error_text(text, "full"), _TRY_AGAIN_LATER)
    return hall.cloakroom.admit(
        Play(hall.game, hall.limits, hall.models, hall.make_recording(hall.game, hall.recordings))
    )


async def _play_at(seat: Seat, websocket: WebSocket, hall: Hall, resumed: bool) -> None:
    """Serve the page until it is gone. Its session ends with its goodbye; after a lost line it is kept for a while."""
    seat.connection = Connection(websocket, seat.play)
    hello = {"kind": "hello", **hall.game.about(), "session": seat.ticket, "resumed": resumed}
    hello |= {"number": seat.play.number, "grace_seconds": hall.limits.grace_seconds}
    lost = False
    try:
        lost = await seat.connection.run(hello)
    finally:
        if lost:
            hall.cloakroom.keep(seat)
        else:
            await hall.cloakroom.end(seat)


class _RefusedError(Exception):
    """A page that may not play: what it is told, and the code that its socket is closed with."""


async def _first_message(websocket: WebSocket, hall: Hall) -> Open:
    """What the page opens with; _RefusedError where that is not enough to play."""
    try:
        async with asyncio.timeout(hall.limits.open_seconds):
            received = await websocket.receive()
    except TimeoutError:
        raise _RefusedError(error_text('no message came; the first one is {"kind": "open"}'), _POLICY) from None
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        message = parse(received.get("text"))
    except ValueError as error:
        raise _RefusedError(error_text(str(error)), _POLICY) from None
    if not isinstance(message, Open):
        raise _RefusedError(error_text(f'the first message is {{"kind": "open"}}, not {message.kind}'), _POLICY)
    if not token_fits(message.token, hall.token):
        raise _RefusedError(error_text("this server asks for its token", "token"), _POLICY)
    if message.session and not hall.cloakroom.knows(message.session):
        text = "this session was not begun here; open without one to begin another"
        raise _RefusedError(error_text(text, "session"), _POLICY)
    return message


class PortInUseError(OSError):
    """The address cannot be listened on; the message says what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. PortInUseError where it is taken, before anything slow is done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise PortInUseError(f"port {port} on {host} cannot be used ({reason}): choose another with --port") from None
    return listener


def make_server(hall: Hall) -> uvicorn.Server:
    """A server of `hall`; `serve(sockets=[listener])` or `run` starts it."""
    settings = uvicorn.Config(
        application(hall),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        http="h11",
        h11_max_incomplete_event_size=16 * 1024,
        ws="websockets-sansio",  # stops reading while a message waits to be handled, so nothing piles up here
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(settings)


def address(listener: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(hall: Hall, listener: socket.socket) -> None:
    """Serve until interrupted; pages at play are told before the end."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    how = "played" if hall.with_page else "served to programs"
    print(f"{hall.game.name} is {how} at {address(listener)} (Ctrl-C ends it)", flush=True)
    try:
        make_server(hall).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        hall.models.shutdown(wait=False, cancel_futures=True)
        hall.close()
