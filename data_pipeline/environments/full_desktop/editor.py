"""A text editor: a caret that goes everywhere, wrapped lines, a scroll bar, one step of undo."""

import functools
from typing import Any

import numpy as np

from data_pipeline.environments.desktop_drawing import fill
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import font, keys, look
from data_pipeline.environments.full_desktop.app import Host, Item, Part
from data_pipeline.environments.full_desktop.disk import File
from data_pipeline.environments.full_desktop.document import Document
from data_pipeline.environments.full_desktop.scrolling import WHEEL_LINES, Scroll, bar

_MARGIN = 3
_STATUS = 11  # height of the line below the text
MOST_LETTERS = 1500

Lines = tuple[tuple[int, int], ...]  # beginning and end in the text of each line as it stands


@functools.lru_cache(256)
def wrapped(text: str, room: int) -> Lines:
    """The lines of `text`, at most `room` units wide; where a line is full, the next begins at its end."""
    found, start, used = [], 0, 0
    for place, letter in enumerate(text):
        if letter == "\n":
            found.append((start, place))
            start, used = place + 1, 0
            continue
        step = font.ADVANCE[letter]
        if used + step > room:
            found.append((start, place))
            start, used = place, 0
        used += step
    return (*found, (start, len(text)))


class Editor(Document):
    name, label, color = "editor", "Editor", (64, 128, 214)
    icon = ("#######.", "#.....##", "#.####.#", "#......#", "#.####.#", "#......#", "#.###..#", "########")
    usual, least = (138, 92), (104, 56)
    folder, ending = "Documents", ".txt"

    def __init__(self, host: Host, document: str = "") -> None:
        super().__init__(host, document)
        self.text = host.disk.files[document].text if document else ""
        self.caret = len(self.text)
        self._before: tuple[str, int] | None = None  # text and caret that undo brings back
        self._scroll = Scroll()
        self._reveal()

    def contents(self) -> dict[str, Any]:
        return {
            "path": self.document,
            "text": self.text,
            "caret": self.caret,
            "first": self._scroll.first,
            "modified": self.modified,
            "can_undo": self._before is not None,
        }

    def resize(self, width: int, height: int) -> None:
        super().resize(width, height)
        self._reveal()

    # Where things are

    @property
    def _area(self) -> Rect:
        """The text with its scroll bar."""
        return Rect(0, 0, self.width, self.height - _STATUS)

    @property
    def _rows(self) -> int:
        return (self._area.h - _MARGIN) // font.LINE

    def lines(self) -> Lines:
        return wrapped(self.text, self.width - look.SCROLL_BAR - 2 * _MARGIN)

    def _line_of_caret(self, lines: Lines) -> int:
        return max(number for number, (start, _) in enumerate(lines) if start <= self.caret)

    def _place(self, lines: Lines, number: int, x: int) -> int:
        """The place in the text nearest to column x of a line; before its last letter where the line only wraps there."""
        start, end = lines[number]
        wraps = number + 1 < len(lines) and lines[number + 1][0] == end
        places = range(start, end if wraps else end + 1)
        return min(places, key=lambda place: abs(font.width(self.text[start:place]) + _MARGIN - x))

    def parts(self) -> list[Part]:
        lines, first = self.lines(), self._scroll.first
        here, width = self._line_of_caret(lines), self.width - look.SCROLL_BAR
        found = self._scroll.parts(self._area, self._rows, len(lines))
        seen = range(first, min(first + self._rows, len(lines)))
        for number in seen:
            row = Rect(0, _MARGIN + (number - first) * font.LINE, width, font.LINE)
            can_type = "type" * (len(self.text) < MOST_LETTERS)
            found.append(Part(f"line {number - first}", row, can_type if number == here else "caret", "text"))
        top = _MARGIN + len(seen) * font.LINE
        if top < self._area.h:
            below = Rect(0, top, width, self._area.h - top)
            found.append(Part("below", below, "caret" * (self.caret < len(self.text)), "text"))
        return found

    def wheel_area(self) -> Rect | None:
        return Rect(0, 0, self.width - look.SCROLL_BAR, self._area.h) if len(self.lines()) > self._rows else None

    # What input does

    def press(self, part: str, x: int, y: int) -> list[str]:
        lines, before = self.lines(), self.caret
        if part == "below":
            self.caret = len(self.text)
        elif part.startswith("line "):
            self.caret = self._place(lines, self._scroll.first + int(part.removeprefix("line ")), x)
        else:
            return self._scroll.press(part, self._rows, len(lines))
        return ["caret"] if self.caret != before else []

    def wheel(self, notches: float) -> list[str]:
        return self._scroll.by(round(notches * WHEEL_LINES), self._rows, len(self.lines()))

    def key(self, code: str, shift: bool) -> list[str]:
        if code in keys.MOVES:
            return self._go(code)
        if code == "Backspace":
            return self._replace(max(self.caret - 1, 0), self.caret, "")
        if code == "Delete":
            return self._replace(self.caret, min(self.caret + 1, len(self.text)), "")
        return self._replace(self.caret, self.caret, "\n" if code == "Enter" else keys.letter(code, shift))

    def _go(self, code: str) -> list[str]:
        lines, before, first = self.lines(), self.caret, self._scroll.first
        here = self._line_of_caret(lines)
        start, _ = lines[here]
        x = font.width(self.text[start:before]) + _MARGIN
        match code:
            case "ArrowLeft" | "ArrowRight":
                self.caret = min(max(before + (1 if code == "ArrowRight" else -1), 0), len(self.text))
            case "Home":
                self.caret = start
            case "End":
                self.caret = self._place(lines, here, 1 << 20)
            case "ArrowUp" | "ArrowDown":
                there = here + (1 if code == "ArrowDown" else -1)
                self.caret = self._place(lines, there, x) if 0 <= there < len(lines) else before
        self._reveal()
        scrolled = ["scroll"] if self._scroll.first != first and self.caret == before else []
        return ["caret"] if self.caret != before else scrolled

    def _replace(self, start: int, end: int, by: str) -> list[str]:
        """Put `by` in the place of what stands from start to end."""
        if (start == end and not by) or len(self.text) - (end - start) + len(by) > MOST_LETTERS:
            return []
        self._before = (self.text, self.caret)
        self.text = self.text[:start] + by + self.text[end:]
        self.caret, self.modified = start + len(by), True
        self._reveal()
        return ["type"]

    def _reveal(self) -> None:
        lines = self.lines()
        self._scroll.reveal(self._line_of_caret(lines), self._rows, len(lines))

    # Menus

    def menus(self) -> dict[str, tuple[Item, ...]]:
        edit = (
            Item("Undo", self._before is not None),
            Item("Delete line", bool(self.text)),
            Item("Copy line", self._whole_line()[1] - self._whole_line()[0] + 1 + len(self.text) <= MOST_LETTERS),
            Item("Clear", bool(self.text)),
        )
        return {"File": self.file_menu(), "Edit": edit, **super().menus()}

    def choose(self, menu: str, item: str) -> list[str]:
        start, end = self._whole_line()
        match item:
            case "Undo" if self._before is not None:
                before = self._before
                self._before = (self.text, self.caret)
                (self.text, self.caret), self.modified = before, True
                self._reveal()
                return ["undo"]
            case "Delete line":
                return self._replace(
                    max(start - 1, 0) if end == len(self.text) else start, min(end + 1, len(self.text)), ""
                )
            case "Copy line":
                return self._replace(end, end, "\n" + self.text[start:end])
            case "Clear":
                return self._replace(0, len(self.text), "")
        return super().choose(menu, item)

    def _whole_line(self) -> tuple[int, int]:
        """Beginning and end of the line that the caret is in, wrapped or not, without its line break."""
        start = self.text.rfind("\n", 0, self.caret) + 1
        end = self.text.find("\n", self.caret)
        return start, len(self.text) if end < 0 else end

    def stored(self) -> File:
        return File("text", text=self.text)

    # The picture

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        lines, first, area = self.lines(), self._scroll.first, self._area
        fill(canvas, area, look.PAPER)
        for row, (start, end) in enumerate(lines[first : first + self._rows]):
            font.draw(canvas, _MARGIN, _MARGIN + row * font.LINE, self.text[start:end], look.INK)
        here = self._line_of_caret(lines)
        if focused and first <= here < first + self._rows:
            x = _MARGIN + font.width(self.text[lines[here][0] : self.caret]) - 1
            fill(canvas, Rect(x, _MARGIN + (here - first) * font.LINE - 1, 1, font.LINE), look.ACCENT)
        up, down, track = bar(area)
        total = len(lines)
        thumb = look.thumb(track, first, self._rows, total) if total > self._rows else None
        look.scroll_bar(canvas, up, down, track, thumb, hovered)
        fill(canvas, Rect(0, area.h, self.width, _STATUS), look.FACE)
        fill(canvas, Rect(0, area.h, self.width, 1), look.EDGE)
        line = self.text.count("\n", 0, self.caret) + 1
        font.draw(canvas, _MARGIN, area.h + 2, f"Line {line} of {self.text.count(chr(10)) + 1}", look.EDGE)

    def vary(self, rng: np.random.Generator) -> None:
        self.caret = int(rng.integers(len(self.text) + 1))
        self._reveal()
