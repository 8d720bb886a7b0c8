"""Where everything on the full desktop is: the surfaces from the top to the bottom, and what on each of them answers."""

from dataclasses import dataclass, field
from typing import NamedTuple

from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import font
from data_pipeline.environments.full_desktop.app import App, Dialog, Item, Part

# Sizes in units.
PANEL = 15
TITLE = 12
MENU_BAR = 11
BORDER = 1
BUTTON = 11  # of a title bar
GRIP = 6  # the corner that resizes
START = Rect(2, 2, 34, PANEL - 3)  # in the panel
TASK = 36  # a window's button in the panel, at most
ICON = (48, 34)  # a cell of the desktop's icons
MENU_ROW = 11
_DIALOG_BUTTON = (38, 13)


class Hit(NamedTuple):
    """What lies at a place: a part of a surface; no part where nothing answers."""

    surface: str  # "desktop", "panel", "menu", "window 3", "dialog 3"
    part: str = ""


@dataclass
class Window:
    number: int  # never given again
    app: App
    x: int
    y: int
    width: int  # of the whole window
    height: int
    minimised: bool = False
    before: Rect | None = None  # where it was before it filled the screen
    dialog: Dialog | None = None

    @property
    def rect(self) -> Rect:
        return Rect(self.x, self.y, self.width, self.height)

    @property
    def inside(self) -> Rect:
        """The application's part, in the window."""
        top = BORDER + TITLE + (MENU_BAR if self.app.menus() else 0)
        return Rect(BORDER, top, self.width - 2 * BORDER, self.height - top - BORDER)

    def place(self, rect: Rect) -> None:
        self.x, self.y, self.width, self.height = rect
        self.app.resize(*self.inside[2:])

    def menu_titles(self) -> dict[str, Rect]:
        """The names in the menu bar, in the window."""
        found, x = {}, BORDER + 2
        for name in self.app.menus():
            found[name] = Rect(x, BORDER + TITLE, font.width(name) + 7, MENU_BAR)
            x += font.width(name) + 7
        return found

    def buttons(self) -> dict[str, Rect]:
        """The title bar's buttons, in the window."""
        names = ["minimise", *(["maximise"] if self.app.resizable else []), "close"]
        left = self.width - BORDER - len(names) * BUTTON
        return {name: Rect(left + i * BUTTON, BORDER, BUTTON, TITLE - 1) for i, name in enumerate(names)}


def outer_size(app: App, inside: tuple[int, int]) -> tuple[int, int]:
    """The size of a window with so much inside."""
    return inside[0] + 2 * BORDER, inside[1] + 2 * BORDER + TITLE + (MENU_BAR if app.menus() else 0)


@dataclass(frozen=True)
class Menu:
    """An open menu. `owner` is the number of its window; 0 is the panel's own."""

    owner: int
    name: str
    items: tuple[Item, ...]
    rect: Rect

    def rows(self) -> dict[str, Rect]:
        x, y, w, _ = self.rect
        return {item.name: Rect(x + 1, y + 1 + i * MENU_ROW, w - 2, MENU_ROW) for i, item in enumerate(self.items)}


def menu_size(items: tuple[Item, ...]) -> tuple[int, int]:
    return max(font.width(item.name) for item in items) + 14, len(items) * MENU_ROW + 2


def dialog_size(dialog: Dialog) -> tuple[int, int]:
    wide = max(font.width(line) for line in dialog.lines) + 16
    buttons = len(dialog.buttons) * (_DIALOG_BUTTON[0] + 4) + 8
    lines = len(dialog.lines) + (dialog.field is not None) * 1.6
    return max(wide, buttons, 96), TITLE + 6 + round(lines * font.LINE) + 4 + _DIALOG_BUTTON[1] + 6


def dialog_buttons(dialog: Dialog, rect: Rect) -> dict[str, Rect]:
    """On the screen, from the right."""
    w, h = _DIALOG_BUTTON
    left = rect.x + rect.w - 4 - len(dialog.buttons) * (w + 4)
    return {name: Rect(left + i * (w + 4), rect.y + rect.h - h - 5, w, h) for i, name in enumerate(dialog.buttons)}


def dialog_field(dialog: Dialog, rect: Rect) -> Rect | None:
    """Where the text is typed, on the screen."""
    if dialog.field is None:
        return None
    return Rect(rect.x + 7, rect.y + TITLE + 5 + len(dialog.lines) * font.LINE, rect.w - 14, 13)


def tasks(numbers: list[int], width: int) -> dict[int, Rect]:
    """The windows' buttons in the panel, in it, by number, for a panel of this width."""
    room = width - START.x - START.w - 6
    each = min(TASK, room // max(len(numbers), 1))
    return {n: Rect(START.x + START.w + 4 + i * each, 2, each - 2, PANEL - 3) for i, n in enumerate(sorted(numbers))}


@dataclass(frozen=True)
class Surface:
    """One thing that lies over others: what is in `rect` belongs to it."""

    name: str
    rect: Rect
    parts: list[Part] = field(default_factory=list)  # on the screen, none over another

    def part(self, x: int, y: int) -> Part | None:
        return next((part for part in self.parts if part.rect.contains(x, y)), None)


def moved(rect: Rect, x: int, y: int) -> Rect:
    return Rect(rect.x + x, rect.y + y, rect.w, rect.h)
