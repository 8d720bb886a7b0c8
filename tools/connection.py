"""One page at play: it reads what the page says, advances the world at its pace, and hands frames to the outbox.

The event loop only passes things on. The model runs on the one thread that all sessions share, in turns; the real
environment, which may wait for a clock, and the recording's files have a thread of this session's own.
"""

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.websockets import WebSocket, WebSocketDisconnect

from data_pipeline.controls import Controls
from tools.actions import Beginning
from tools.camera import Camera, on
from tools.hand import Hand
from tools.messages import (
    NO_INPUT,
    Ack,
    Blur,
    Edge,
    Message,
    Open,
    Pointer,
    Record,
    Reset,
    Settings,
    Step,
    Wheel,
    error_text,
    parse,
    to_text,
)
from tools.outbox import Outbox, Screens, SlowPageError
from tools.recorder import Recorder
from tools.session import Game, Player
from wm.config import config, to_dict

log = logging.getLogger(__name__)

MAX_ERRORS = 200  # wrong messages of one page; after that many it is not a page


@config
class Limits:
    max_sessions: int = 4
    idle_seconds: float = 120.0  # without input, after which the world stands still until there is some
    open_seconds: float = 10.0  # from the handshake to the first message
    send_seconds: float = 10.0  # that one message may take to leave
    stall_seconds: float = 15.0  # without an acknowledgement while frames wait

    def __post_init__(self) -> None:
        if not 1 <= self.max_sessions <= 256:
            raise ValueError(f"max_sessions is {self.max_sessions}: from 1 to 256")


class Connection:
    """One session, from its admission to its end. `run` returns when the page has left."""

    def __init__(
        self,
        socket: WebSocket,
        game: Game,
        limits: Limits,
        models: ThreadPoolExecutor,  # the one thread on which models run
        recordings: Path,  # folder
    ) -> None:
        self.socket, self.game, self.limits = socket, game, limits
        self.outbox = Outbox(socket, limits.send_seconds, limits.stall_seconds)
        self.hand = Hand(game.space, game.width, game.height)
        self.settings = Settings()
        self.player = Player(game)
        self.number: int | None = None  # of the last frame; None while nothing plays
        self._models = models
        self._own = ThreadPoolExecutor(1, thread_name_prefix="session")
        self.camera = Camera(Recorder(game, recordings), self.outbox, self._own)
        self._begin = game.usual
        self._wanted: Beginning | None = None  # a reset that waits; the newest wins
        self._row: Controls | None = None  # a step that waits, in lockstep
        self._record: bool | None = None  # a wish that waits
        self._woken = asyncio.Event()
        self._taken = asyncio.Event()
        self._next = 0.0  # time from which the next frame may be made
        self._touched = time.monotonic()
        self._idle = False
        self._advancing = False
        self._errors = 0

    async def run(self) -> None:
        """Play until the page leaves or cannot be served any more. Nothing of the session is left afterwards."""
        tasks = [asyncio.create_task(work) for work in (self._read(), self._play(), self.outbox.run())]
        try:
            await self.outbox.tell(to_text(self._hello()))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WebSocketDisconnect:
            pass
        except SlowPageError as error:
            log.warning("a page was dropped: %s", error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._leave()

    def _leave(self) -> None:
        """Free the session behind whatever its threads still do; a film that was running is kept."""
        self._models.submit(self.player.close_dream)
        self._own.submit(self.camera.stop_unheard)
        self._own.submit(self.player.close_real)
        self._own.shutdown(wait=False)

    def _hello(self) -> dict[str, object]:
        game = self.game
        return {
            "kind": "hello",
            "world": game.name,
            "width": game.width,
            "height": game.height,
            "space": to_dict(game.space),
            "models": dict(game.models),
            "num_starts": len(game.starts),
            "environment": game.open_environment is not None,
            "begin": to_dict(game.usual),
        }

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            try:
                await self._handle(parse(message.get("text")))
            except ValueError as error:
                await self._complain(str(error))
            self._woken.set()
            await asyncio.sleep(0)  # a page that talks without pause must not keep the loop from the others

    async def _complain(self, message: str) -> None:
        self._errors += 1
        await self.outbox.tell(error_text(message))
        if self._errors >= MAX_ERRORS:
            await self.socket.close(1008, f"{MAX_ERRORS} wrong messages")
            raise WebSocketDisconnect(1008)

    async def _handle(self, message: Message) -> None:
        match message:
            case Ack():
                self.outbox.acknowledge(message.frame)
                return
            case Open():
                raise ValueError("this session is open already")
            case Reset():
                self.game.check(message.begin)
                self._wanted = message.begin
            case Settings():
                self._set(message)
            case Step():
                self._take_step(message)
            case Record():
                self._record = message.on
            case _:
                await self._feel(message)
        self._touched = time.monotonic()

    def _set(self, settings: Settings) -> None:
        changed = "lockstep" in (settings.pacing, self.settings.pacing) and settings.pacing != self.settings.pacing
        if changed and self.number is not None and self._wanted is None:
            self._wanted = self._begin  # what is held is known differently there, so the session begins again
        self.settings = settings
        self.outbox.codec, self.outbox.with_real = settings.codec, settings.real

    def _take_step(self, step: Step) -> None:
        if self.settings.pacing != "lockstep":
            raise ValueError('a step needs settings with "pacing": "lockstep" first')
        waits = self._wanted is not None or self._advancing or self.outbox.busy
        if waits or self._row is not None or self.number is None:
            raise ValueError("a step comes after the frame of the reset or step before it")
        controls = step.row.controls()
        self.player.check(controls)
        self._row = controls
        self.outbox.acknowledge(self.outbox.sent)  # who asks for the next frame has seen the last

    async def _feel(self, message: Pointer | Edge | Wheel | Blur) -> None:
        if self.settings.pacing == "lockstep":
            raise ValueError(f"in lockstep the input comes with each step, not as {message.kind}")
        while self.hand.full and self.number is not None:  # nothing more is read until a frame has taken some
            self._taken.clear()
            self._woken.set()
            await self._taken.wait()
        match message:
            case Pointer():
                self.hand.move(message.x, message.y, message.at)
            case Edge():
                self.hand.edge(message.kind, message.target, message.at)
            case Wheel():
                self.hand.wheel(message.dx, message.dy, message.at)
            case Blur():
                self.hand.release_all()

    async def _play(self) -> None:
        while True:
            if (
                self._wanted is not None
            ):  # before a wish to record, which else would end with the session that it began in
                await self._restart(self._wanted)
            elif self._record is not None:
                on_now, self._record = self._record, None
                await (self.camera.start() if on_now else self.camera.stop())
            elif await self._due():
                self._advancing = True
                await self._advance()
                self._advancing = False

    async def _due(self) -> bool:
        """Whether a frame is to be made now; otherwise waits until that may have changed."""
        self._woken.clear()
        now = time.monotonic()
        idle = self.number is not None and now - self._touched > self.limits.idle_seconds
        if idle != self._idle:
            self._idle = idle
            await self.outbox.tell(to_text({"kind": "idle", "on": idle}))
        left: float | None = max(0.0, self._next - now)
        if self.settings.pacing == "lockstep":
            left = 0.0 if self._row is not None else None
        elif idle or (self.settings.pacing == "on_input" and not self.hand.moved):
            left = None
        if self.number is None:
            left = None
        if left == 0.0:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), left)
        return False

    async def _restart(self, begin: Beginning) -> None:
        await self.camera.stop()
        try:
            context = await on(self._own, self.player.prepare, begin)
            frame = await on(self._models, self.player.dream_from, begin, context)
        except Exception as error:
            self._fail("the world could not begin", error)
            await self.outbox.tell(error_text(f"the world could not begin: {error}"[:500], "world"))
            return
        finally:
            if self._wanted is begin:
                self._wanted = None
        self._begin, self._row, self.number = begin, None, 0
        self.hand.begin(context.pointer)
        self._taken.set()
        self.camera.recorder.begin(begin)
        self._next = time.monotonic() + 1 / self.game.space.fps
        await self.outbox.tell(to_text({"kind": "begun", "begin": to_dict(begin), "real": self.player.has_real}))
        self.outbox.offer(Screens(frame, context.frames[-1] if self.player.has_real else None, 0))

    async def _advance(self) -> None:
        controls, at = self._next_controls()
        began = time.monotonic()
        period = 1 / self.game.space.fps
        self._next = max(self._next, began - period) + period  # a late frame is not made up for by a hasty one
        player = self.player
        assert self.number is not None
        try:
            row = player.fold(controls)
            real = asyncio.ensure_future(on(self._own, player.real, controls))  # while the model dreams
            try:
                frame = await on(self._models, player.dream, controls, row)
            finally:
                await asyncio.gather(real, return_exceptions=True)  # a reset after a failure must find both at rest
            beside = real.result()
        except Exception as error:
            self._fail("the world stopped", error)
            await self.outbox.tell(error_text(f"the world stopped: {error}; reset begins it again"[:500], "world"))
            return
        self.number += 1
        spent = 1000 * (time.monotonic() - began)
        await self.camera.keep(controls, frame)
        self.outbox.offer(Screens(frame, beside, self.number, at, spent))

    def _next_controls(self) -> tuple[Controls, float]:
        if self.settings.pacing != "lockstep":
            taken = self.hand.take()
            self._taken.set()
            return taken
        assert self._row is not None
        row, self._row = self._row, None
        return row, NO_INPUT

    def _fail(self, what: str, error: Exception) -> None:
        """The world of this session stands still until it is reset; the others go on."""
        log.error("%s: %s", what, error, exc_info=error)
        self.number, self._row = None, None
        self._taken.set()
