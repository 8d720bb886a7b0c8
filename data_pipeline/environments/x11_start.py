"""How an episode of the recorded desktop begins: the bus, the window manager and the programs, each awaited, none slept for."""

import time
from collections.abc import Callable

from data_pipeline.environments import x11_programs as programs
from data_pipeline.environments.environment import EnvironmentDied, Rect
from data_pipeline.environments.x11_keys import BUTTONS
from data_pipeline.environments.x11_looks import FILES
from data_pipeline.environments.x11_managers import WindowManager
from data_pipeline.environments.x11_rest import SURE_SECONDS
from data_pipeline.environments.x11_server import Cursor, XServer, can_landlock
from data_pipeline.environments.x11_targets import centre, uses
from data_pipeline.environments.x11_windows import Window
from data_pipeline.schema import DataError


class Starter:
    """Brings programs up on `server`; EnvironmentDied where one dies or is not there after `start_seconds`."""

    def __init__(self, server: XServer, manager: WindowManager, settle_seconds: float, start_seconds: float) -> None:
        self._server = server
        self._manager = manager
        self._settle_seconds = settle_seconds  # longest wait at a time for the programs to come to rest
        self._start_seconds = start_seconds

    def begin(self, places: programs.Layout, commands: dict[str, list[str]]) -> None:
        """The programs of `commands` run anew and rest at `places`, which are in pixels of the screen."""
        self._start_manager(places)
        self._server.move(*places.pointer)
        self._start_programs(commands)
        self._place_windows(places)
        self._server.windows.fix_sizes()
        self.mute_titles()
        for name in commands:  # which one came first is chance; now the order of the windows is not
            self.bring_forward(name)
            if tool := programs.APPLICATIONS[name].tool:
                self._take(name, *tool)
        self.bring_forward(places.focus)
        self._server.move(*places.pointer)
        self._rest()
        self._server.windows.look_again()

    def bring_forward(self, name: str) -> Window:
        """The first window of an application, which then is in front and has the focus."""
        windows, chosen = self._server.windows, self._first_window(name)
        windows.activate(chosen)
        self._await(lambda: windows.active() == chosen.id and windows.all()[-1].id == chosen.id, "the focus")
        return chosen

    def mute_titles(self) -> None:
        """Take the menu from the title bars of new windows, where the window manager has one."""
        if self._manager.has_title_menu:
            self._server.windows.mute_titles()

    def _start_manager(self, places: programs.Layout) -> None:
        server = self._server
        server.stop({**FILES, **self._manager.files(programs.rules(places))})
        server.windows.forget()
        server.start({programs.BUS: programs.BUS_COMMAND})
        self._await((server.home / programs.BUS_SOCKET).exists, "the bus")
        server.start({self._manager.program: list(self._manager.command)})
        self._await(lambda: server.windows.managed() and server.settle(self._settle_seconds), "the window manager")

    def _start_programs(self, commands: dict[str, list[str]]) -> None:
        server = self._server
        server.start(commands)
        classes = {programs.APPLICATIONS[name].window_class for name in commands}
        self._await(lambda: classes <= {w.window_class for w in server.windows.all()}, "all windows")
        self._rest()

    def _place_windows(self, places: programs.Layout) -> None:
        """Move the windows to their places where the window manager's settings have not done it."""
        if self._manager.places_windows:
            return
        moved = programs.rules(places)
        for name in places.corners:
            if rect := moved.get(programs.APPLICATIONS[name].window_class):
                self._server.windows.place(self._first_window(name), rect)
        self._await(lambda: self._lie_at(places), "the windows to come to their places")
        self._rest()

    def _lie_at(self, places: programs.Layout) -> bool:
        found = {window.window_class: window.frame[:2] for window in self._server.windows.all()}
        return all(found.get(programs.APPLICATIONS[name].window_class) == at for name, at in places.corners.items())

    def _first_window(self, name: str) -> Window:
        wanted = programs.APPLICATIONS[name].window_class
        return next(window for window in self._server.windows.all() if window.window_class == wanted)

    def _take(self, name: str, x: int, y: int) -> None:
        """Click at a place inside of an application's window."""
        corner = self.bring_forward(name).client
        self._server.move(corner.x + x, corner.y + y)
        for down in (True, False):
            self._server.button(BUTTONS["left"], down)
        self._rest()

    def _rest(self) -> None:
        self._await(lambda: self._server.settle(self._settle_seconds, SURE_SECONDS), "the programs to come to rest")

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._start_seconds
        while not ready():
            self._server.check()
            if time.monotonic() > deadline:
                raise EnvironmentDied(
                    f"the recorded desktop waited {self._start_seconds} s for {what}: raise start_seconds or the cores"
                )
            self._server.windows.nudge()
            self._server.settle(0.01)


def tour(server: XServer, rest: Callable[[], None]) -> dict[str, Cursor]:
    """Every shape of the pointer, named by where it has it: it is shown over all that each window has, and drags one.

    `rest` waits until the programs have done what they were asked. The windows lie otherwise afterwards.
    """
    seen: dict[str, Cursor] = {}
    for window in server.windows.all():
        server.windows.activate(window)
        rest()
        for place, (kind, rect) in enumerate(uses(window, window.id)):
            if kind != "click" or place < 4:  # buttons of a kind share their shape
                server.move(*centre(rect))
                rest()
                seen["arrow" if place == 0 else f"{window.window_class.lower()}-{place}"] = server.cursor()
    return {**seen, "drag": _dragging(server, rest, window.title_bar)}


def _dragging(server: XServer, rest: Callable[[], None], title_bar: Rect) -> Cursor:
    """The pointer's shape while it holds a window at its title bar."""
    x, y = centre(title_bar)
    server.move(x, y)
    server.button(BUTTONS["left"], True)
    rest()
    server.move(x + 8, y)
    rest()
    shape = server.cursor()
    server.button(BUTTONS["left"], False)
    rest()
    return shape


def check_programs(chosen: tuple[str, ...], manager: WindowManager) -> None:
    """ValueError where `chosen` are not applications, each once; DataError where one cannot run on this machine."""
    unknown = set(chosen) - programs.APPLICATIONS.keys()
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        known = ", ".join(programs.APPLICATIONS)
        raise ValueError(f"programs are {list(chosen)}: name one or more of {known}, each once")
    missing = programs.missing(chosen, manager)
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise DataError(
            f"x11_desktop needs {', '.join(missing)}: install the Debian packages {packages}, or run `make system-deps` as root"
        )
    if any(programs.APPLICATIONS[name].writes for name in chosen) and not can_landlock():
        raise DataError(
            f"programs {list(chosen)} can change files, and this kernel cannot hold them to a folder (Landlock, Linux 5.13): "
            "record terminal and calculator alone"
        )
