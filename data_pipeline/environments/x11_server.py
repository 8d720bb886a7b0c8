"""A private X server as the recorder sees it: its keeper, input through XTEST, pixels, the cursor."""

import contextlib
import functools
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import mss
import mss.exception
import numpy as np
from Xlib import X, display, error
from Xlib.ext import xtest
from Xlib.protocol import rq

from data_pipeline.environments import x11_fence, x11_keeper
from data_pipeline.environments.environment import EnvironmentDied
from data_pipeline.environments.x11_rest import LOOK_SECONDS, at_rest
from data_pipeline.environments.x11_windows import Windows
from data_pipeline.schema import DataError

_CLOSE_SECONDS = 10.0
# Both connections find the cookie through the process's environment, which threads share.
_authority_lock = threading.Lock()


class Cursor(NamedTuple):
    """The pointer's present shape."""

    hotspot: tuple[int, int]
    rgba: np.ndarray  # (h, w, 4) uint8, premultiplied by alpha as X keeps it


class _GetCursorImage(rq.ReplyRequest):
    """XFixesGetCursorImage, which python-xlib lacks (Fixes protocol, section 7)."""

    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(4), rq.RequestLength())
    _reply = rq.Struct(
        rq.ReplyCode(),
        rq.Pad(1),
        rq.Card16("sequence_number"),
        rq.ReplyLength(),
        rq.Int16("x"),
        rq.Int16("y"),
        rq.Card16("width"),
        rq.Card16("height"),
        rq.Card16("xhot"),
        rq.Card16("yhot"),
        rq.Card32("serial"),
        rq.Pad(8),
        rq.List("pixels", rq.Card32Obj),
    )


class XServer:
    """A running Xvfb of `width` x `height` pixels with a private HOME; DataError where it does not start.

    Programs see their HOME at `mount`, without a network, where that is not empty; with `landlock` they write nowhere else.
    """

    def __init__(
        self,
        width: int,
        height: int,
        variables: dict[str, str],
        root: Path,
        start_seconds: float,
        mount: str = "",
        landlock: bool = False,
    ) -> None:
        self.size = (width, height)
        self.closed: set[str] = set()  # programs that ended as a hand ends them, since `stop`
        self._buffer = b""
        script = [sys.executable, "-I", x11_keeper.__file__]
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        self._keeper = subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=path, start_new_session=True
        )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._orders, self._answers = self._keeper.stdin, self._keeper.stdout
        self._end = weakref.finalize(self, _end, self._keeper)  # also at the interpreter's exit
        settings = {"root": str(root), "width": width, "height": height, "start_seconds": start_seconds}
        settings |= {"variables": variables, "mount": mount, "landlock": landlock}
        try:
            answer = self._ask(settings, "display", start_seconds + 5)
            self.folder = Path(answer["folder"])
            self.home = self.folder / x11_keeper.HOME
            self.process_id = int(answer["server"])
            with self.watched(), _authority(self.folder / "authority"):
                self._connect(f":{answer['display']}")
        except DataError:
            self._end()
            raise

    def _connect(self, name: str) -> None:
        self._display = display.Display(name)
        self._screen = mss.MSS(display=name, with_cursor=True)
        self._root = self._display.screen().root
        self._display.xfixes_query_version()
        self.windows = Windows(self._display)

    # The keeper

    def start(self, programs: dict[str, list[str]]) -> dict[str, int]:
        """Start programs; their process ids by name."""
        return dict(self._ask({"start": programs}, "pids", _CLOSE_SECONDS)["pids"])

    def stop(self, files: dict[str, str]) -> None:
        """Kill all programs and remove what they wrote; then HOME holds `files`."""
        self._ask({"stop": files}, "stopped", _CLOSE_SECONDS)
        self.closed.clear()

    def close(self) -> None:
        """End everything; done twice it does nothing."""
        for connection in (getattr(self, "_screen", None), getattr(self, "_display", None)):
            with contextlib.suppress(error.ConnectionClosedError, mss.exception.ScreenShotError, OSError):
                if connection is not None:
                    connection.close()
        self._end()

    def check(self) -> None:
        """EnvironmentDied if the keeper has said that something died."""
        while select.select([self._answers], [], [], 0)[0]:
            self._hear()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns a lost connection into EnvironmentDied, with the name of what died where the keeper knows it."""
        lost = (error.ConnectionClosedError, error.DisplayError, mss.exception.ScreenShotError, BrokenPipeError)
        try:
            yield
            self.check()
        except lost as cause:
            with contextlib.suppress(OSError):
                if select.select([self._answers], [], [], 1.0)[0]:
                    self.check()
            raise EnvironmentDied(
                f"the recorded desktop's X server is gone ({cause}); reset starts a new one"
            ) from cause

    def _ask(self, message: dict[str, Any], key: str, seconds: float) -> dict[str, Any]:
        try:
            self._orders.write(json.dumps(message).encode() + b"\n")
            self._orders.flush()
        except (BrokenPipeError, ValueError):
            raise EnvironmentDied("the recorded desktop's keeper is gone; reset starts a new one") from None
        deadline = time.monotonic() + seconds
        while select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
            answer = self._hear()
            if key in answer:
                return answer
        raise DataError(f"the recorded desktop did not answer within {seconds:.0f} s; is the machine overloaded?")

    def _hear(self) -> dict[str, Any]:
        """The keeper's next line."""
        while b"\n" not in self._buffer:
            data = os.read(self._answers.fileno(), 65536)
            if not data:
                raise EnvironmentDied("the recorded desktop's keeper is gone; reset starts a new one")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DataError(f"the recorded desktop did not start: {answer['error']}")
        if "closed" in answer:
            self.closed.add(answer["closed"])
        if "died" in answer:
            raise EnvironmentDied(
                f"{answer['died']} died in the recorded desktop; this episode is lost, reset starts anew"
            )
        return answer

    # Input

    def keycode(self, keysym: int) -> int:
        return int(self._display.keysym_to_keycode(keysym))

    def move(self, x: int, y: int) -> None:
        xtest.fake_input(self._display, X.MotionNotify, x=x, y=y)

    def button(self, number: int, down: bool) -> None:
        xtest.fake_input(self._display, X.ButtonPress if down else X.ButtonRelease, number)

    def key(self, keycode: int, down: bool) -> None:
        xtest.fake_input(self._display, X.KeyPress if down else X.KeyRelease, keycode)

    def flush(self) -> None:
        """Everything that was injected is on its way."""
        self._display.sync()

    def settle(self, seconds: float, look_seconds: float = LOOK_SECONDS) -> bool:
        """Wait until the server and all programs rest for `look_seconds`; False if they still had work after `seconds`."""
        self._display.sync()
        return at_rest(self._keeper.pid, seconds, look_seconds)

    # Output

    def grab(self) -> np.ndarray:
        """(H, W, 3) uint8, the screen with the cursor on it."""
        width, height = self.size
        shot = self._screen.grab({"left": 0, "top": 0, "width": width, "height": height})
        return np.frombuffer(shot.raw, np.uint8).reshape(height, width, 4)[..., 2::-1]

    def cursor(self) -> Cursor:
        opcode = self._display.display.get_extension_major("XFIXES")
        image = _GetCursorImage(display=self._display.display, opcode=opcode)
        argb = np.array(image.pixels, np.uint32).astype("<u4").view(np.uint8).reshape(image.height, image.width, 4)
        return Cursor((image.xhot, image.yhot), argb[..., [2, 1, 0, 3]])

    def fill_background(self, colour: int) -> None:
        self._root.change_attributes(background_pixel=colour)
        self._root.clear_area()


@contextlib.contextmanager
def _authority(path: Path) -> Iterator[None]:
    with _authority_lock:
        before = os.environ.get("XAUTHORITY")
        os.environ["XAUTHORITY"] = str(path)
        try:
            yield
        finally:
            del os.environ["XAUTHORITY"]
            if before is not None:
                os.environ["XAUTHORITY"] = before


def _end(keeper: "subprocess.Popen[bytes]") -> None:
    """Tell the keeper to end, and wait until it has cleaned up."""
    pipes: tuple[IO[bytes] | None, ...] = (keeper.stdin, keeper.stdout)
    with contextlib.suppress(BrokenPipeError, ValueError):
        assert keeper.stdin is not None
        keeper.stdin.write(b'{"end": true}\n')
        keeper.stdin.flush()
    try:
        keeper.wait(_CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    for pipe in pipes:
        with contextlib.suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()


@functools.cache
def can_isolate(mount: str) -> bool:
    """Whether programs can have namespaces of their own; said once in the log where not."""
    with tempfile.TemporaryDirectory() as home:
        works = os.path.isdir(mount) and _fences(home, mount, False)
    if not works:
        logging.getLogger(__name__).warning(
            "no user namespaces here: recorded programs may reach this machine's network, and see a HOME that changes its name"
        )
    return works


@functools.cache
def can_landlock() -> bool:
    """Whether the kernel can hold programs to their HOME."""
    with tempfile.TemporaryDirectory() as folder:
        (home := Path(folder) / "home").mkdir()
        (Path(folder) / "authority").touch()
        return _fences(str(home), "", True)


def _fences(home: str, mount: str, landlock: bool) -> bool:
    settings = json.dumps({"home": home, "mount": mount, "landlock": landlock})
    command = [sys.executable, "-I", x11_fence.__file__, settings, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
