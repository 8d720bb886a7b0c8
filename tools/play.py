"""One session at play: its world advances at its pace, and waits while its page has lost the line.

The event loop only passes things on. The model runs on the one thread that all sessions share, in turns; the real
environment, which may wait for a clock, and the recording's files have a thread of this session's own.
"""

import asyncio
import contextlib
import copy
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from starlette.websockets import WebSocket

from data_pipeline.controls import Controls, Event
from tools.actions import Beginning
from tools.camera import Camera, on
from tools.gate import Limits
from tools.hand import Hand
from tools.messages import NO_INPUT, Blur, Edge, Pointer, Settings, Step, Wheel, error_text, to_text
from tools.outbox import Outbox, Screens
from tools.recorder import Recording
from tools.redaction import Redaction
from tools.session import Game, Player
from wm.config import to_dict

log = logging.getLogger(__name__)


class Play:
    """A session from its admission to its end. Pages come and go by `attach` and `detach`; without one it stands still."""

    def __init__(
        self,
        game: Game,
        limits: Limits,
        models: ThreadPoolExecutor,  # the one thread on which models run
        recording: Recording,
    ) -> None:
        self.game, self.limits = game, limits
        self.outbox = Outbox(limits.send_seconds, limits.stall_seconds)
        self.hand = Hand(game.space, game.width, game.height)
        self.redaction = Redaction(game.space)
        self.settings = Settings()
        self.player = Player(game)
        self.number: int | None = None  # of the last frame; None while nothing plays
        self._models = models
        self._own = ThreadPoolExecutor(1, thread_name_prefix="session")
        self.camera = Camera(recording, self.outbox, self._own)
        self._begin = game.usual
        self._wanted: Beginning | None = None  # a reset that waits; the newest wins
        self._row: Controls | None = None  # a step that waits, in lockstep
        self._record: bool | None = None  # a wish that waits
        self._woken = asyncio.Event()
        self._taken = asyncio.Event()
        self._next = 0.0  # time from which the next frame may be made
        self._touched = time.monotonic()
        self._idle = False
        self._away = True
        self._advancing = False
        self.task = asyncio.create_task(self._run())

    def attach(self, socket: WebSocket) -> None:
        """A page is there, perhaps again: frames go to it, the newest one first."""
        self.outbox.attach(socket)
        self._away, self._idle, self._touched = False, False, time.monotonic()
        self._woken.set()

    def detach(self) -> None:
        """The page is gone: a frame that is being made is finished, nothing is held any more, then the world waits."""
        self.outbox.detach()
        self._away = True
        if self.settings.pacing != "lockstep":
            self._let_go()
        self._taken.set()

    async def end(self) -> None:
        """End the session, for good."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.release()

    def release(self) -> None:
        """Free the session behind whatever its threads still do; a film that was running is kept."""
        self._models.submit(self.player.close_dream)
        self._own.submit(self.camera.stop_unheard)
        self._own.submit(self.player.close_real)
        self._own.shutdown(wait=False)

    def wake(self, touched: bool = True) -> None:
        """Something may be due; `touched` where it was a hand that did it."""
        if touched:
            self._touched = time.monotonic()
        self._woken.set()

    def begin_again(self, begin: Beginning) -> None:
        """Ask for a reset; ValueError where this world cannot begin so."""
        self.game.check(begin)
        self._wanted = begin

    def film(self, on_now: bool) -> None:
        """Ask for a recording to start or to end."""
        self._record = on_now

    async def redact(self, on_now: bool) -> None:
        """Replace what is typed from now on, or no longer; said back to the page when it is so."""
        self.redaction.on = self.camera.recorder.redacts = on_now
        await self.outbox.tell(to_text({"kind": "redacting", "on": on_now}))

    def set(self, settings: Settings) -> None:
        """How frames come from now on."""
        changed = "lockstep" in (settings.pacing, self.settings.pacing) and settings.pacing != self.settings.pacing
        if changed and self.number is not None and self._wanted is None:
            self._wanted = self._begin  # what is held is known differently there, so the session begins again
        self.settings = settings
        self.outbox.codec, self.outbox.with_real = settings.codec, settings.real

    def take_step(self, step: Step) -> None:
        """One frame of exactly these controls; ValueError where none can be taken now."""
        if self.settings.pacing != "lockstep":
            raise ValueError('a step needs settings with "pacing": "lockstep" first')
        waits = self._wanted is not None or self._advancing or self.outbox.busy
        if waits or self._row is not None or self.number is None:
            raise ValueError("a step comes after the frame of the reset or step before it")
        controls, redaction = step.row.controls(), copy.deepcopy(self.redaction)
        held = {target for target, down in self.player.log.held.items() if down}
        controls = replace(controls, events=redaction.events(controls.events, held))
        self.player.check(controls)
        self._row, self.redaction = controls, redaction
        self.outbox.acknowledge(self.outbox.sent)  # who asks for the next frame has seen the last

    async def feel(self, message: Pointer | Edge | Wheel | Blur) -> None:
        """What a hand does; waits while more of it is there than a frame can take."""
        if self.settings.pacing == "lockstep":
            raise ValueError(f"in lockstep the input comes with each step, not as {message.kind}")
        # Nothing more is read until a frame has taken some.
        while self.hand.full and self.number is not None and not self._away:
            self._taken.clear()
            self._woken.set()
            await self._taken.wait()
        match message:
            case Pointer():
                self.hand.move(message.x, message.y, message.at)
            case Edge():
                for event in self.redaction.event(Event(message.kind, message.target), self.hand.held):
                    self.hand.edge(event.kind, event.target, message.at)
            case Wheel():
                self.hand.wheel(message.dx, message.dy, message.at)
            case Blur():
                self._let_go()

    def _let_go(self) -> None:
        self.hand.release_all()
        self.redaction.release_all()

    async def _run(self) -> None:
        while True:
            # A reset comes before a wish to record, which else would end with the session that it began in.
            if self._wanted is not None:
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
        idle = self.number is not None and not self._away and now - self._touched > self.limits.idle_seconds
        if idle != self._idle:
            self._idle = idle
            await self.outbox.tell(to_text({"kind": "idle", "on": idle}))
        left: float | None = max(0.0, self._next - now)
        if self.settings.pacing == "lockstep":
            left = 0.0 if self._row is not None else None
        elif idle or (self.settings.pacing == "on_input" and not self.hand.moved):
            left = None
        if self.number is None or self._away:
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
        self.redaction.release_all()
        self._taken.set()
        self.camera.recorder.begin(begin)
        self._next = time.monotonic() + 1 / self.game.space.fps
        await self.outbox.tell(to_text({"kind": "begun", "begin": to_dict(begin), "real": self._has_beside}))
        self.outbox.offer(Screens(frame, context.frames[-1] if self._has_beside else None, 0))

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
                dreamed = None if self.game.open_dream is None else await on(self._models, player.dream, controls, row)
            finally:
                await asyncio.gather(real, return_exceptions=True)  # a reset after a failure must find both at rest
            beside = real.result()
            frame = beside if dreamed is None else dreamed
            assert frame is not None
        except Exception as error:
            self._fail("the world stopped", error)
            await self.outbox.tell(error_text(f"the world stopped: {error}; reset begins it again"[:500], "world"))
            return
        self.number += 1
        spent = 1000 * (time.monotonic() - began)
        await self.camera.keep(controls, frame, player.info)
        self.outbox.offer(Screens(frame, beside if self._has_beside else None, self.number, at, spent))
        if player.ended:
            await self._end_episode()

    @property
    def _has_beside(self) -> bool:
        """Whether the real environment runs beside a dream."""
        return self.player.has_real and self.game.open_dream is not None

    async def _end_episode(self) -> None:
        """What was recorded of it is kept; the world stands still until it is reset."""
        await self.camera.stop()
        self.number, self._row = None, None
        self._taken.set()
        await self.outbox.tell(error_text("this episode has ended; reset begins another", "ended"))

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
