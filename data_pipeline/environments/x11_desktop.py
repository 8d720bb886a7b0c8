"""A real desktop as an environment: an X server of its own, a bus, a window manager and applications.

Stepped: there is no clock. Each step injects the controls through XTEST, waits until every program has come to rest, and
grabs the screen with the cursor on it. Fixed: the screen is grabbed at its time, whatever the programs are at, and `info`
says when that was. What a program does by the clock (blinking, key repeat, double clicks) is switched off.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.controls import Controls, Event
from data_pipeline.environments import x11_programs as programs
from data_pipeline.environments.environment import CursorSprite, EnvironmentDied, Rect, Target
from data_pipeline.environments.x11_keys import DOWN, LEFT, RIGHT, UP, WRITING, keysym, number
from data_pipeline.environments.x11_managers import MANAGERS
from data_pipeline.environments.x11_pixels import distinct, shrunk, sprite
from data_pipeline.environments.x11_rest import SURE_SECONDS
from data_pipeline.environments.x11_schedule import Schedule
from data_pipeline.environments.x11_server import XServer, can_isolate, can_landlock
from data_pipeline.environments.x11_start import Starter, check_programs, tour
from data_pipeline.environments.x11_targets import uses, visible
from wm.batch import ActionSpace
from wm.config import config


@config
class X11DesktopConfig:
    kind: Literal["x11_desktop"] = "x11_desktop"
    height: int = 384  # pixels of a frame
    width: int = 512
    shrink: int = 1  # screen pixels that are averaged to one frame pixel, each way; the screen is that much larger
    fps: float = 15.0  # frames a second that a step stands for
    schedule: Literal["stepped", "fixed"] = "stepped"  # whether a step waits for the programs or for its time
    programs: tuple[str, ...] = ("terminal", "calculator")  # also "editor", "files" and "paint"
    window_manager: Literal["openbox", "xfce4"] = "openbox"  # whose title bars; xfce4's is xfwm4
    buttons: tuple[str, ...] = ("left", "middle", "right")
    keys: tuple[str, ...] = (*WRITING, "Space", "Enter", "Backspace", "Minus", "Equal", "Period", "Slash", "ShiftLeft")
    wheel: bool = True
    columns: int = 40  # characters of the terminal
    rows: int = 12
    settle_seconds: float = 0.5  # longest wait for the programs to come to rest in one step
    start_seconds: float = 20.0  # longest wait for a server or a program to be there

    def build(self) -> "X11Desktop":
        """DataError in one line where a program is missing; ValueError where a key, button or size does not fit."""
        return X11Desktop(self)


class X11Desktop:
    """An Environment. It holds processes: close it, or let it go; after EnvironmentDied, `reset` starts a new server.

    The same seed and Controls give the same frames where the schedule is stepped, as far as the programs are deterministic.
    A program that the hand closes is gone for the rest of the episode; with the last one the episode ends.
    """

    name = "x11_desktop"
    version = "2"

    def __init__(self, config: X11DesktopConfig) -> None:
        self.config = config
        self.action_space = ActionSpace(buttons=config.buttons, keys=config.keys, wheel=config.wheel, fps=config.fps)
        self.num_restless = 0  # steps in which the programs did not come to rest in time
        self._keysyms = {code: keysym(code) for code in config.keys}
        self._numbers = {name: number(name) for name in config.buttons}
        self._manager = MANAGERS[config.window_manager]
        check_programs(config.programs, self._manager)
        self._layout(0)  # raises where the windows do not fit on the screen
        self._schedule = Schedule(config.fps) if config.schedule == "fixed" else None
        self._next_seed = 0
        self._cursors: list[CursorSprite] = []
        self._server: XServer | None = None
        self._open_server()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Programs started anew at places drawn from `seed`; without one, from the number after the last seed."""
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; x11_desktop takes none")
        seed = self._next_seed if seed is None else seed
        self._next_seed = seed + 1
        try:
            self._begin(seed)
        except EnvironmentDied:  # a server that died in the last episode; one that dies again is an error
            self._open_server()
            self._begin(seed)
        if self._schedule is not None:
            self._schedule.begin()
            self._time = 0.0
        return self.render(), self._info()

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The pointer moves, then the events happen in order; the frame is grabbed when the programs rest.

        EnvironmentDied when the server or a program ended: the episode cannot be used, the next `reset` starts anew.
        """
        server = self._running()
        with server.watched():
            self._point(action.pointer)
            clicked = False
            for event in action.events:
                if clicked and event.target in self._codes:  # it goes where the click before it put the focus
                    server.settle(self._patience(), SURE_SECONDS)
                clicked = event.target in self._numbers
                self._inject(event)
            if self._schedule is None:
                self._rest(after_events=bool(action.events))
            else:
                self._wait(self._schedule)
            self._grab()
            self._starter.mute_titles()
        return self.render(), 0.0, server.closed >= set(self.config.programs), False, self._info()

    def render(self) -> np.ndarray:
        return self._frame.copy()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None

    def cursors(self) -> list[CursorSprite]:
        """The shapes that the pointer takes over the background, the programs, and in a drag, as frames show them."""
        if not self._cursors:
            self.reset(seed=0)
        return list(self._cursors)

    def targets(self) -> list[Target]:
        """What can be seen of title bars, of windows behind and of the parts of the active one; of an open menu, only that."""
        server = self._running()
        with server.watched():
            windows, active, popups = server.windows.all(), server.windows.active(), server.windows.popups()
        if popups:
            return [Target("click", self._in_frame(popups[-1]))]
        found: list[Target] = []
        for place, window in enumerate(windows):
            covers = [above.frame for above in windows[place + 1 :]]
            for kind, rect in uses(window, active):
                seen = self._in_frame(visible(rect, covers))
                if seen.w > 0 and seen.h > 0:
                    found.append(Target(kind, seen))
        return found

    # Beginning

    def _open_server(self) -> None:
        self.close()
        width, height = self._screen_size()
        root = Path(tempfile.gettempdir())
        seconds = self.config.start_seconds
        mount = programs.MOUNT if can_isolate(programs.MOUNT) else ""
        self._server = XServer(width, height, programs.VARIABLES, root, seconds, mount, can_landlock())
        self._server.fill_background(programs.BACKGROUND)
        self._starter = Starter(self._server, self._manager, self.config.settle_seconds, seconds)
        self._codes = {code: self._server.keycode(keysym) for code, keysym in self._keysyms.items()}
        self._held: set[str] = set()
        self._grab()

    def _begin(self, seed: int) -> None:
        server, places, shrink = self._running(), self._layout(seed), self.config.shrink
        commands = programs.commands(places, self.config.columns, self.config.rows)
        x, y = places.pointer
        self._pointer = (x // shrink, y // shrink)
        with server.watched():
            for name in sorted(self._held):
                self._inject(Event("release", name))
            self._starter.begin(places, commands)
            if not self._cursors:
                shapes = tour(server, lambda: self._rest(after_events=True))
                self._cursors = distinct([sprite(name, cursor, shrink) for name, cursor in shapes.items()])
                self._starter.begin(places, commands)
            self._grab()

    # Input

    def _point(self, pointer: tuple[int, int]) -> None:
        x, y = (int(n) for n in pointer)
        if not (0 <= x < self.config.width and 0 <= y < self.config.height):
            raise ValueError(f"pointer ({x}, {y}) is outside the {self.config.width}x{self.config.height} screen")
        shrink = self.config.shrink
        self._pointer = (x, y)
        self._running().move(x * shrink + shrink // 2, y * shrink + shrink // 2)

    def _inject(self, event: Event) -> None:
        server = self._running()
        if event.kind == "wheel" and self.config.wheel:
            self._turn(event.dx, LEFT, RIGHT)
            self._turn(event.dy, UP, DOWN)
            return
        down = event.kind == "press"
        if event.target in self._codes:
            server.key(self._codes[event.target], down)
        elif event.target in self._numbers:
            server.button(self._numbers[event.target], down)
        else:
            known = [*self._numbers, *self._codes]
            raise ValueError(
                f"{event.kind} of {event.target!r}: this desktop has {known}; add it to the config or send those"
            )
        (self._held.add if down else self._held.discard)(event.target)

    def _turn(self, notches: float, negative: int, positive: int) -> None:
        for _ in range(abs(round(notches))):
            for down in (True, False):
                self._running().button(positive if notches > 0 else negative, down)

    def _patience(self) -> float:
        """The longest wait for the programs between two events."""
        return self.config.settle_seconds if self._schedule is None else max(0.0, self._schedule.left / 2)

    def _wait(self, schedule: Schedule) -> None:
        self._running().flush()
        schedule.wait()
        self._running().check()

    def _rest(self, after_events: bool) -> None:
        server = self._running()
        rests = server.settle(self.config.settle_seconds)
        if after_events:
            server.windows.nudge()
            rests = server.settle(self.config.settle_seconds, SURE_SECONDS)
        self.num_restless += not rests
        server.check()

    # Output

    def _grab(self) -> None:
        self._time = 0.0 if self._schedule is None else self._schedule.now()
        self._frame = shrunk(self._running().grab(), self.config.shrink)

    def _in_frame(self, rect: Rect) -> Rect:
        """The frame pixels whose pointer place lies in `rect` of the screen and on it."""
        shrink, middle = self.config.shrink, self.config.shrink // 2
        left, top = (max(0, -((middle - n) // shrink)) for n in (rect.x, rect.y))
        right = min(self.config.width - 1, (rect.x + rect.w - 1 - middle) // shrink)
        bottom = min(self.config.height - 1, (rect.y + rect.h - 1 - middle) // shrink)
        return Rect(left, top, right - left + 1, bottom - top + 1)

    def _info(self) -> dict[str, Any]:
        info = {"pointer": self._pointer, "events": [], "state": {"pointer": list(self._pointer)}}
        return info if self._schedule is None else {**info, "time": self._time}

    def _layout(self, seed: int) -> programs.Layout:
        """Places on the screen; the pointer's is the middle of a frame's pixel."""
        config, shrink = self.config, self.config.shrink
        places = programs.layout(
            seed, *self._screen_size(), config.columns, config.rows, config.programs, self._manager
        )
        x, y = (n - n % shrink + shrink // 2 for n in places.pointer)
        return dataclasses.replace(places, pointer=(x, y))

    def _screen_size(self) -> tuple[int, int]:
        if self.config.shrink < 1:
            raise ValueError(f"shrink is {self.config.shrink}; it is a number of pixels, at least 1")
        return self.config.width * self.config.shrink, self.config.height * self.config.shrink

    def _running(self) -> XServer:
        if self._server is None:
            raise ValueError("this x11_desktop was closed: build a new one")
        return self._server
