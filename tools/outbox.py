"""What goes to one page: texts at once, frames by the window that the page acknowledges. A slow page makes no queue."""

import asyncio
import math
import time
from dataclasses import dataclass

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from tools.messages import CODECS, NO_INPUT, Codec, FrameHeader
from tools.pictures import encode

WINDOW = 2  # frames under way that the page has not acknowledged


class SlowPageError(Exception):
    """The page takes nothing any more."""


@dataclass(frozen=True)
class Screens:
    """One moment of a session."""

    dreamed: np.ndarray  # (H, W, 3) uint8
    real: np.ndarray | None  # the same
    number: int  # frames since the beginning
    at: float = NO_INPUT
    model_ms: float = 0.0


class Outbox:
    """Where a session puts what its page is to see. Without a page texts are lost and the newest frame waits."""

    def __init__(self, send_seconds: float, stall_seconds: float) -> None:
        self.codec: Codec = "jpeg"
        self.with_real = False
        self.sent = 0  # id of the last frame sent
        self.acknowledged = 0
        self._socket: WebSocket | None = None
        self._send_seconds, self._stall_seconds = send_seconds, stall_seconds
        self._waiting: Screens | None = None
        self._newest: Screens | None = None
        self._failure: SlowPageError | WebSocketDisconnect | None = None
        self._changed = asyncio.Event()
        self._heard = time.monotonic()
        self._one_at_a_time = asyncio.Lock()

    def attach(self, socket: WebSocket) -> None:
        """A page is there: it gets the newest frame, and has seen none of those that were on their way to another."""
        self._socket, self._failure = socket, None
        self._waiting = self._waiting or self._newest
        self.acknowledged, self._heard = self.sent, time.monotonic()
        self._changed.set()

    def detach(self) -> None:
        """The page is gone."""
        self._socket = None

    def offer(self, screens: Screens) -> None:
        """Send this when the page has room; a frame that still waits is forgotten, its input's time is not."""
        if self._waiting is not None and self._waiting.number < screens.number and not math.isnan(self._waiting.at):
            screens = Screens(screens.dreamed, screens.real, screens.number, self._waiting.at, screens.model_ms)
        self._waiting = self._newest = screens
        self._changed.set()

    def acknowledge(self, frame: int) -> None:
        """The page has drawn `frame`; ValueError for a frame that was never sent."""
        if frame > self.sent:
            raise ValueError(f"frame {frame} was not sent; the last one is {self.sent}")
        self.acknowledged = max(self.acknowledged, frame)
        self._heard = time.monotonic()
        self._changed.set()

    @property
    def busy(self) -> bool:
        """Whether a frame waits that another offer would replace."""
        return self._waiting is not None

    async def tell(self, text: str) -> None:
        """Send one text. Where the page does not take it, `run` says so."""
        try:
            await self._send(text)
        except (SlowPageError, WebSocketDisconnect) as error:
            self._failure = error
            self._changed.set()

    async def run(self) -> None:
        """Send frames for ever; SlowPageError if the page stops taking what it is sent, WebSocketDisconnect if it left."""
        while True:
            screens = await self._next()
            data = await asyncio.to_thread(self._packed, screens, self.sent + 1)
            self.sent += 1
            await self._send(data)

    async def _next(self) -> Screens:
        """The newest frame, once the page has room for it."""
        while self._waiting is None or self.sent - self.acknowledged >= WINDOW or self._failure is not None:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            blocked = self._waiting is not None
            if not blocked:
                self._heard = time.monotonic()
            left = self._heard + self._stall_seconds - time.monotonic() if blocked else None
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                raise SlowPageError(f"no frame was acknowledged for {self._stall_seconds:g} s") from None
        screens, self._waiting = self._waiting, None
        return screens

    def _packed(self, screens: Screens, frame: int) -> bytes:
        began, codec = time.perf_counter(), self.codec  # read once: the page may change it while this thread encodes
        dreamed = encode(screens.dreamed, codec)
        real = encode(screens.real, codec) if self.with_real and screens.real is not None else b""
        height, width = screens.dreamed.shape[:2]
        header = FrameHeader(
            codec=CODECS[codec],
            frame=frame,
            number=screens.number,
            width=width,
            height=height,
            at=screens.at,
            model_ms=screens.model_ms,
            encode_ms=1000 * (time.perf_counter() - began),
            dreamed_size=len(dreamed),
            real_size=len(real),
        )
        return header.pack() + dreamed + real

    async def _send(self, data: str | bytes) -> None:
        if self._socket is None:
            return
        try:
            async with asyncio.timeout(self._send_seconds), self._one_at_a_time:
                if isinstance(data, str):
                    await self._socket.send_text(data)
                else:
                    await self._socket.send_bytes(data)
        except TimeoutError:
            raise SlowPageError(f"the page took nothing for {self._send_seconds:g} s") from None
        except RuntimeError:  # Starlette's word for a socket that this side has closed meanwhile
            raise WebSocketDisconnect from None
