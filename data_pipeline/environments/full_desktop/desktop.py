"""The window manager of the full desktop: what input does to windows, menus, dialogs and icons. It draws nothing."""

import numpy as np

from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import keys, surfaces
from data_pipeline.environments.full_desktop.app import App, Dialog, Item, Part
from data_pipeline.environments.full_desktop.apps import APPS
from data_pipeline.environments.full_desktop.files import OPENS
from data_pipeline.environments.full_desktop.screen import LONGEST_FIELD, MOST_WINDOWS, Screen
from data_pipeline.environments.full_desktop.surfaces import Hit, Menu, Window


class Desktop(Screen):
    """A screen that takes input. Methods return the kinds of the transitions that they caused."""

    def move(self, x: int, y: int) -> list[str]:
        """Bring the pointer to (x, y), and what it holds."""
        self.pointer = (x, y)
        if self.grip is None:
            return []
        how, window, dx, dy = self.grip
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
        grip, self.grip = self.grip, None
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
        if self.grip is not None:
            how, window, _, _ = self.grip
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
            self.grip = ("move", window, x, y)
        if part == "corner":
            self.grip = ("resize", window, window.width - x, window.height - y)
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
        self.grip = ("app", window, 0, 0)
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
        if text == dialog.field or len(text) > LONGEST_FIELD:
            return []
        window.dialog = Dialog(dialog.question, dialog.lines, dialog.buttons, text)
        return ["type"]

    def _answer(self, window: Window, button: str) -> list[str]:
        dialog, window.dialog = window.dialog, None
        assert dialog is not None
        return ["answer", *window.app.answer(dialog.question, button, dialog.field or "")]

    # Windows

    def launch(self, app: str, document: str = "") -> list[str]:
        """A new window of `app` on top, or the one that shows `document` already."""
        window = self.showing(app, document)
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
