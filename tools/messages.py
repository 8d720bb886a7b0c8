"""What a page and the server say to each other: text messages by schema, and the fixed header of a binary frame.

Every number is bounded here. Nothing that a page sends is used before it went through `parse`.
"""

import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, Self

from tools.actions import Beginning, Row
from wm.config import ConfigError, Kind, config, from_dict

MAX_MESSAGE_BYTES = 64 * 1024
Codec = Literal["jpeg", "webp", "png"]  # webp and png are lossless
Pacing = Literal["realtime", "on_input", "lockstep"]

_MAX_COORDINATE = 1 << 16
_MAX_NOTCHES = 100.0
_MAX_FRAME_ID = (1 << 32) - 1


def _check_time(at: float) -> None:
    if not math.isfinite(at) or abs(at) > 1e15:
        raise ValueError(f"at is {at}: a time is a finite number of milliseconds")


@config
class Open:
    """The first message of every page. The token is asked for where the server is not on loopback."""

    kind: Literal["open"] = "open"
    token: str = ""
    session: str = ""  # from the hello of a session whose line was lost; empty begins a new one

    def __post_init__(self) -> None:
        for name in ("token", "session"):
            if len(getattr(self, name)) > 256:
                raise ValueError(f"{name} is longer than 256 characters")


@config
class Reset:
    """Begin again; the world is held until the first frame of the new beginning is sent."""

    kind: Literal["reset"] = "reset"
    begin: Beginning


@config
class Pointer:
    """The pointer is at this pixel of the frame. `at` is the page's clock, echoed with the frame that shows it."""

    kind: Literal["pointer"] = "pointer"
    x: int
    y: int
    at: float = 0.0

    def __post_init__(self) -> None:
        _check_time(self.at)
        if not (0 <= self.x < _MAX_COORDINATE and 0 <= self.y < _MAX_COORDINATE):
            raise ValueError(f"pointer ({self.x}, {self.y}) is not a pixel of the frame")


@config
class Edge:
    """A button ("left") or a physical key ("KeyA", as KeyboardEvent.code) goes down or up."""

    kind: Literal["press", "release"]
    target: str
    at: float = 0.0

    def __post_init__(self) -> None:
        _check_time(self.at)
        if not 0 < len(self.target) <= 32:
            raise ValueError("target is a name of 1 to 32 characters")


@config
class Wheel:
    """Notches to the right and down."""

    kind: Literal["wheel"] = "wheel"
    dx: float = 0.0
    dy: float = 0.0
    at: float = 0.0

    def __post_init__(self) -> None:
        _check_time(self.at)
        for name, notches in (("dx", self.dx), ("dy", self.dy)):
            if not math.isfinite(notches) or abs(notches) > _MAX_NOTCHES:
                raise ValueError(f"{name} is {notches}: a wheel turns by at most {_MAX_NOTCHES:g} notches at once")


@config
class Blur:
    """The page lost the keyboard: everything held is let go."""

    kind: Literal["blur"] = "blur"


@config
class Ack:
    """The page has drawn this frame and every one before it."""

    kind: Literal["ack"] = "ack"
    frame: int

    def __post_init__(self) -> None:
        if not 0 <= self.frame <= _MAX_FRAME_ID:
            raise ValueError(f"frame {self.frame} is not a frame id")


@config
class Settings:
    """How frames come: who sets the pace, which encoding, and whether the real environment's frame comes along."""

    kind: Literal["settings"] = "settings"
    pacing: Pacing = "realtime"
    codec: Codec = "jpeg"
    real: bool = False


@config
class Step:
    """Lockstep only: one frame, of exactly these controls. Answered by that frame, which is never dropped."""

    kind: Literal["step"] = "step"
    row: Row


@config
class Record:
    """Start or stop writing the frames and the actions to files of the server."""

    kind: Literal["record"] = "record"
    on: bool


@config
class Redact:
    """While it is on, every key that writes becomes the same one before the world sees it (tools/redaction.py)."""

    kind: Literal["redact"] = "redact"
    on: bool


Message = Open | Reset | Pointer | Edge | Wheel | Blur | Ack | Settings | Step | Record | Redact


@config
class _Envelope:
    message: Annotated[Message, Kind]


def parse(text: str | bytes | None) -> Message:
    """The message that `text` says; ValueError in one line otherwise."""
    if not isinstance(text, str):
        raise ValueError("a message is JSON text; binary goes only from the server to the page")
    try:
        tree = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON message: {str(error)[:120]}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"a message is a JSON object with a 'kind', not {type(tree).__name__}")
    try:
        return from_dict(_Envelope, {"message": tree}).message
    except ConfigError as error:
        raise ValueError(str(error).replace("message.", "", 1)[:500]) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def error_text(message: str, code: str = "message") -> str:
    """What the page is told when something was wrong; `code` says what it can do about it."""
    return json.dumps({"kind": "error", "code": code, "message": message})


CODECS: dict[Codec, int] = {"jpeg": 1, "webp": 2, "png": 3}
NO_INPUT = math.nan


@dataclass(frozen=True)
class FrameHeader:
    """The first bytes of a binary frame, little-endian; then the dreamed image, then the real one if there is one."""

    codec: int  # of CODECS
    frame: int  # id to acknowledge; grows by one with each frame sent
    number: int  # frames of the world since its beginning: 0 is what it began from
    width: int
    height: int
    at: float  # the page's clock at the oldest input that this frame shows; NaN where it shows none
    model_ms: float  # time the frame took to compute
    encode_ms: float
    dreamed_size: int  # bytes
    real_size: int  # bytes, 0 for no image
    version: int = 1

    def pack(self) -> bytes:
        return _LAYOUT.pack(*(getattr(self, name) for name in _FIELDS))

    @classmethod
    def unpack(cls, data: bytes) -> tuple[Self, bytes, bytes]:
        """The header, the dreamed image and the real one (empty for none)."""
        if len(data) < _LAYOUT.size:
            raise ValueError(f"a frame has a header of {_LAYOUT.size} bytes; this has {len(data)} in all")
        header = cls(**dict(zip(_FIELDS, _LAYOUT.unpack_from(data), strict=True)))
        split = _LAYOUT.size + header.dreamed_size
        return header, data[_LAYOUT.size : split], data[split : split + header.real_size]


_LAYOUT = struct.Struct("<BBHHxxIIdffII")
_FIELDS = (
    *("version", "codec", "width", "height", "frame", "number"),
    *("at", "model_ms", "encode_ms", "dreamed_size", "real_size"),
)
assert set(_FIELDS) == {field.name for field in dataclasses.fields(FrameHeader)}


def to_text(tree: dict[str, Any]) -> str:
    """One message of the server as text."""
    return json.dumps(tree, allow_nan=False)
