"""The full desktop as an Environment: reset, step, render, targets."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.environment import CursorSprite, Target
from data_pipeline.environments.full_desktop import keys
from data_pipeline.environments.full_desktop.apps import APPS
from data_pipeline.environments.full_desktop.desktop import Desktop
from data_pipeline.environments.full_desktop.painter import Painter
from data_pipeline.environments.full_desktop.screen import MOST_WINDOWS
from data_pipeline.environments.full_desktop.transitions import TRANSITIONS
from wm.batch import ActionSpace

LEAST_UNITS = (256, 192)  # width and height of a screen on which everything fits
KNOWN_KEYS = (*keys.WRITES, *keys.SHIFT, *keys.MOVES, "Enter", "Backspace", "Delete", "Escape")


@dataclass(frozen=True)
class Size:
    """Pixels; a unit is `scale` of them, and windows stand on a grid of `snap`."""

    width: int
    height: int
    scale: int
    snap: int

    def __post_init__(self) -> None:
        if self.width % self.scale or self.height % self.scale or self.snap % self.scale:
            raise ValueError(
                f"width {self.width}, height {self.height} and snap {self.snap} must be multiples of scale {self.scale}"
            )
        if self.width // self.scale < LEAST_UNITS[0] or self.height // self.scale < LEAST_UNITS[1]:
            least = f"{LEAST_UNITS[0] * self.scale}x{LEAST_UNITS[1] * self.scale}"
            raise ValueError(
                f"a {self.width}x{self.height} screen at scale {self.scale} is too small: give at least {least}"
            )


class FullDesktop:
    """An Environment. `reset` takes the options "windows", [application, path or ""] each, and "pointer", x and y."""

    name = "desktop_sim"
    version = "full-1"
    transitions = TRANSITIONS

    def __init__(
        self, size: Size, fps: float, buttons: tuple[str, ...], key_codes: tuple[str, ...], initial_windows: int
    ) -> None:
        unknown = sorted(set(key_codes) - set(KNOWN_KEYS))
        if unknown:
            raise ValueError(f"keys {unknown}: the full desktop answers to {', '.join(KNOWN_KEYS)}")
        if not 0 <= initial_windows <= MOST_WINDOWS:
            raise ValueError(f"initial_windows is {initial_windows}: the full desktop has at most {MOST_WINDOWS}")
        self.size, self.initial_windows = size, initial_windows
        self.action_space = ActionSpace(buttons=buttons, keys=key_codes, wheel=True, fps=fps)
        self._units = (size.width // size.scale, size.height // size.scale)
        self._rng = np.random.default_rng(0)
        self._painter = Painter(*self._units, size.scale, kept=256)
        self._pointer = (0, 0)  # in pixels
        self._desktop = self._fresh()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A desktop drawn from `seed`; without a seed, the next one of the last seed's stream."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        options = options or {}
        if set(options) - {"windows", "pointer"}:
            raise ValueError(f"unknown reset options {sorted(options)}; the full desktop takes 'windows' and 'pointer'")
        desktop = self._fresh()
        desktop.vary(self._rng, 0 if "windows" in options else self.initial_windows)
        for app, document in options.get("windows", ()):
            if app not in APPS or (document and document not in desktop.disk.files):
                raise ValueError(f"window {[app, document]}: give one of {list(APPS)} and a path on the disk or ''")
            desktop.launch(app, document)
        scale = self.size.scale
        self._pointer = self._on_screen(
            options.get("pointer", (desktop.pointer[0] * scale, desktop.pointer[1] * scale))
        )
        desktop.pointer = (self._pointer[0] // scale, self._pointer[1] // scale)
        desktop.look()
        self._desktop = desktop
        return self.render(), self._info([])

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The pointer moves, then the events happen in order; the frame shows all of their effects.

        ValueError, and nothing has changed, for a pointer outside of the screen or a key that the desktop lacks.
        """
        pointer = self._on_screen(action.pointer)
        self._check(action.events)
        desktop, scale = self._desktop, self.size.scale
        before = (desktop.hover, desktop.cursor)
        self._pointer = pointer
        events = desktop.move(pointer[0] // scale, pointer[1] // scale)
        for event in action.events:
            events += self._handle(event)
        desktop.look()
        if (desktop.hover, desktop.cursor) != before and not events:
            events.append("hover")
        return self.render(), 0.0, False, False, self._info(events)

    def render(self) -> np.ndarray:
        return self._painter.paint(self._desktop, self._pointer)

    def close(self) -> None:
        """Nothing is held open."""

    def cursors(self) -> list[CursorSprite]:
        return list(self._painter.cursors.values())

    def targets(self) -> list[Target]:
        return self._desktop.targets(self.size.scale)

    def _fresh(self) -> Desktop:
        return Desktop(*self._units, max(1, self.size.snap // self.size.scale))

    def _check(self, events: tuple[Event, ...]) -> None:
        known = (*self.action_space.buttons, *self.action_space.keys)
        for event in events:
            if event.kind != "wheel" and event.target not in known:
                raise ValueError(f"{event.kind} of {event.target!r}: this desktop's config has only {list(known)}")

    def _handle(self, event: Event) -> list[str]:
        desktop = self._desktop
        if event.kind == "wheel":
            return desktop.wheel(event.dy)
        if event.target in self.action_space.keys:
            return desktop.key(event.target, event.kind == "press")
        if event.target == "left":
            return desktop.press() if event.kind == "press" else desktop.release()
        return []

    def _on_screen(self, pointer: tuple[int, int]) -> tuple[int, int]:
        x, y = (int(n) for n in pointer)
        if not (0 <= x < self.size.width and 0 <= y < self.size.height):
            raise ValueError(f"pointer ({x}, {y}) is outside the {self.size.width}x{self.size.height} screen")
        return x, y

    def _info(self, events: list[str]) -> dict[str, Any]:
        return {"pointer": self._pointer, "events": events, "state": self._desktop.state()}
