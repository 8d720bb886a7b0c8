"""One page at a session: what it says is read, checked and passed on, until it leaves or loses the line."""

import asyncio
import contextlib
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from tools.messages import Ack, Message, Open, Record, Redact, Reset, Settings, Step, error_text, parse, to_text
from tools.outbox import SlowPageError
from tools.play import Play

log = logging.getLogger(__name__)

MAX_ERRORS = 200  # wrong messages of one page; after that many it is not a page
LOST = (1005, 1006, 1011)  # how a socket ends whose page did not say goodbye


class Connection:
    """One socket at one session."""

    def __init__(self, socket: WebSocket, play: Play) -> None:
        self.socket, self.play = socket, play
        self.ended = asyncio.Event()
        self._replaced = asyncio.Event()
        self._errors = 0

    async def run(self, hello: dict[str, object]) -> bool:
        """Greet the page and serve it; comes back when it is gone, with whether it may come again."""
        play = self.play
        play.attach(self.socket)
        reader = asyncio.create_task(self._read())
        own = [reader, *(asyncio.create_task(work) for work in (play.outbox.run(), self._replaced.wait()))]
        try:
            await play.outbox.tell(to_text(hello))
            done, _ = await asyncio.wait([*own, play.task], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WebSocketDisconnect as gone:
            return await _last_word(reader, gone) in LOST
        except SlowPageError as error:
            log.warning("a page was dropped: %s", error)
            return True
        finally:
            for task in own:
                task.cancel()
            await asyncio.gather(*own, return_exceptions=True)
            play.detach()
            self.ended.set()
        return self._replaced.is_set()

    async def give_way(self) -> None:
        """Let another socket have the session; comes back when it is free."""
        self._replaced.set()
        await self.ended.wait()

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            touched = False
            try:
                touched = await self._handle(parse(message.get("text")))
            except ValueError as error:
                await self._complain(str(error))
            self.play.wake(touched)
            await asyncio.sleep(0)  # a page that talks without pause must not keep the loop from the others

    async def _complain(self, message: str) -> None:
        self._errors += 1
        await self.play.outbox.tell(error_text(message))
        if self._errors >= MAX_ERRORS:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it has left already
                await self.socket.close(1008, f"{MAX_ERRORS} wrong messages")
            raise WebSocketDisconnect(1008)

    async def _handle(self, message: Message) -> bool:
        """Pass `message` on; whether it is a sign of somebody at the page."""
        match message:
            case Ack():
                self.play.outbox.acknowledge(message.frame)
                return False
            case Open():
                raise ValueError("this session is open already")
            case Reset():
                self.play.begin_again(message.begin)
            case Settings():
                self.play.set(message)
            case Step():
                self.play.take_step(message)
            case Record():
                self.play.film(message.on)
            case Redact():
                await self.play.redact(message.on)
            case _:
                await self.play.feel(message)
        return True


async def _last_word(reader: "asyncio.Task[None]", gone: WebSocketDisconnect) -> int:
    """The code that the page closed with; a frame that could not be sent only tells that it has gone.

    The reader may still be at what the page said before it left.
    """
    await asyncio.wait([reader], timeout=5.0)
    error = reader.exception() if reader.done() and not reader.cancelled() else None
    return error.code if isinstance(error, WebSocketDisconnect) else gone.code
