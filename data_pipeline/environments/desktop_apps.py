"""The applications of the simulated desktop, one small class each. A new one is a class here and a name in APPS."""

import abc
from typing import Any, ClassVar

import numpy as np

from data_pipeline.environments.bitmap_font import ADVANCE, GLYPHS, HEIGHT, LINE, draw_text
from data_pipeline.environments.desktop_drawing import GREY, INK, PAPER, WHITE, Color, fill, frame, mix, stamp
from data_pipeline.environments.environment import Rect


class App(abc.ABC):
    """What is inside one window: what it holds, how it looks, how it answers. Coordinates count from its top left."""

    name: ClassVar[str]
    title: ClassVar[str]
    color: ClassVar[Color]
    icon: ClassVar[tuple[str, ...]]
    takes_text: ClassVar[bool] = False

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    @abc.abstractmethod
    def contents(self) -> dict[str, Any]:
        """All that the picture depends on, JSON-able and hashable."""

    @abc.abstractmethod
    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        """Paint `canvas` (height, width, 3) as a function of the contents and the two arguments only."""

    def controls(self) -> dict[str, Rect]:
        """What can be pressed, by name."""
        return {}

    def press(self, control: str) -> bool:
        """Whether pressing `control` changed the contents."""
        return False

    def key(self, code: str) -> bool:
        """Whether the key changed the contents."""
        return False

    @abc.abstractmethod
    def vary(self, rng: np.random.Generator, keys: tuple[str, ...]) -> None:
        """Take contents that a person with `keys` could have made, drawn from `rng`."""


class Notes(App):
    """A page that takes letters; it ends where it is full. The caret does not blink: a frame depends on no clock."""

    name, title, color = "notes", "NOTES", (250, 178, 44)
    icon = ("#####", "#...#", "#####", "#...#", "#####")
    takes_text = True
    _margin: ClassVar[int] = 3

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.columns = (width - 2 * self._margin) // ADVANCE
        self.rows = (height - self._margin) // LINE
        self.text = ""

    def contents(self) -> dict[str, Any]:
        return {"text": self.text}

    def key(self, code: str) -> bool:
        before = self.text
        if code == "Backspace":
            self.text = before[:-1]
        elif code == "Enter":
            self._append("\n")
        elif letter_of(code):
            self._append(letter_of(code))
        return self.text != before

    def lines(self) -> list[str]:
        """The text as it stands on the page: broken where a line is full."""
        lines = []
        for line in self.text.split("\n"):
            pieces = [line[i : i + self.columns] for i in range(0, len(line), self.columns)]
            lines += pieces or [""]
        return lines

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        canvas[:] = PAPER
        lines = self.lines()
        for row, line in enumerate(lines):
            draw_text(canvas, self._margin, self._margin + row * LINE, line, INK)
        if focused:
            row, column = len(lines) - 1, len(lines[-1])
            left, top = self._margin + column * ADVANCE - 1, self._margin + row * LINE
            fill(canvas, Rect(left, top, 1, HEIGHT), self.color)

    def vary(self, rng: np.random.Generator, keys: tuple[str, ...]) -> None:
        writing = [key for key in keys if letter_of(key) or key == "Enter"]
        for _ in range(int(rng.integers(0, 12)) if writing else 0):
            self.key(writing[int(rng.integers(len(writing)))])

    def _append(self, letter: str) -> None:
        before = self.text
        self.text += letter
        if len(self.lines()) > self.rows:
            self.text = before


class Colors(App):
    """Four squares of colour; pressing one fills the large swatch with it."""

    name, title, color = "colors", "COLOR", (226, 84, 160)
    icon = (".###.", "#####", "#####", "#####", ".###.")
    _paints: ClassVar[dict[str, Color]] = {
        "red": (230, 48, 44),
        "green": (36, 176, 76),
        "blue": (40, 92, 232),
        "gold": (252, 208, 36),
    }

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.chosen = ""

    def contents(self) -> dict[str, Any]:
        return {"chosen": self.chosen}

    def controls(self) -> dict[str, Rect]:
        left = self.width * 2 // 5 + 3
        w, h = (self.width - left - 1) // 2, (self.height - 1) // 2
        return {name: Rect(left + w * (i % 2), 1 + h * (i // 2), w - 1, h - 1) for i, name in enumerate(self._paints)}

    def press(self, control: str) -> bool:
        changed = self.chosen != control
        self.chosen = control
        return changed

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        canvas[:] = (70, 72, 84)
        swatch = Rect(2, 2, self.width * 2 // 5 - 1, self.height - 4)
        fill(canvas, swatch, self._paints.get(self.chosen, WHITE))
        frame(canvas, swatch, INK)
        for name, rect in self.controls().items():
            fill(canvas, rect, self._paints[name])
            frame(canvas, rect, WHITE if name == hovered else INK)

    def vary(self, rng: np.random.Generator, keys: tuple[str, ...]) -> None:
        self.chosen = ("", *self._paints)[int(rng.integers(1 + len(self._paints)))]


class Tasks(App):
    """A list of things to do; pressing a row checks or unchecks its box."""

    name, title, color = "tasks", "TASKS", (64, 186, 120)
    icon = ("....#", "...##", "#.##.", "###..", ".#...")
    _labels: ClassVar[tuple[str, ...]] = ("BREAD", "MUSIC", "SLEEP")
    _row: ClassVar[int] = 7

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.checked = [False] * len(self._labels)

    def contents(self) -> dict[str, Any]:
        return {"checked": tuple(self.checked)}

    def controls(self) -> dict[str, Rect]:
        return {label: Rect(0, i * self._row, self.width, self._row) for i, label in enumerate(self._labels)}

    def press(self, control: str) -> bool:
        i = self._labels.index(control)
        self.checked[i] = not self.checked[i]
        return True

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        canvas[:] = PAPER
        for (label, rect), checked in zip(self.controls().items(), self.checked, strict=True):
            if label == hovered:
                fill(canvas, rect, mix(PAPER, self.color, 0.35))
            box = Rect(rect.x + 3, rect.y + 1, 5, 5)
            fill(canvas, box, (20, 140, 80) if checked else WHITE)
            frame(canvas, box, INK)
            draw_text(canvas, box.x + 8, box.y, label, GREY if checked else INK)
            if checked:
                stamp(canvas, box.x + 1, box.y + 1, ("..#", "#.#", ".#."), WHITE)

    def vary(self, rng: np.random.Generator, keys: tuple[str, ...]) -> None:
        self.checked = [bool(rng.integers(2)) for _ in self._labels]


APPS: dict[str, type[App]] = {app.name: app for app in (Notes, Colors, Tasks)}


def letter_of(code: str) -> str:
    """The letter that a key writes, by its physical code; empty for a key that writes none."""
    if code == "Space":
        return " "
    letter = code.removeprefix("Key").removeprefix("Digit")
    return letter if len(letter) == 1 and letter in GLYPHS else ""
