"""The window manager of the full desktop: what input does to windows, menus, dialogs and icons. It draws nothing."""

from typing import Any

import numpy as np

from data_pipeline.environments.environment import Rect, Target
from data_pipeline.environments.full_desktop import font, keys, surfaces
from data_pipeline.environments.full_desktop.app import App, Dialog, Item, Part
from data_pipeline.environments.full_desktop.apps import APPS
from data_pipeline.environments.full_desktop.disk import Disk, name_of
from data_pipeline.environments.full_desktop.files import OPENS
from data_pipeline.environments.full_desktop.surfaces import PANEL, Hit, Menu, Surface, Window, moved

MOST_WINDOWS = 6
_LONGEST_FIELD = 14  # letters in a dialog's field
_RAISE_CELLS = 3  # a window behind others can be raised by cells of this grid


class Desktop:
    """The state of the screen without its picture. The last window is on top; the pointer is a place in units."""

    def __init__(self, width: int, height: int, grid: int) -> None:
        self.width, self.height, self.grid = width, height, grid
        self.disk = Disk()
        self.windows: list[Window] = []
        self.menu: Menu | None = None
        self.selected = ""  # of the desktop's icons
        self.pointer = (0, 0)
        self.hover = Hit("desktop")
        self.cursor = "arrow"
        self._grip: tuple[str, Window, int, int] | None = None  # "move", "resize" or "app", and where it is held
        self._held: set[str] = set()
        self._next = 1

    # What is where

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
            can_type = "type" * (window is self.focused and len(dialog.field) < _LONGEST_FIELD)
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

    # What input does

    def move(self, x: int, y: int) -> list[str]:
        """Bring the pointer to (x, y), and what it holds."""
        self.pointer = (x, y)
        if self._grip is None:
            return []
        how, window, dx, dy = self._grip
        before = window.rect
        if how == "app":
            inside = window.inside
            return window.app.drag(x - window.x - inside.x, y - window.y - inside.y)
        if how == "move":
            window.x, window.y = self._on_desktop(x - dx, y - dy, window.width, window.height)
            return ["drag"] if window.rect != before else []
        window.place(self._resized(window, x + dx - window.x, y + dy - window.y))
        return ["resize"] if window.rect != before else []

    def press(self) -> list[str]:
        """The left button goes down where the pointer is; what it causes, it causes now."""
        self.release()
        hit, part = self.hit(*self.pointer)
        if self.menu is not None:
            return self._press_menu(self.menu, hit, part)
        surface = hit.surface.split()
        if surface[0] == "panel":
            return self._press_panel(hit.part)
        if surface[0] == "desktop":
            return self._press_icon(hit.part)
        window = self.window(int(surface[1]))
        assert window is not None
        if hit.part in ("close", "minimise"):
            return self._leave(window, hit.part)
        events = self._raise(window)
        if surface[0] == "dialog":
            return events + (self._answer(window, hit.part) if part is not None and part.kind == "answer" else [])
        return events + self._press_window(window, hit.part)

    def release(self) -> list[str]:
        grip, self._grip = self._grip, None
        return grip[1].app.release() if grip is not None and grip[0] == "app" else []

    def wheel(self, notches: float) -> list[str]:
        """The wheel scrolls what is under the pointer, in front or not."""
        surface = self.hit(*self.pointer)[0].surface
        window = self.window(int(surface.split()[1])) if surface.startswith("window") else None
        if window is None or window.dialog is not None or self.menu is not None:
            return []
        area = window.app.wheel_area()
        inside = window.inside
        x, y = self.pointer[0] - window.x - inside.x, self.pointer[1] - window.y - inside.y
        return window.app.wheel(notches) if area is not None and area.contains(x, y) else []

    def key(self, code: str, down: bool) -> list[str]:
        """A key goes down or up; the focused window has it, or the menu or dialog over it."""
        (self._held.add if down else self._held.discard)(code)
        if not down or code in keys.SHIFT:
            return []
        if self.menu is not None:
            return self._dismiss() if code == "Escape" else []
        window, shift = self.focused, bool(self._held & set(keys.SHIFT))
        if window is None:
            return []
        return window.app.key(code, shift) if window.dialog is None else self._key_in_dialog(window, code, shift)

    def look(self) -> None:
        """Take note of what the pointer is over; what is held stays under it."""
        for window in self.windows:
            window.app.refresh()
        if self.selected not in self.icons():
            self.selected = ""
        self.hover, part = self.hit(*self.pointer)
        if self._grip is not None:
            how, window, _, _ = self._grip
            self.hover = Hit(f"window {window.number}", {"move": "title", "resize": "corner"}.get(how, ""))
            self.cursor = {"move": "move", "resize": "resize"}.get(
                how, "cross" if window.app.name == "paint" else "arrow"
            )
        else:
            self.cursor = part.cursor if part is not None and (part.kind or part.cursor != "hand") else "arrow"
        if self.menu is not None and self.hover.surface != "menu":
            self.hover = Hit(self.hover.surface)

    def _press_menu(self, menu: Menu, hit: Hit, part: Part | None) -> list[str]:
        if hit.surface != "menu":
            return self._dismiss()
        if part is None or not part.kind:
            return []
        self.menu = None
        if menu.owner == 0:
            app = next(name for name in APPS if APPS[name].label == part.name)
            return ["choose", *self.launch(app)]
        window = self.window(menu.owner)
        assert window is not None
        return ["choose", *window.app.choose(menu.name, part.name)]

    def _dismiss(self) -> list[str]:
        self.menu = None
        return ["dismiss"]

    def _press_panel(self, part: str) -> list[str]:
        if part == "Menu":
            items = tuple(Item(APPS[name].label, bool(self.launching(name))) for name in APPS)
            return self._drop(0, "", items, surfaces.START.x, self.floor)
        window = self.window(int(part.split()[1])) if part else None
        if window is None:
            return []
        if window is self.focused:
            return self._leave(window, "minimise")
        return self._show(window)

    def _press_icon(self, name: str) -> list[str]:
        before, self.selected = self.selected, name
        if name and name == before:
            return self.launch(*self.opens(name))
        return ["select"] if name != before else []

    def _press_window(self, window: Window, part: str) -> list[str]:
        x, y = self.pointer[0] - window.x, self.pointer[1] - window.y
        if part == "title" and window.before is None:
            self._grip = ("move", window, x, y)
        if part == "corner":
            self._grip = ("resize", window, window.width - x, window.height - y)
        if part == "maximise":
            return self._maximise(window)
        if part.startswith("menu "):
            name = part.removeprefix("menu ")
            place = window.menu_titles()[name]
            return self._drop(
                window.number, name, window.app.menus()[name], window.x + place.x, window.y + place.y + place.h
            )
        inside = window.inside
        if window.dialog is not None or not inside.contains(x, y) or not part or part in ("title", "corner"):
            return []
        self._grip = ("app", window, 0, 0)
        return window.app.press(part, x - inside.x, y - inside.y)

    def _drop(self, owner: int, name: str, items: tuple[Item, ...], x: int, y: int) -> list[str]:
        """A menu at (x, y), above it where there is no room below."""
        w, h = surfaces.menu_size(items)
        top = y if y + h <= self.floor else (self.floor - h if owner == 0 else max(0, min(y, self.floor - h)))
        self.menu = Menu(owner, name, items, Rect(min(x, self.width - w), top, w, h))
        return ["menu"]

    def _key_in_dialog(self, window: Window, code: str, shift: bool) -> list[str]:
        dialog = window.dialog
        assert dialog is not None
        if code in ("Enter", "Escape"):
            return self._answer(window, dialog.buttons[0 if code == "Enter" else -1])
        if dialog.field is None:
            return []
        written = keys.letter(code, shift)
        text = dialog.field[:-1] if code == "Backspace" else dialog.field + written.replace("/", "")
        if text == dialog.field or len(text) > _LONGEST_FIELD:
            return []
        window.dialog = Dialog(dialog.question, dialog.lines, dialog.buttons, text)
        return ["type"]

    def _answer(self, window: Window, button: str) -> list[str]:
        dialog, window.dialog = window.dialog, None
        assert dialog is not None
        return ["answer", *window.app.answer(dialog.question, button, dialog.field or "")]

    # Windows

    def launching(self, app: str, document: str = "") -> str:
        """The transition that `launch` would cause; empty where there is no room for another window."""
        window = self._showing(app, document)
        if window is not None:
            return "restore" if window.minimised else "raise" if window is not self.focused else ""
        return "open" if len(self.windows) < MOST_WINDOWS else ""

    def launch(self, app: str, document: str = "") -> list[str]:
        """A new window of `app` on top, or the one that shows `document` already."""
        window = self._showing(app, document)
        if window is not None:
            return self._show(window)
        if len(self.windows) >= MOST_WINDOWS:
            return []
        made = APPS[app](self, document)
        width, height = surfaces.outer_size(made, made.usual)
        number = self._next
        # Each a step further down and right than the one before, as window managers do.
        x, y = self._on_desktop(46 + 12 * (number % 6), 4 + 10 * (number % 5), width, height)
        window = Window(number, made, x, y, width, height)
        window.place(Rect(x, y, width, height))
        self._next += 1
        self.windows.append(window)
        return ["open"]

    def ask(self, app: App, dialog: Dialog) -> list[str]:
        window = next(window for window in self.windows if window.app is app)
        window.dialog = dialog
        return ["dialog"]

    def close(self, app: App) -> list[str]:
        """Close the window of `app`, or ask first."""
        question = app.closing()
        if question is not None:
            return self.ask(app, question)
        self.windows = [window for window in self.windows if window.app is not app]
        return ["close"]

    def _showing(self, app: str, document: str) -> Window | None:
        """The window of `app` that shows `document`; of applications without documents, any."""
        for window in self.windows:
            same = window.app.document == document and (document != "" or app in ("files", "calculator"))
            if window.app.name == app and same:
                return window
        return None

    def _show(self, window: Window) -> list[str]:
        if window.minimised:
            window.minimised = False
            self._raise(window)
            return ["restore"]
        return self._raise(window)

    def _leave(self, window: Window, how: str) -> list[str]:
        if how == "close":
            events = self._raise(window) if window.app.closing() is not None else []
            return events + self.close(window.app)
        window.minimised = True
        return ["minimise"]

    def _raise(self, window: Window) -> list[str]:
        if window is self.focused:
            return []
        self.windows.remove(window)
        self.windows.append(window)
        return ["raise"]

    def _maximise(self, window: Window) -> list[str]:
        if window.before is None:
            window.before = window.rect
            window.place(Rect(0, 0, self.width, self.floor))
        else:
            window.place(window.before)
            window.before = None
        return ["maximise"]

    def _on_desktop(self, x: int, y: int, width: int, height: int) -> tuple[int, int]:
        """The nearest place on the grid where a window is wholly on the desktop."""
        return self._on_grid(x, self.width - width), self._on_grid(y, self.floor - height)

    def _on_grid(self, at: int, most: int) -> int:
        nearest = (at + self.grid // 2) // self.grid
        return self.grid * min(max(nearest, 0), most // self.grid)

    def _resized(self, window: Window, width: int, height: int) -> Rect:
        """Sizes are on the grid too, and what is inside keeps room."""
        least = surfaces.outer_size(window.app, window.app.least)
        most = (self.width - window.x, self.floor - window.y)
        sizes = (
            min(max(low + -(-(size - low) // self.grid) * self.grid, low), low + (high - low) // self.grid * self.grid)
            for size, low, high in zip((width, height), least, most, strict=True)
        )
        return Rect(window.x, window.y, *sizes)

    # Beginnings and the truth

    def vary(self, rng: np.random.Generator, most: int) -> None:
        """Take a state that a person could have made, with at most `most` windows, drawn from `rng`."""
        self.disk.vary(rng)
        documents = [path for path, file in self.disk.files.items() if file.kind != "folder"]
        for _ in range(int(rng.integers(most + 1))):
            app = list(APPS)[int(rng.integers(len(APPS)))]
            mine = [path for path in documents if OPENS[self.disk.files[path].kind] == app]
            opened = mine[int(rng.integers(len(mine)))] if mine and rng.random() < 0.7 else ""
            if self.launch(app, opened) != ["open"]:
                continue
            window = self.windows[-1]
            window.app.vary(rng)
            if rng.random() < 0.5:
                room = (self.width - window.width, self.floor - window.height)
                x, y = (int(rng.integers(size + 1)) for size in room)
                window.x, window.y = self._on_desktop(x, y, window.width, window.height)
            window.minimised = bool(rng.random() < 0.2)
        self.pointer = (int(rng.integers(self.width)), int(rng.integers(self.height)))

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
            "gripped": None if self._grip is None else [self._grip[0], self._grip[1].number],
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
