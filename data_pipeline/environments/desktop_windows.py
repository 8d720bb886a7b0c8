"""The window manager of the simulated desktop: where things are and what input does to them. It draws nothing."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.environments.desktop_apps import APPS, App
from data_pipeline.environments.environment import Rect, Target

# Sizes in units of `scale` pixels.
BAR_HEIGHT = 9
LAUNCHER_WIDTH = 15
TITLE_HEIGHT = 7
BORDER = 1
BUTTON = 7
LEAST_WINDOW = (40, 30)  # what the title, its buttons and every application's contents need


@dataclass(frozen=True)
class Layout:
    """The sizes of everything, in pixels unless they say units."""

    width: int
    height: int
    scale: int
    snap: int
    window_units: tuple[int, int]  # width, height of a window

    @property
    def desktop_height(self) -> int:
        return self.height - BAR_HEIGHT * self.scale

    @property
    def window_size(self) -> tuple[int, int]:
        return self.window_units[0] * self.scale, self.window_units[1] * self.scale

    @property
    def content_units(self) -> Rect:
        """The application's part of a window."""
        w, h = self.window_units
        return Rect(BORDER, BORDER + TITLE_HEIGHT, w - 2 * BORDER, h - TITLE_HEIGHT - 2 * BORDER)

    @property
    def button_units(self) -> dict[str, Rect]:
        """The title bar's buttons, in the window."""
        right = self.window_units[0] - BORDER
        return {
            "minimise": Rect(right - 2 * BUTTON, BORDER, BUTTON, TITLE_HEIGHT),
            "close": Rect(right - BUTTON, BORDER, BUTTON, TITLE_HEIGHT),
        }

    def launcher(self, i: int) -> Rect:
        s = self.scale
        return Rect(
            (1 + i * (LAUNCHER_WIDTH + 1)) * s, self.desktop_height + s, LAUNCHER_WIDTH * s, (BAR_HEIGHT - 1) * s
        )

    def place(self, x: float, y: float) -> tuple[int, int]:
        """The nearest place on the grid where a window is wholly on the desktop."""
        w, h = self.window_size
        return self._on_grid(x, self.width - w), self._on_grid(y, self.desktop_height - h)

    def cell(self, x: int, y: int) -> tuple[int, int]:
        """The corner of the grid's cell that a pixel is in: a held window goes from cell to cell with the pointer."""
        return x // self.snap * self.snap, y // self.snap * self.snap

    def _on_grid(self, at: float, most: int) -> int:
        nearest = int((at + self.snap / 2) // self.snap)
        return self.snap * min(max(nearest, 0), most // self.snap)


class Hit(NamedTuple):
    """What lies at a pixel: "desktop", "bar", "launcher", "title", "minimise", "close", "control" or "page"."""

    part: str
    app: str = ""
    control: str = ""


@dataclass
class Window:
    app: App
    x: int
    y: int
    minimised: bool = False


class Desktop:
    """The state of the screen without its picture. At most one window an application; the last one is on top."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.windows: list[Window] = []
        self.pointer = (0, 0)
        self.hover = Hit("desktop")
        self._grip: tuple[Window, int, int] | None = None

    @property
    def focused(self) -> Window | None:
        """The window on top of those that are shown: it takes the keys."""
        return next((window for window in reversed(self.windows) if not window.minimised), None)

    @property
    def cursor(self) -> str:
        """The name of the cursor's shape."""
        if self._grip is not None:
            return "move"
        if self.hover.part == "page":
            return "text" if APPS[self.hover.app].takes_text else "arrow"
        return "arrow" if self.highlight is None else "hand"

    @property
    def highlight(self) -> Hit | None:
        """What is drawn brighter because the pointer is over it."""
        return self.hover if self.hover.part in ("launcher", "minimise", "close", "control") else None

    def window(self, app: str) -> Window | None:
        return next((window for window in self.windows if window.app.name == app), None)

    def rect(self, window: Window) -> Rect:
        return Rect(window.x, window.y, *self.layout.window_size)

    def status(self, app: str) -> str:
        """One of "closed", "minimised", "behind", "focused"."""
        window = self.window(app)
        if window is None:
            return "closed"
        if window.minimised:
            return "minimised"
        return "focused" if window is self.focused else "behind"

    def hit(self, x: int, y: int) -> Hit:
        """What is drawn at this pixel, the cursor aside."""
        if y >= self.layout.desktop_height:
            names = (name for i, name in enumerate(APPS) if self.layout.launcher(i).contains(x, y))
            name = next(names, "")
            return Hit("launcher", name) if name else Hit("bar")
        for window in reversed(self.windows):
            if not window.minimised and self.rect(window).contains(x, y):
                scale = self.layout.scale
                return self._part(window, (x - window.x) // scale, (y - window.y) // scale)
        return Hit("desktop")

    def _part(self, window: Window, x: int, y: int) -> Hit:
        name, content = window.app.name, self.layout.content_units
        if y < content.y:
            part = next((p for p, rect in self.layout.button_units.items() if rect.contains(x, y)), "title")
            return Hit(part, name)
        controls = window.app.controls().items() if content.contains(x, y) else ()
        control = next((c for c, rect in controls if rect.contains(x - content.x, y - content.y)), "")
        return Hit("control", name, control) if control else Hit("page", name)

    def move(self, x: int, y: int) -> list[str]:
        """Bring the pointer to (x, y), and the window that it holds."""
        self.pointer = (x, y)
        if self._grip is None:
            return []
        window, dx, dy = self._grip
        before = (window.x, window.y)
        x, y = self.layout.cell(x, y)
        window.x, window.y = self.layout.place(x - dx, y - dy)
        return ["drag"] if (window.x, window.y) != before else []

    def press(self) -> list[str]:
        """The left button goes down where the pointer is; what it causes, it causes now and not at the release."""
        part, app, control = self.hit(*self.pointer)
        if part == "launcher":
            return [self._launch(app)]
        window = self.window(app)
        if window is None:
            return []
        if part == "close":
            self.windows.remove(window)
            return ["close"]
        if part == "minimise":
            window.minimised = True
            return ["minimise"]
        events = self._raise(window)
        if part == "title":
            x, y = self.layout.cell(*self.pointer)
            self._grip = (window, x - window.x, y - window.y)
        if part == "control" and window.app.press(control):
            events.append("click")
        return events

    def release(self) -> list[str]:
        self._grip = None
        return []

    def key(self, code: str) -> list[str]:
        """A key goes down; the focused window has it."""
        window = self.focused
        return ["type"] if window is not None and window.app.key(code) else []

    def look(self) -> None:
        """Take note of what the pointer is over; a held window stays under it."""
        self.hover = self.hit(*self.pointer) if self._grip is None else Hit("title", self._grip[0].app.name)

    def open(self, app: str) -> Window:
        """A fresh window of `app` on top, always at the same place."""
        content = self.layout.content_units
        window = Window(APPS[app](content.w, content.h), *self._home(app))
        self.windows.append(window)
        return window

    def _home(self, app: str) -> tuple[int, int]:
        w, h = self.layout.window_size
        across, down = ((0.08, 0.15), (0.95, 0.35), (0.45, 0.95))[list(APPS).index(app) % 3]
        return self.layout.place(across * (self.layout.width - w), down * (self.layout.desktop_height - h))

    def _launch(self, app: str) -> str:
        window, status = self.window(app), self.status(app)
        if window is None:
            self.open(app)
            return "open"
        window.minimised = status == "focused"
        if status == "focused":
            return "minimise"
        self._raise(window)
        return "restore" if status == "minimised" else "raise"

    def _raise(self, window: Window) -> list[str]:
        if window is self.focused:
            return []
        self.windows.remove(window)
        self.windows.append(window)
        return ["raise"]

    def vary(self, rng: np.random.Generator, most: int, keys: tuple[str, ...]) -> None:
        """Take a state that a person could have made, with at most `most` windows, drawn from `rng`."""
        names = [str(name) for name in rng.permutation(list(APPS))]
        for name in names[: int(rng.integers(most + 1))]:
            window = self.open(name)
            window.app.vary(rng, keys)
            if rng.random() < 0.5:
                window.x, window.y = self.layout.place(*(rng.random(2) * (self.layout.width, self.layout.height)))
            window.minimised = bool(rng.random() < 0.25)
        self.pointer = (int(rng.integers(self.layout.width)), int(rng.integers(self.layout.height)))

    def state(self) -> dict[str, Any]:
        """The whole truth, JSON-able, windows from the bottom to the top."""
        focused = self.focused
        return {
            "pointer": list(self.pointer),
            "cursor": self.cursor,
            "hover": list(self.hover),
            "focus": None if focused is None else focused.app.name,
            "windows": [
                {
                    "app": window.app.name,
                    "title": window.app.title,
                    "rect": list(self.rect(window)),
                    "minimised": window.minimised,
                    "contents": {k: list(v) if isinstance(v, tuple) else v for k, v in window.app.contents().items()},
                }
                for window in self.windows
            ],
        }

    def targets(self) -> list[Target]:
        """What a press would do, and where; only what is wholly visible."""
        kinds = {"closed": "open", "minimised": "restore", "behind": "raise", "focused": "minimise"}
        found = [Target(kinds[self.status(app)], self.layout.launcher(i)) for i, app in enumerate(APPS)]
        for i, window in enumerate(self.windows):
            if not window.minimised:
                above = [self.rect(other) for other in self.windows[i + 1 :] if not other.minimised]
                found += [t for t in self._parts(window) if not any(t.rect.intersects(rect) for rect in above)]
        return found

    def _parts(self, window: Window) -> list[Target]:
        layout, content = self.layout, self.layout.content_units
        on_top = window is self.focused
        title = Rect(BORDER, BORDER, layout.button_units["minimise"].x - BORDER, TITLE_HEIGHT)
        parts = [*layout.button_units.items(), ("drag", title)]
        if on_top:
            parts += [
                ("click", Rect(content.x + r.x, content.y + r.y, r.w, r.h)) for r in window.app.controls().values()
            ]
            parts += [("type", content)] if window.app.takes_text else []
        else:
            w, h = content.w // 3, content.h // 3
            parts += [("raise", Rect(content.x + i * w, content.y + j * h, w, h)) for i in range(3) for j in range(3)]
        s = layout.scale
        return [Target(kind, Rect(window.x + r.x * s, window.y + r.y * s, r.w * s, r.h * s)) for kind, r in parts]
