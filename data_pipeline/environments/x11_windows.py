"""The windows of an X display, through its window manager (EWMH, freedesktop.org's Extended Window Manager Hints)."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from Xlib import X, Xatom, Xutil, display, error
from Xlib.protocol import event
from Xlib.xobject.drawable import Window as XWindow

from data_pipeline.environments.environment import Rect

_PAGER = 2  # who asks, as EWMH numbers them: not an application, which may be refused
_X_Y_WIDTH_HEIGHT = 0b1111  # what a request to move and resize gives


class Window(NamedTuple):
    """One window of a program, as the window manager lists it; rectangles in screen pixels."""

    id: int
    window_class: str  # of the program, WM_CLASS
    is_dialog: bool  # whether it belongs to another window
    frame: Rect  # with border and title bar
    title_bar: Rect
    client: Rect  # what the program draws
    parts: tuple[Rect, ...]  # its innermost visible sub-windows, such as buttons


class Windows:
    """What the window manager of `connection` knows."""

    def __init__(self, connection: display.Display) -> None:
        self._display = connection
        self._root = connection.screen().root
        self._screen = Rect(0, 0, connection.screen().width_in_pixels, connection.screen().height_in_pixels)
        self._parts: dict[tuple[int, int, int], tuple[Rect, ...]] = {}  # by window and its size
        self._muted: set[int] = set()  # windows whose title bars hear the left button only

    def forget(self) -> None:
        """Remove what a killed window manager left on the root window, so that the next one's is new."""
        for name in ("_NET_SUPPORTING_WM_CHECK", "_NET_CLIENT_LIST_STACKING", "_NET_ACTIVE_WINDOW"):
            self._root.delete_property(self._display.get_atom(name))
        self._parts.clear()
        self._muted.clear()

    def look_again(self) -> None:
        """Forget the parts of windows that were seen while their programs were still building them."""
        self._parts.clear()

    def nudge(self) -> None:
        """Send the window manager an event without meaning.

        openbox (3.6.1, seen in one start of ten) can sleep with an event already read but not yet handled, until the
        next one comes; a client that waits for its answer then waits for seconds.
        """
        self._root.change_property(self._display.get_atom("_WM_RECORDER_NUDGE"), Xatom.CARDINAL, 32, [0])

    def managed(self) -> bool:
        """Whether a window manager is running."""
        return bool(self._numbers(self._root, "_NET_SUPPORTING_WM_CHECK"))

    def all(self) -> list[Window]:
        """The programs' windows, bottom to top."""
        with contextlib.suppress(error.BadWindow, error.BadDrawable):  # one went away meanwhile
            return [self._window(number) for number in self._numbers(self._root, "_NET_CLIENT_LIST_STACKING")]
        return []

    def active(self) -> int:
        """Id of the window that has the focus; 0 for none."""
        return next(iter(self._numbers(self._root, "_NET_ACTIVE_WINDOW")), 0)

    def activate(self, window: Window) -> None:
        """Ask the window manager to raise and focus `window`."""
        self._ask(window, "_NET_ACTIVE_WINDOW", [_PAGER, X.CurrentTime, 0, 0, 0])

    def place(self, window: Window, place: Rect) -> None:
        """Ask the window manager to put the outer corner of `window` at that of `place`, and to give its inside that size."""
        flags = X.NorthWestGravity | _X_Y_WIDTH_HEIGHT << 8 | _PAGER << 12
        self._ask(window, "_NET_MOVERESIZE_WINDOW", [flags, *place])

    def _ask(self, window: Window, request: str, numbers: list[int]) -> None:
        kind = self._display.get_atom(request)
        target = self._display.create_resource_object("window", window.id)
        message = event.ClientMessage(window=target, client_type=kind, data=(32, numbers))
        self._root.send_event(message, event_mask=X.SubstructureRedirectMask | X.SubstructureNotifyMask)
        self._display.sync()

    def fix_sizes(self) -> None:
        """Make every window's size its only one, so that the pointer takes no shape for pulling at edges."""
        for number in self._numbers(self._root, "_NET_CLIENT_LIST_STACKING"):
            window = self._display.create_resource_object("window", number)
            hints, size = window.get_wm_normal_hints(), window.get_geometry()
            if hints is not None:
                hints["flags"] |= Xutil.PMinSize | Xutil.PMaxSize
                hints["min_width"] = hints["max_width"] = size.width
                hints["min_height"] = hints["max_height"] = size.height
                window.set_wm_normal_hints(hints)

    def mute_titles(self) -> None:
        """Keep the middle and the right button from the title bars of windows that are new since the last call.

        xfwm4 opens a menu there that hides windows, and there is no panel by which a hand would get them back. A grab that
        asks for no events swallows the press before the window manager sees it.
        """
        present = set(self._numbers(self._root, "_NET_CLIENT_LIST_STACKING"))
        self._muted &= present
        for number in present - self._muted:
            with contextlib.suppress(error.BadWindow):  # it went away meanwhile
                frame = self._display.create_resource_object("window", number).query_tree().parent
                if frame.id == self._root.id:  # it has no frame yet
                    continue
                for part in frame.query_tree().children:
                    if part.id != number:
                        _swallow(part, (2, 3))
                self._muted.add(number)

    def popups(self) -> list[Rect]:
        """Open menus and whatever else lies over all windows without a frame; xfwm4 has one of its own beside the screen."""
        with contextlib.suppress(error.BadWindow, error.BadDrawable):
            return list(self._popups())
        return []

    def _popups(self) -> Iterator[Rect]:
        for child in self._root.query_tree().children:
            attributes, place = child.get_attributes(), child.get_geometry()
            shown = attributes.map_state == X.IsViewable and attributes.win_class == X.InputOutput
            rect = Rect(place.x, place.y, place.width, place.height)
            if shown and attributes.override_redirect and min(rect.w, rect.h) > 4 and rect.intersects(self._screen):
                yield rect

    def _window(self, number: int) -> Window:
        window = self._display.create_resource_object("window", number)
        size = window.get_geometry()
        key = (number, size.width, size.height)
        if key not in self._parts:
            self._parts[key] = tuple(_parts(window, 0, 0))
        left, right, top, bottom = tuple(self._numbers(window, "_NET_FRAME_EXTENTS")) or (0, 0, 0, 0)
        corner = self._root.translate_coords(window, 0, 0)
        x, y = corner.x, corner.y
        return Window(
            number,
            (window.get_wm_class() or ("", ""))[1],
            window.get_wm_transient_for() is not None,
            frame=Rect(x - left, y - top, size.width + left + right, size.height + top + bottom),
            title_bar=Rect(x, y - top + left, size.width, top - 2 * left),  # between border and border
            client=Rect(x, y, size.width, size.height),
            parts=tuple(Rect(x + p.x, y + p.y, p.w, p.h) for p in self._parts[key]),
        )

    def _numbers(self, window: XWindow, name: str) -> list[int]:
        found = window.get_full_property(self._display.get_atom(name), X.AnyPropertyType)
        return [] if found is None else [int(n) for n in found.value]


def _swallow(window: XWindow, buttons: tuple[int, ...]) -> None:
    ignored = error.CatchError(error.BadWindow)
    for number in buttons:
        mode = X.GrabModeAsync
        window.grab_button(number, X.AnyModifier, False, 0, mode, mode, X.NONE, X.NONE, onerror=ignored)


def _parts(window: XWindow, x: int, y: int) -> Iterator[Rect]:
    """The innermost mapped windows inside `window`, whose corner is at (x, y)."""
    for child in window.query_tree().children:
        if child.get_attributes().map_state != X.IsViewable:
            continue
        place = child.get_geometry()
        inner = list(_parts(child, x + place.x, y + place.y))
        yield from inner or [Rect(x + place.x, y + place.y, place.width, place.height)]
