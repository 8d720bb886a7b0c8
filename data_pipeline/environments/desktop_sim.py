"""A small desktop that is simulated: windows, a taskbar, three applications, a cursor; fast and exactly known.

A frame is a function of the state, and the state changes by input only: there is no clock and no blinking caret.
"""

from typing import Any, Literal

import numpy as np

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_apps import APPS
from data_pipeline.environments.desktop_painter import Painter
from data_pipeline.environments.desktop_windows import BAR_HEIGHT, LAUNCHER_WIDTH, LEAST_WINDOW, Desktop, Layout
from data_pipeline.environments.environment import CursorSprite, Target
from data_pipeline.environments.full_desktop.environment import FullDesktop, Size
from wm.batch import ActionSpace
from wm.config import config

_KEYS = ("KeyA", "KeyE", "KeyI", "KeyL", "KeyO", "KeyS", "KeyT", "KeyX", "Enter", "Backspace")


@config
class DesktopSimConfig:
    kind: Literal["desktop_sim"] = "desktop_sim"
    profile: Literal["simple", "full"] = (
        "simple"  # full: real-looking applications, from 256x192 on; windows size themselves
    )
    height: int = 64
    width: int = 96
    scale: int = 1  # pixels of the screen to one pixel of a glyph, sprite or border
    window_width: int = 44  # in units of `scale` pixels
    window_height: int = 30
    snap: int = 4  # pixels: windows stand on a grid of this pitch
    fps: float = 10.0
    buttons: tuple[str, ...] = ("left",)
    keys: tuple[str, ...] = _KEYS
    initial_windows: int = 3  # at most so many windows exist after a reset

    def __post_init__(self) -> None:
        if min(self.scale, self.snap) < 1 or self.fps <= 0:
            raise ValueError(
                f"scale {self.scale}, snap {self.snap} (at least 1) or fps {self.fps} (above 0) is too small"
            )
        if self.profile == "full":
            return  # says itself what it needs
        if not 0 <= self.initial_windows <= len(APPS):
            raise ValueError(
                f"initial_windows is {self.initial_windows}: there are {len(APPS)} applications, one window each"
            )
        window = (self.window_width, self.window_height)
        if window[0] < LEAST_WINDOW[0] or window[1] < LEAST_WINDOW[1]:
            least = f"{LEAST_WINDOW[0]}x{LEAST_WINDOW[1]}"
            raise ValueError(f"a window of {window[0]}x{window[1]} units cuts its contents off: give at least {least}")
        needed = (max(window[0], 1 + len(APPS) * (LAUNCHER_WIDTH + 1)), window[1] + BAR_HEIGHT)
        if self.width < needed[0] * self.scale or self.height < needed[1] * self.scale:
            least = f"{needed[0] * self.scale}x{needed[1] * self.scale}"
            raise ValueError(
                f"a {self.width}x{self.height} screen at scale {self.scale} is too small: give at least {least}"
            )

    def build(self) -> "DesktopSim | FullDesktop":
        if self.profile == "full":
            size = Size(self.width, self.height, self.scale, self.snap)
            return FullDesktop(size, self.fps, self.buttons, self.keys, self.initial_windows)
        return DesktopSim(self)


class DesktopSim:
    """An Environment. `reset` takes the options "windows", names of applications to open, and "pointer", x and y."""

    name = "desktop_sim"
    version = "1"

    def __init__(self, config: DesktopSimConfig) -> None:
        self.config = config
        window = (config.window_width, config.window_height)
        self.layout = Layout(config.width, config.height, config.scale, config.snap, window)
        self.action_space = ActionSpace(buttons=config.buttons, keys=config.keys, fps=config.fps)
        self._rng = np.random.default_rng(0)
        self._painter = Painter(self.layout, kept=max(16, 2**26 // (config.width * config.height * 3)))
        self._desktop = Desktop(self.layout)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A desktop drawn from `seed`; without a seed, the next one of the last seed's stream."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        options = options or {}
        if set(options) - {"windows", "pointer"}:
            raise ValueError(f"unknown reset options {sorted(options)}; desktop_sim takes 'windows' and 'pointer'")
        windows = tuple(options.get("windows", ()))
        if len(set(windows)) < len(windows) or set(windows) - set(APPS):
            raise ValueError(f"windows {list(windows)}: name each application at most once, of {list(APPS)}")
        desktop = Desktop(self.layout)
        desktop.vary(self._rng, 0 if "windows" in options else self.config.initial_windows, self.config.keys)
        for app in windows:
            desktop.open(app)
        desktop.pointer = self._on_screen(options.get("pointer", desktop.pointer))
        desktop.look()
        self._desktop = desktop
        return self.render(), self._info([])

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The pointer moves, then the events happen in order; the frame shows all of their effects.

        ValueError, and nothing has changed, for a pointer outside of the screen or a key that the desktop lacks.
        """
        pointer = self._on_screen(action.pointer)
        self._check(action.events)
        desktop = self._desktop
        before = (desktop.highlight, desktop.cursor)
        events = desktop.move(*pointer)
        for event in action.events:
            events += self._handle(event)
        desktop.look()
        if (desktop.highlight, desktop.cursor) != before and not events:
            events.append("hover")
        return self.render(), 0.0, False, False, self._info(events)

    def render(self) -> np.ndarray:
        return self._painter.paint(self._desktop)

    def close(self) -> None:
        """Nothing is held open."""

    def cursors(self) -> list[CursorSprite]:
        return list(self._painter.cursors.values())

    def targets(self) -> list[Target]:
        return self._desktop.targets()

    def _check(self, events: tuple[Event, ...]) -> None:
        known = (*self.config.buttons, *self.config.keys)
        for event in events:
            if event.kind != "wheel" and event.target not in known:
                raise ValueError(f"{event.kind} of {event.target!r}: this desktop's config has only {list(known)}")

    def _handle(self, event: Event) -> list[str]:
        if event.target == "left":
            return self._desktop.press() if event.kind == "press" else self._desktop.release()
        if event.kind == "press" and event.target in self.config.keys:
            return self._desktop.key(event.target)
        return []

    def _on_screen(self, pointer: tuple[int, int]) -> tuple[int, int]:
        x, y = (int(n) for n in pointer)
        if not (0 <= x < self.layout.width and 0 <= y < self.layout.height):
            raise ValueError(f"pointer ({x}, {y}) is outside the {self.layout.width}x{self.layout.height} screen")
        return x, y

    def _info(self, events: list[str]) -> dict[str, Any]:
        return {"pointer": self._desktop.pointer, "events": events, "state": self._desktop.state()}
