"""A file manager: folders to go into, icons that open their files, things made and deleted."""

from typing import Any

import numpy as np

from data_pipeline.environments.desktop_drawing import Color, fill, frame, stamp
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import font, look
from data_pipeline.environments.full_desktop.app import App, Dialog, Host, Item, Part
from data_pipeline.environments.full_desktop.disk import File, name_of
from data_pipeline.environments.full_desktop.scrolling import WHEEL_LINES, Scroll, bar

_BAR, _STATUS = 14, 11  # heights of the line above and the line below the icons
_ICON, _ROW = (48, 30), 11  # a cell of the icons, a line of the list
OPENS = {"text": "editor", "picture": "paint"}

_PICTURES: dict[str, tuple[Color, tuple[str, ...]]] = {
    "folder": ((226, 176, 72), (".####......", "######.....", "###########", "###########", "###########", "###########", "###########", "###########")),
    "text": ((120, 144, 190), (".#######...", ".#.....##..", ".#.###..#..", ".#......#..", ".#.#####.#.", ".#.......#.", ".#.#####.#.", ".#########.")),
    "picture": ((86, 156, 112), ("###########", "#.........#", "#.##......#", "#.##...#..#", "#.....###.#", "#..#.#####.", "#.########.", "###########")),
}  # fmt: skip


class Files(App):
    name, label, color = "files", "Files", (226, 176, 72)
    icon = (".###....", "#####...", "########", "########", "########", "########", "########", "........")
    usual, least = (153, 92), (105, 72)

    def __init__(self, host: Host, document: str = "") -> None:
        super().__init__(host, document)
        self.selected = ""  # path
        self.view = "icons"
        self._scroll = Scroll()

    @property
    def title(self) -> str:
        return f"{name_of(self.document)} - {self.label}"

    def contents(self) -> dict[str, Any]:
        files = self.host.disk.files
        return {
            "path": self.document,
            "entries": [[name_of(path), files[path].kind] for path in self._entries()],
            "selected": name_of(self.selected) if self.selected else "",
            "view": self.view,
            "first": self._scroll.first,
        }

    def resize(self, width: int, height: int) -> None:
        super().resize(width, height)
        self._settle()

    # Where things are

    def _entries(self) -> list[str]:
        return self.host.disk.entries(self.document)

    @property
    def _area(self) -> Rect:
        """The icons with their scroll bar."""
        return Rect(0, _BAR, self.width, self.height - _BAR - _STATUS)

    @property
    def _columns(self) -> int:
        return (self.width - look.SCROLL_BAR) // _ICON[0] if self.view == "icons" else 1

    @property
    def _shown(self) -> int:
        """Lines of icons that fit."""
        return self._area.h // (_ICON[1] if self.view == "icons" else _ROW)

    @property
    def _lines(self) -> int:
        return -(-len(self._entries()) // self._columns)

    def _settle(self) -> None:
        self._scroll.settle(self._shown, self._lines)

    def refresh(self) -> None:
        if self.document and self.document not in self.host.disk.files:
            self.document, self._scroll = "", Scroll()
        if self.selected not in self._entries():
            self.selected = ""
        self._settle()

    def _cells(self) -> dict[str, Rect]:
        """The visible entries by path."""
        columns, first = self._columns, self._scroll.first * self._columns
        w, h = _ICON if self.view == "icons" else (self.width - look.SCROLL_BAR, _ROW)
        seen = self._entries()[first : first + self._shown * columns]
        return {path: Rect(i % columns * w, _BAR + i // columns * h, w, h) for i, path in enumerate(seen)}

    def parts(self) -> list[Part]:
        found = [Part("Up", Rect(2, 1, 18, 12), "browse" * bool(self.document))]
        found += self._scroll.parts(self._area, self._shown, self._lines)
        return found + [
            Part(f"file {name_of(path)}", rect, self._opening(path) if path == self.selected else "select")
            for path, rect in self._cells().items()
        ]

    def _opening(self, path: str) -> str:
        """The transition that opening `path` causes."""
        kind = self.host.disk.files[path].kind
        return "browse" if kind == "folder" else self.host.launching(OPENS[kind], path)

    def wheel_area(self) -> Rect | None:
        area = self._area
        return Rect(0, area.y, self.width - look.SCROLL_BAR, area.h) if self._lines > self._shown else None

    # What input does

    def press(self, part: str, x: int, y: int) -> list[str]:
        if part == "Up":
            return self._browse(self.document.rpartition("/")[0])
        if not part.startswith("file "):
            return self._scroll.press(part, self._shown, self._lines)
        path = next(path for path, rect in self._cells().items() if rect.contains(x, y))
        if path == self.selected:
            return self._open(path)
        self.selected = path
        return ["select"]

    def wheel(self, notches: float) -> list[str]:
        lines = round(notches * (1 if self.view == "icons" else WHEEL_LINES))
        return self._scroll.by(lines, self._shown, self._lines)

    def key(self, code: str, shift: bool) -> list[str]:
        entries = self._entries()
        if code == "Enter" and self.selected in entries:
            return self._open(self.selected)
        if code == "Backspace":
            return self._browse(self.document.rpartition("/")[0])
        steps = {"ArrowLeft": -1, "ArrowRight": 1, "ArrowUp": -self._columns, "ArrowDown": self._columns}
        if code not in steps or not entries:
            return []
        place = entries.index(self.selected) + steps[code] if self.selected in entries else 0
        if not 0 <= place < len(entries):
            return []
        self.selected = entries[place]
        self._scroll.reveal(place // self._columns, self._shown, self._lines)
        return ["select"]

    def _open(self, path: str) -> list[str]:
        kind = self.host.disk.files[path].kind
        return self._browse(path) if kind == "folder" else self.host.launch(OPENS[kind], path)

    def _browse(self, folder: str) -> list[str]:
        if folder == self.document:
            return []
        self.document, self.selected, self._scroll = folder, "", Scroll()
        return ["browse"]

    # Menus

    def menus(self) -> dict[str, tuple[Item, ...]]:
        chosen = self.selected in self._entries()
        file = (
            Item("Open", chosen and bool(self._opening(self.selected))),
            Item("New folder", self.host.disk.has_room(self.document)),
            Item("Delete...", chosen),
            Item("Close"),
        )
        view = (Item("Icons", self.view != "icons"), Item("List", self.view != "list"))
        return {"File": file, "View": view, **super().menus()}

    def choose(self, menu: str, item: str) -> list[str]:
        match item:
            case "Open":
                return self._open(self.selected)
            case "New folder":
                self.selected = self.host.disk.free_name(self.document, "Folder")
                self.host.disk.files[self.selected] = File("folder")
                place = self._entries().index(self.selected)
                self._scroll.reveal(place // self._columns, self._shown, self._lines)
                return ["create"]
            case "Delete...":
                name = font.fitting(name_of(self.selected), 80)
                return self.host.ask(self, Dialog("delete", (f"Delete {name}?",), ("Delete", "Cancel")))
            case "Icons" | "List":
                self.view, self._scroll = item.lower(), Scroll()
                return ["view"]
        return super().choose(menu, item)

    def answer(self, question: str, button: str, text: str) -> list[str]:
        if question != "delete" or button != "Delete" or self.selected not in self.host.disk.files:
            return []
        self.host.disk.remove(self.selected)
        return ["delete"]

    # The picture

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        area = self._area
        canvas[:] = look.FACE
        look.button(canvas, Rect(2, 1, 18, 12), "Up", hovered == "Up", enabled=bool(self.document))
        place = f"Home/{self.document}" if self.document else "Home"
        look.clipped_text(canvas, 24, 3, place, self.width - 26, look.INK)
        fill(canvas, area, look.PAPER)
        for path, rect in self._cells().items():
            _entry(canvas, rect, name_of(path), self.host.disk.files[path].kind, path == self.selected, hovered)
        up, down, track = bar(area)
        more = self._lines > self._shown
        thumb = look.thumb(track, self._scroll.first, self._shown, self._lines) if more else None
        look.scroll_bar(canvas, up, down, track, thumb, hovered)
        fill(canvas, Rect(0, area.y, self.width, 1), look.EDGE)
        fill(canvas, Rect(0, area.y + area.h, self.width, 1), look.EDGE)
        font.draw(canvas, 3, area.y + area.h + 2, f"{len(self._entries())} things", look.EDGE)

    def vary(self, rng: np.random.Generator) -> None:
        self.document = ("", "Documents", "Pictures")[int(rng.integers(3))]
        self.view = ("icons", "list")[int(rng.integers(2))]


def _entry(canvas: np.ndarray, rect: Rect, name: str, kind: str, selected: bool, hovered: str) -> None:
    if selected or hovered == f"file {name}":
        inside = Rect(rect.x + 1, rect.y + 1, rect.w - 2, rect.h - 2)
        fill(canvas, inside, look.ACCENT_SOFT if selected else look.FACE)
        if selected:
            frame(canvas, inside, look.ACCENT)
    color, picture = _PICTURES[kind]
    if rect.h == _ROW:
        stamp(canvas, rect.x + 3, rect.y + 1, picture, color)
        look.clipped_text(canvas, rect.x + 18, rect.y + 2, name, rect.w - 20, look.INK)
        return
    stamp(canvas, rect.x + (rect.w - 11) // 2, rect.y + 5, picture, color)
    text = font.fitting(name, rect.w - 4)
    font.draw(canvas, rect.x + (rect.w - font.width(text)) // 2 + 1, rect.y + 17, text, look.INK)
