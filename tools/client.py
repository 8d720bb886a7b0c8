"""A program at a served world: reset and step over the socket, and the messages beneath them (tools/PROTOCOL.md)."""

import json
import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from websockets.sync.client import ClientConnection, connect

from data_pipeline.controls import Controls
from tools.actions import Row
from tools.messages import FrameHeader
from tools.pictures import decode
from wm.config import to_dict


class ServedError(RuntimeError):
    """What the server said was wrong; `code` says of what kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """One session. `hello` is what the server said of its world and of the session."""

    def __init__(self, socket: ClientConnection, patience: float = 60.0) -> None:
        self.socket, self.patience = socket, patience  # seconds that an answer may take
        self.hello: dict[str, Any] = {}
        self.texts: list[dict[str, Any]] = []  # what came while something else was waited for
        self.sent = 0  # id of the last frame that came

    @classmethod
    def connect(cls, url: str, token: str = "", session: str = "") -> Self:
        """A session of the server at `url`: a new one, or the one whose `hello` said `session` and whose line was lost.

        ServedError where it is refused.
        """
        parts = urlsplit(url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        client = cls(connect(f"{scheme}://{parts.netloc}/play", compression=None, max_size=None))
        client.open(token, session)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye: the session ends."""
        self.socket.close()

    def open(self, token: str = "", session: str = "") -> None:
        """The first message; fills `hello`."""
        self.say(kind="open", token=token, session=session)
        self.hello = self.hear("hello")

    def reset(self, *, real: bool = False, **begin: Any) -> np.ndarray:
        """The first frame (H, W, 3) uint8 of a new beginning, each next one made by `step` alone.

        `begin` may say seed, start, model and num_steps; with `real` the real environment runs beside, where there is one.
        """
        return self.begin("lockstep", real, **begin)

    def step(self, controls: Controls) -> np.ndarray:
        """The next frame (H, W, 3) uint8."""
        return self.step_both(controls)[0]

    def step_both(self, controls: Controls) -> tuple[np.ndarray, np.ndarray | None]:
        """The next frame and the real environment's, None where it does not run beside."""
        self.say(kind="step", row=to_dict(Row.of(controls)))
        _, dreamed, real = self.frame()
        return dreamed, real

    def begin(self, pacing: str = "realtime", real: bool = False, **begin: Any) -> np.ndarray:
        """Settings and a reset; the first frame comes back."""
        self.say(kind="settings", pacing=pacing, codec="webp", real=real)
        self.say(kind="reset", begin=begin)
        self.hear("begun")
        header, dreamed, _ = self.frame()
        assert header.number == 0
        return dreamed

    def say(self, **message: Any) -> None:
        """Send one message."""
        self.socket.send(json.dumps(message))

    def hear(self, kind: str, seconds: float | None = None) -> dict[str, Any]:
        """The next text of `kind`; frames before it are acknowledged and forgotten."""
        until = self._until(seconds)
        while True:
            data = self._receive(until)
            if isinstance(data, bytes):
                self._acknowledge(FrameHeader.unpack(data)[0])
            elif (message := json.loads(data))["kind"] == kind:
                return dict(message)
            else:
                self._put_by(message)

    def frame(
        self, seconds: float | None = None, ack: bool = True
    ) -> tuple[FrameHeader, np.ndarray, np.ndarray | None]:
        """The next frame with its header, and the real one where it comes along, each (H, W, 3) uint8."""
        until = self._until(seconds)
        while True:
            data = self._receive(until)
            if isinstance(data, str):
                self._put_by(json.loads(data))
                continue
            header, dreamed, real = FrameHeader.unpack(data)
            self.sent = header.frame
            if ack:
                self._acknowledge(header)
            return header, decode(dreamed), decode(real) if real else None

    def _until(self, seconds: float | None) -> float:
        return time.monotonic() + (self.patience if seconds is None else seconds)

    def _receive(self, until: float) -> str | bytes:
        return self.socket.recv(max(0.01, until - time.monotonic()))

    def _acknowledge(self, header: FrameHeader) -> None:
        self.say(kind="ack", frame=header.frame)

    def _put_by(self, message: dict[str, Any]) -> None:
        if message["kind"] == "error":
            raise ServedError(message["code"], message["message"])
        self.texts.append(message)
