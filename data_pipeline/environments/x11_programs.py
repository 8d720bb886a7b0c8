"""What runs on the recorded desktop: the bus, the applications, their places, and where a hand uses them."""

import itertools
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_pipeline.environments import x11_looks as looks
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.x11_managers import OPENBOX, WindowManager

# Program to look for -> Debian package that brings it; those of window managers and applications come with them.
PACKAGES = {
    "Xvfb": "xvfb",
    "dbus-daemon": "dbus",
    "setpriv": "util-linux",
}

BUS = "D-Bus"
BUS_COMMAND = ["dbus-daemon", "--config-file=.bus.conf", "--nofork", "--nopidfile"]
BUS_SOCKET = ".bus"  # in HOME
BACKGROUND = 0x2F5D62  # of the desktop, 0xRRGGBB
MOUNT = (
    "/media"  # HOME as the programs see it: a folder that every Debian has, so that its name on the screen is the same
)

# Environment of every program. Core cursors only: themed ones differ from machine to machine.
VARIABLES = {
    "XCURSOR_PATH": "/nonexistent",
    "XAPPLRESDIR": ".resources",
    "XENVIRONMENT": "/dev/null",
    "GSETTINGS_BACKEND": "keyfile",
    "GIO_USE_VFS": "local",
    "GIO_USE_VOLUME_MONITOR": "unix",
    "GTK2_RC_FILES": ".gtkrc-2.0",
    "NO_AT_BRIDGE": "1",
}


class Region(NamedTuple):
    """A part of a window, in pixels from its inner corner; a number below zero counts from the other edge."""

    kind: str  # of the Target that it is
    left: int
    top: int
    right: int
    bottom: int

    def within(self, client: Rect) -> Rect:
        """That part of a window whose inside is `client`."""
        x, right = (n if n >= 0 else client.w + n for n in (self.left, self.right or client.w))
        y, bottom = (n if n >= 0 else client.h + n for n in (self.top, self.bottom or client.h))
        return Rect(client.x + x, client.y + y, right - x, bottom - y)


@dataclass(frozen=True)
class Application:
    """One program with a window. It is known by the class that its windows have."""

    package: str  # of Debian
    argv: tuple[str, ...]  # {columns}, {rows}, {x} and {y} are filled in
    window_class: str
    size: tuple[int, int] = (0, 0)  # inside; 0 where it follows from what is shown
    regions: tuple[Region, ...] = ()
    tool: tuple[int, int] | None = None  # inside, what is clicked before an episode begins
    writes: bool = False  # whether it can open and change files, so that it must be held to its HOME

    @property
    def program(self) -> str:
        return self.argv[0]


TERMINAL, CALCULATOR, EDITOR, FILES, PAINT = "terminal", "calculator", "editor", "files", "paint"
_SHELL = ("bash", "--noprofile", "--rcfile", ".shellrc", "-r", "-i")
_MENU = 17  # height of a row of menus
APPLICATIONS = {
    TERMINAL: Application(
        "xterm",
        ("xterm", "-T", "Terminal", "-geometry", "{columns}x{rows}+{x}+{y}", "-e", *_SHELL),
        "XTerm",
        regions=(Region("type", 0, 0, 0, 0),),
    ),
    CALCULATOR: Application(
        "x11-apps", ("xcalc", "-title", "Calculator", "-geometry", "+{x}+{y}"), "XCalc", looks.CALCULATOR_INSIDE
    ),
    EDITOR: Application(
        "mousepad",
        ("mousepad", "documents/letter.txt"),
        "Mousepad",
        (260, 150),
        (Region("click", 4, 2, -4, _MENU), Region("type", 2, 24, -4, -4)),
        writes=True,
    ),
    FILES: Application(
        "pcmanfm",
        ("pcmanfm", "documents"),
        "Pcmanfm",
        (277, 140),
        (Region("click", 4, 2, -4, _MENU), Region("click", 4, 58, -18, -4)),
        writes=True,
    ),
    PAINT: Application(
        "mtpaint",
        ("mtpaint", looks.PAPER),
        "Mtpaint",
        (260, 180),
        (
            Region("click", 4, 2, -4, _MENU),
            Region("click", 4, 26, 240, 52),
            Region("click", 22, 126, 50, -6),
            Region("drag", 100, 72, -16, -16),
        ),
        tool=(18, 39),
        writes=True,
    ),
}


def missing(chosen: Sequence[str], manager: WindowManager = OPENBOX) -> dict[str, str]:
    """What `manager` and the applications `chosen` need and what is not installed here, with the Debian packages."""
    needed = {**PACKAGES, **manager.packages}
    for name in chosen:
        application = APPLICATIONS[name]
        needed[application.program] = application.package
        needed |= {"bash": "bash"} if name == TERMINAL else {}
    return {name: package for name, package in needed.items() if not _is_installed(name)}


def _is_installed(name: str) -> bool:
    """Whether there is a program of that name, or a file where it is a whole path."""
    return Path(name).is_file() if name.startswith("/") else shutil.which(name) is not None


@dataclass(frozen=True)
class Layout:
    """Where the windows' outer corners are when an episode begins, which one has the focus, where the pointer is."""

    corners: dict[str, tuple[int, int]]
    focus: str
    pointer: tuple[int, int]


def layout(
    seed: int,
    width: int,
    height: int,
    columns: int,
    rows: int,
    chosen: Sequence[str],
    manager: WindowManager = OPENBOX,
) -> Layout:
    """Places drawn from `seed` so that each window lies wholly on a screen of `width` x `height` pixels, and can be seen."""
    generator = random.Random(seed)
    sizes = {name: outer_size(name, columns, rows, manager) for name in chosen}
    for _ in range(100):
        corners = {name: _corner(generator, width, height, name, *size) for name, size in sizes.items()}
        pairs = itertools.combinations(chosen, 2)
        if all(_overlap(corners[a], sizes[a], corners[b], sizes[b]) <= 0.5 for a, b in pairs):
            break
    return Layout(
        corners=corners,
        focus=generator.choice(tuple(chosen)),
        pointer=(generator.randrange(width), generator.randrange(height)),
    )


def _corner(generator: random.Random, width: int, height: int, name: str, w: int, h: int) -> tuple[int, int]:
    if w > width or h > height:
        raise ValueError(
            f"the {name}'s window of {w}x{h} pixels does not fit a screen of {width}x{height}: enlarge the screen"
        )
    return generator.randint(0, width - w), generator.randint(0, height - h)


def _overlap(a: tuple[int, int], a_size: tuple[int, int], b: tuple[int, int], b_size: tuple[int, int]) -> float:
    """The part of the smaller rectangle that both cover."""
    sides = [min(a[i] + a_size[i], b[i] + b_size[i]) - max(a[i], b[i]) for i in range(2)]
    smaller = min(a_size[0] * a_size[1], b_size[0] * b_size[1])
    return max(sides[0], 0) * max(sides[1], 0) / smaller


def outer_size(name: str, columns: int, rows: int, manager: WindowManager) -> tuple[int, int]:
    """Width and height in pixels of an application's first window; a terminal's is of so many characters."""
    width, height = APPLICATIONS[name].size
    if name == TERMINAL:
        width, height = columns * looks.FONT_WIDTH + 4, rows * looks.FONT_HEIGHT + 4
    return width + 2 * manager.border, height + 2 * manager.border + manager.title_height


def commands(places: Layout, columns: int, rows: int) -> dict[str, list[str]]:
    """The argument lists of the applications at their places."""
    return {
        name: [part.format(columns=columns, rows=rows, x=x, y=y) for part in APPLICATIONS[name].argv]
        for name, (x, y) in places.corners.items()
    }


def rules(places: Layout) -> dict[str, Rect]:
    """Corner and inner size of the windows that do not place themselves, by their class."""
    chosen = {name: corner for name, corner in places.corners.items() if name not in (TERMINAL, CALCULATOR)}
    return {APPLICATIONS[name].window_class: Rect(*corner, *APPLICATIONS[name].size) for name, corner in chosen.items()}


def is_button(width: int, height: int) -> bool:
    """Whether a window of that size inside the calculator is one of its buttons, and not its display."""
    return (width, height) == (looks.BUTTON_WIDTH, looks.BUTTON_HEIGHT)
