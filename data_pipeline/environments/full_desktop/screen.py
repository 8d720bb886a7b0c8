"""What is where on the full desktop: the state of its screen, what lies at a place, what can be used. Nothing changes here."""

from typing import Any

from data_pipeline.environments.environment import Rect, Target
from data_pipeline.environments.full_desktop import font, surfaces
from data_pipeline.environments.full_desktop.app import Dialog, Part
from data_pipeline.environments.full_desktop.apps import APPS
from data_pipeline.environments.full_desktop.disk import Disk, name_of
from data_pipeline.environments.full_desktop.files import OPENS
from data_pipeline.environments.full_desktop.surfaces import PANEL, Hit, Menu, Surface, Window, moved

MOST_WINDOWS = 6
LONGEST_FIELD = 14  # letters in a dialog's field
_RAISE_CELLS = 3  # a window behind others can be raised by cells of this grid


class Screen:
    """The state without its picture. The last window is on top; the pointer is a place in units."""

    def __init__(self, width: int, height: int, grid: int) -> None:
        self.width, self.height, self.grid = width, height, grid
        self.disk = Disk()
        self.windows: list[Window] = []
        self.menu: Menu | None = None
        self.selected = ""  # of the desktop's icons
        self.pointer = (0, 0)
        self.hover = Hit("desktop")
        self.cursor = "arrow"
        self.grip: tuple[str, Window, int, int] | None = None  # "move", "resize" or "app", and where it is held
        self._held: set[str] = set()
        self._next = 1

    @property
    def floor(self) -> int:
        """Where the panel begins."""
        return self.height - PANEL

    @property
    def focused(self) -> Window | None:
        """The window on top of those that are shown: it takes the keys."""
        return next((window for window in reversed(self.windows) if not window.minimised), None)

    def window(self, number: int) -> Window | None:
        return next((window for window in self.windows if window.number == number), None)

    def icons(self) -> dict[str, Rect]:
        """The desktop's icons by what they open: an application's name, or the path of a file or folder in Home."""
        rows = self.floor // surfaces.ICON[1]
        w, h = surfaces.ICON
        names = ["files", *self.disk.entries("")][: rows * (self.width // w)]
        return {name: Rect(2 + i // rows * w, 2 + i % rows * h, w, h) for i, name in enumerate(names)}

    def surfaces(self) -> list[Surface]:
        """From the top to the bottom."""
        found = [self._menu_surface(self.menu)] if self.menu else []
        found.append(self._panel())
        for window in reversed(self.windows):
            if not window.minimised:
                if window.dialog is not None:
                    found.append(self._dialog_surface(window, window.dialog))
                found.append(Surface(f"window {window.number}", window.rect, self._window_parts(window)))
        icons = [Part(name, rect, self._icon_kind(name)) for name, rect in self.icons().items()]
        return [*found, Surface("desktop", Rect(0, 0, self.width, self.floor), icons)]

    def dialog_rect(self, window: Window, dialog: Dialog) -> Rect:
        w, h = surfaces.dialog_size(dialog)
        x, y = window.x + (window.width - w) // 2, window.y + (window.height - h) // 2
        return Rect(min(max(x, 0), self.width - w), min(max(y, 0), self.floor - h), w, h)

    def _menu_surface(self, menu: Menu) -> Surface:
        enabled = {item.name: item.enabled for item in menu.items}
        parts = [Part(name, rect, "choose" * enabled[name]) for name, rect in menu.rows().items()]
        return Surface("menu", menu.rect, parts)

    def _panel(self) -> Surface:
        parts = [Part("Menu", moved(surfaces.START, 0, self.floor), "menu")]
        for number, rect in surfaces.tasks([window.number for window in self.windows], self.width).items():
            window = self.window(number)
            assert window is not None
            kind = "restore" if window.minimised else "minimise" if window is self.focused else "raise"
            parts.append(Part(f"task {number}", moved(rect, 0, self.floor), kind))
        return Surface("panel", Rect(0, self.floor, self.width, PANEL), parts)

    def _dialog_surface(self, window: Window, dialog: Dialog) -> Surface:
        rect = self.dialog_rect(window, dialog)
        parts = [Part(name, place, "answer") for name, place in surfaces.dialog_buttons(dialog, rect).items()]
        box = surfaces.dialog_field(dialog, rect)
        if box is not None and dialog.field is not None:
            can_type = "type" * (window is self.focused and len(dialog.field) < LONGEST_FIELD)
            parts.append(Part("field", box, can_type, "text"))
        return Surface(f"dialog {window.number}", rect, parts)

    def _window_parts(self, window: Window) -> list[Part]:
        """On the screen. Behind a dialog a window can only be moved."""
        bar = Rect(0, 0, window.width, surfaces.BORDER + surfaces.TITLE)
        buttons = window.buttons()
        title = Rect(0, 0, next(iter(buttons.values())).x, bar.h)
        parts = [Part("title", title, "drag" * (window.before is None), "arrow")]
        if window.dialog is None:
            parts += [Part(name, rect, name) for name, rect in buttons.items()]
            parts += [Part(f"menu {name}", rect, "menu") for name, rect in window.menu_titles().items()]
            if window.app.resizable and window.before is None:
                size = surfaces.GRIP
                parts.append(
                    Part("corner", Rect(window.width - size, window.height - size, size, size), "resize", "resize")
                )
            inside = window.inside
            parts += [p._replace(rect=moved(p.rect, inside.x, inside.y)) for p in window.app.parts()]
        return [part._replace(rect=moved(part.rect, window.x, window.y)) for part in parts]

    def _icon_kind(self, name: str) -> str:
        return self.launching(*self.opens(name)) if name == self.selected else "select"

    def opens(self, icon: str) -> tuple[str, str]:
        """Application and document."""
        if icon in APPS:
            return icon, ""
        kind = self.disk.files[icon].kind
        return ("files" if kind == "folder" else OPENS[kind]), icon

    def hit(self, x: int, y: int) -> tuple[Hit, Part | None]:
        """What is drawn at this place, the cursor aside."""
        surface = next(surface for surface in self.surfaces() if surface.rect.contains(x, y))
        part = surface.part(x, y)
        return Hit(surface.name, part.name if part else ""), part

    def targets(self, scale: int) -> list[Target]:
        """What a press would do, and where in pixels; only what is wholly visible."""
        found: list[Target] = []
        above: list[Rect] = []
        for surface in self.surfaces():
            for name, rect, kind in self._aims(surface):
                if kind and not any(rect.intersects(cover) for cover in above):
                    x, y, w, h = rect
                    found.append(Target(kind, Rect(x * scale, y * scale, w * scale, h * scale), name))
            above.append(surface.rect)
        return found

    def _aims(self, surface: Surface) -> list[tuple[str, Rect, str]]:
        """(name, rectangle, kind of target) on one surface. While a menu is open, a press elsewhere only closes it."""
        if self.menu is not None and surface.name != "menu":
            return [("elsewhere", surface.rect, "dismiss")] if surface.name == "desktop" else []
        window = self.window(int(surface.name.split()[1])) if " " in surface.name else None
        owner = window.app.name if window else surface.name
        kind = surface.name.split()[0]
        front = window is None or window is self.focused
        parts = (
            surface.parts
            if front
            else [p for p in surface.parts if p.name in ("title", "close", "minimise", "maximise")]
        )
        menu = f"{self.menu.name} " if self.menu and self.menu.name else ""
        aims = [
            (
                f"{owner}: {'dialog ' * (kind == 'dialog')}{menu}{p.name.split()[0] if kind == 'panel' else p.name}",
                p.rect,
                p.kind,
            )
            for p in parts
        ]
        if window is None or kind == "dialog":
            return aims
        if not front:
            return aims + [
                (f"{owner}: window", cell, "raise") for cell in _cells(moved(window.inside, window.x, window.y))
            ]
        area = window.app.wheel_area() if window.dialog is None else None
        inside = window.inside
        return aims + (
            [(f"{owner}: wheel", moved(area, window.x + inside.x, window.y + inside.y), "wheel")] if area else []
        )

    def launching(self, app: str, document: str = "") -> str:
        """The transition that `launch` would cause; empty where there is no room for another window."""
        window = self.showing(app, document)
        if window is not None:
            return "restore" if window.minimised else "raise" if window is not self.focused else ""
        return "open" if len(self.windows) < MOST_WINDOWS else ""

    def showing(self, app: str, document: str) -> Window | None:
        """The window of `app` that shows `document`; of applications without documents, any."""
        for window in self.windows:
            same = window.app.document == document and (document != "" or app in ("files", "calculator"))
            if window.app.name == app and same:
                return window
        return None

    def state(self) -> dict[str, Any]:
        """The whole truth, JSON-able, in units, windows from the bottom to the top."""
        focused = self.focused
        return {
            "pointer": list(self.pointer),
            "cursor": self.cursor,
            "hover": list(self.hover),
            "focus": None if focused is None else focused.number,
            "menu": None if self.menu is None else _menu_state(self.menu),
            "selected": self.selected,
            "held": sorted(self._held),
            "gripped": None if self.grip is None else [self.grip[0], self.grip[1].number],
            "disk": self.disk.state(),
            "windows": [_window_state(window) for window in self.windows],
        }


def _menu_state(menu: Menu) -> dict[str, Any]:
    items = [[item.name, item.enabled] for item in menu.items]
    return {"owner": menu.owner, "name": menu.name, "rect": list(menu.rect), "items": items}


def _window_state(window: Window) -> dict[str, Any]:
    dialog = window.dialog
    return {
        "number": window.number,
        "app": window.app.name,
        "title": window.app.title,
        "rect": list(window.rect),
        "minimised": window.minimised,
        "maximised": window.before is not None,
        "dialog": None
        if dialog is None
        else {"lines": list(dialog.lines), "buttons": list(dialog.buttons), "field": dialog.field},
        "contents": window.app.contents(),
    }


def _cells(rect: Rect) -> list[Rect]:
    n = _RAISE_CELLS
    w, h = rect.w // n, rect.h // n
    return [Rect(rect.x + i * w, rect.y + j * h, w, h) for i in range(n) for j in range(n)]


def label(icon: str) -> str:
    """What stands under an icon of the desktop."""
    return "Home" if icon == "files" else font.fitting(name_of(icon), surfaces.ICON[0] - 2)
