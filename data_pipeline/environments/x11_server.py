"""A private X server as the recorder sees it: its keeper, input through XTEST, pixels, windows, the cursor, and rest.

Stepped recording needs to know when every program has finished drawing what an input asked for. The kernel knows: `settle` waits
until all of the desktop's processes sleep and none has run between two looks, whatever the load of the machine.
"""

import contextlib
import functools
import json
import logging
import os
import select
import subprocess
import sys
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
from Xlib.protocol import event, rq
from Xlib.xobject.drawable import Window as XWindow

from data_pipeline.environments import x11_keeper
from data_pipeline.environments.environment import Rect
from data_pipeline.schema import DataError

_LOOK_SECONDS = 0.0002  # between two looks at the processes
_CLOSE_SECONDS = 10.0
_IDLE_STATES = ("S", "Z")  # sleeping until something comes; dead and waiting to be fetched
# Both connections find the cookie through the process's environment, which threads share.
_authority_lock = threading.Lock()


class DesktopDied(DataError):
    """The X server or one of its programs ended in the middle of an episode: discard the episode, reset, go on."""


class Cursor(NamedTuple):
    """The pointer's present shape."""

    hotspot: tuple[int, int]
    rgba: np.ndarray  # (h, w, 4) uint8, premultiplied by alpha as X keeps it


class Window(NamedTuple):
    """One window of a program, as the window manager lists it; rectangles in screen pixels."""

    id: int
    title: str
    frame: Rect  # with border and title bar
    title_bar: Rect
    client: Rect  # what the program draws
    parts: tuple[Rect, ...]  # its innermost visible sub-windows, such as buttons


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
    """A running Xvfb of `width` x `height` pixels with `files` in its private HOME; DataError where it does not start."""

    def __init__(
        self, width: int, height: int, files: dict[str, str], variables: dict[str, str], root: Path, start_seconds: float
    ) -> None:
        self.size = (width, height)
        self._buffer = b""
        self._shapes: dict[int, tuple[Rect, tuple[int, ...], tuple[Rect, ...], str]] = {}
        script = [sys.executable, "-I", x11_keeper.__file__]
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        self._keeper = subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=path, start_new_session=True
        )
        self._end = weakref.finalize(self, _end, self._keeper)  # also at the interpreter's exit
        settings = {"root": str(root), "width": width, "height": height, "start_seconds": start_seconds}
        answer = self._ask({**settings, "files": files, "variables": variables}, "display", start_seconds + 5)
        self.folder = Path(answer["folder"])
        self.process_id = int(answer["server"])
        name = f":{answer['display']}"
        with self.watched(), _authority(self.folder / "authority"):
            self._display = display.Display(name)
            self._screen = mss.MSS(display=name, with_cursor=True)
            self._root = self._display.screen().root
            self._display.xfixes_query_version()

    # The keeper

    def start(self, programs: dict[str, list[str]]) -> dict[str, int]:
        """Start programs; their process ids by name."""
        return dict(self._ask({"start": programs}, "pids", _CLOSE_SECONDS)["pids"])

    def stop(self) -> None:
        """Kill all programs."""
        self._ask({"stop": True}, "stopped", _CLOSE_SECONDS)
        self._shapes.clear()

    def close(self) -> None:
        """End everything; done twice it does nothing."""
        for connection in (getattr(self, "_screen", None), getattr(self, "_display", None)):
            with contextlib.suppress(error.ConnectionClosedError, mss.exception.ScreenShotError, OSError):
                if connection is not None:
                    connection.close()
        self._end()

    def check(self) -> None:
        """DesktopDied if the keeper has said that something died."""
        while select.select([self._keeper.stdout], [], [], 0)[0]:
            self._hear()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns a lost connection into DesktopDied, with the name of what died where the keeper knows it."""
        lost = (error.ConnectionClosedError, error.DisplayError, mss.exception.ScreenShotError, BrokenPipeError)
        try:
            yield
            self.check()
        except lost as cause:
            with contextlib.suppress(OSError):
                if select.select([self._keeper.stdout], [], [], 1.0)[0]:
                    self.check()
            raise DesktopDied(f"the recorded desktop's X server is gone ({cause}); reset starts a new one") from cause

    def _ask(self, message: dict[str, Any], key: str, seconds: float) -> dict[str, Any]:
        assert self._keeper.stdin is not None
        try:
            self._keeper.stdin.write(json.dumps(message).encode() + b"\n")
            self._keeper.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise DesktopDied("the recorded desktop's keeper is gone; reset starts a new one") from None
        deadline = time.monotonic() + seconds
        while select.select([self._keeper.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            answer = self._hear()
            if key in answer:
                return answer
        raise DataError(f"the recorded desktop did not answer within {seconds:.0f} s; is the machine overloaded?")

    def _hear(self) -> dict[str, Any]:
        """The keeper's next line."""
        assert self._keeper.stdout is not None
        while b"\n" not in self._buffer:
            data = os.read(self._keeper.stdout.fileno(), 65536)
            if not data:
                raise DesktopDied("the recorded desktop's keeper is gone; reset starts a new one")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DataError(f"the recorded desktop did not start: {answer['error']}")
        if "died" in answer:
            raise DesktopDied(f"{answer['died']} died in the recorded desktop; this episode is lost, reset starts anew")
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

    def settle(self, seconds: float) -> bool:
        """Wait until the server and all programs rest; False if they still had work after `seconds`."""
        self._display.sync()
        deadline = time.monotonic() + seconds
        before = self._activity()
        while True:
            time.sleep(_LOOK_SECONDS)
            after = self._activity()
            # Each process slept from its first look to its second, and all these spans share the moment in between.
            if after is not None and after == before:
                return True
            if time.monotonic() > deadline:
                return False
            before = after

    def _activity(self) -> dict[int, bytes] | None:
        """How often each process of the desktop has been scheduled so far; None while one of them runs."""
        counts: dict[int, bytes] = {}
        queue = _children(self._keeper.pid)
        while queue:
            pid = queue.pop()
            queue += _children(pid)  # before the count: a later fork changes the count
            status = _status(pid)
            if status is None or status[0] not in _IDLE_STATES:
                return None
            counts[pid] = status[1]
        return counts

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

    def forget_window_manager(self) -> None:
        """Remove what a killed window manager left on the root window, so that the next one's is new."""
        for name in ("_NET_SUPPORTING_WM_CHECK", "_NET_CLIENT_LIST_STACKING", "_NET_ACTIVE_WINDOW"):
            self._root.delete_property(self._display.intern_atom(name))

    def window_manager(self) -> bool:
        """Whether one is running."""
        return bool(self._numbers(self._root, "_NET_SUPPORTING_WM_CHECK"))

    def windows(self) -> list[Window]:
        """The programs' windows, bottom to top."""
        with contextlib.suppress(error.BadWindow, error.BadDrawable):  # one went away meanwhile
            return [self._window(number) for number in self._numbers(self._root, "_NET_CLIENT_LIST_STACKING")]
        return []

    def active(self) -> int:
        """Id of the window that has the focus; 0 for none."""
        return next(iter(self._numbers(self._root, "_NET_ACTIVE_WINDOW")), 0)

    def activate(self, window: Window) -> None:
        """Ask the window manager to raise and focus `window`."""
        kind = self._display.intern_atom("_NET_ACTIVE_WINDOW")
        target = self._display.create_resource_object("window", window.id)
        request = event.ClientMessage(window=target, client_type=kind, data=(32, [2, X.CurrentTime, 0, 0, 0]))
        self._root.send_event(request, event_mask=X.SubstructureRedirectMask | X.SubstructureNotifyMask)
        self._display.sync()

    def _window(self, number: int) -> Window:
        window = self._display.create_resource_object("window", number)
        if number not in self._shapes:  # programs here never resize
            self._shapes[number] = self._shape(window)
        client, (left, right, top, bottom), parts, title = self._shapes[number]
        corner = self._root.translate_coords(window, 0, 0)
        x, y = corner.x, corner.y
        return Window(
            number,
            title,
            frame=Rect(x - left, y - top, client.w + left + right, client.h + top + bottom),
            title_bar=Rect(x, y - top, client.w, top),
            client=Rect(x, y, client.w, client.h),
            parts=tuple(Rect(x + p.x, y + p.y, p.w, p.h) for p in parts),
        )

    def _shape(self, window: XWindow) -> tuple[Rect, tuple[int, ...], tuple[Rect, ...], str]:
        size = window.get_geometry()
        edges = tuple(self._numbers(window, "_NET_FRAME_EXTENTS")) or (0, 0, 0, 0)
        return Rect(0, 0, size.width, size.height), edges, tuple(_parts(window, 0, 0)), str(window.get_wm_name() or "")

    def _numbers(self, window: XWindow, name: str) -> list[int]:
        found = window.get_full_property(self._display.intern_atom(name), X.AnyPropertyType)
        return [] if found is None else [int(n) for n in found.value]


def _parts(window: XWindow, x: int, y: int) -> Iterator[Rect]:
    """The innermost mapped windows inside `window`, whose corner is at (x, y)."""
    for child in window.query_tree().children:
        if child.get_attributes().map_state != X.IsViewable:
            continue
        place = child.get_geometry()
        inner = list(_parts(child, x + place.x, y + place.y))
        yield from inner or [Rect(x + place.x, y + place.y, place.width, place.height)]


def _children(pid: int) -> list[int]:
    return [int(child) for child in (_read(f"/proc/{pid}/task/{pid}/children") or b"").split()]


def _status(pid: int) -> tuple[str, bytes] | None:
    """State letter and numbers of context switches; None for a process that is gone."""
    text = _read(f"/proc/{pid}/status")
    if text is None:
        return None
    state = text[text.index(b"\nState:") + 8 :][:1].decode()
    return state, text[text.index(b"\nvoluntary_ctxt_switches:") :]


def _read(path: str) -> bytes | None:
    """A small file of /proc in one piece; None for a process that is gone. Called thousands of times a second."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 8192)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return None


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
def can_isolate(prefix: tuple[str, ...]) -> bool:
    """Whether programs can be run behind `prefix`, which makes namespaces; said once in the log where not."""
    works = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    if not works:
        logging.getLogger(__name__).warning("no user namespaces here: the recorded shell can reach this machine's network")
    return works
