"""A paint program that draws under the pointer: pencil, brush, eraser, lines, boxes, filling."""

import base64
import itertools
import zlib
from typing import Any

import numpy as np

from data_pipeline.environments.desktop_drawing import fill, frame, stamp
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import look
from data_pipeline.environments.full_desktop.app import Host, Item, Part
from data_pipeline.environments.full_desktop.disk import PALETTE, PICTURE_SIZE, File, blank
from data_pipeline.environments.full_desktop.document import Document

_TOOL, _SWATCH, _LEFT, _TOP = 14, 10, 31, 2  # sizes of a tool and a colour, corner of the canvas
_UNDO = 8  # steps that can be taken back

TOOLS: dict[str, tuple[str, ...]] = {
    "pencil": (".....##", "....#.#", "...#.#.", "..#.#..", ".#.#...", "##.....", "#......"),
    "brush": ("......#", ".....##", "....##.", "..###..", ".###...", "####...", "##....."),
    "eraser": ("...####", "..#...#", ".#...##", "#####.#", "#...#.#", "#...##.", "#####.."),
    "line": ("......#", ".....#.", "....#..", "...#...", "..#....", ".#.....", "#......"),
    "box": ("#######", "#.....#", "#.....#", "#.....#", "#.....#", "#.....#", "#######"),
    "fill": ("..#....", ".#.#...", "#...#..", "##.##.#", "####..#", ".##...#", "......."),
}
_WIDTHS = {"brush": 3, "eraser": 7}


class Paint(Document):
    name, label, color = "paint", "Paint", (226, 104, 92)
    icon = ("..####..", ".#....#.", "#.#..#.#", "#......#", "#.#...##", "#...##..", ".#..#...", "..##....")
    usual = least = (_LEFT + PICTURE_SIZE[0] + 3, _TOP + PICTURE_SIZE[1] + 15)
    folder, ending = "Pictures", ".pic"

    def __init__(self, host: Host, document: str = "") -> None:
        super().__init__(host, document)
        stored = host.disk.files[document].picture if document else None
        self.canvas = blank() if stored is None else stored.copy()  # (height, width), places in PALETTE
        self.tool, self.ink = "pencil", 1
        self._undo: list[np.ndarray] = []
        self._base = self.canvas  # before the stroke that is being drawn
        self._start: tuple[int, int] | None = None  # where that began
        self._last = (0, 0)
        self._text = ""  # of the canvas, made when it is asked for

    def contents(self) -> dict[str, Any]:
        self._text = self._text or base64.b64encode(zlib.compress(self.canvas.tobytes(), 9)).decode()
        return {
            "path": self.document,
            "tool": self.tool,
            "ink": self.ink,
            "canvas": self._text,  # base64 of zlib of rows of places in the palette
            "modified": self.modified,
            "undo": len(self._undo),
        }

    # Where things are

    @property
    def zoom(self) -> int:
        """Units to one pixel of the picture."""
        across = (self.width - _LEFT - 3) // PICTURE_SIZE[0]
        return max(1, min(across, (self.height - _TOP - 15) // PICTURE_SIZE[1]))

    @property
    def _paper(self) -> Rect:
        return Rect(_LEFT, _TOP, PICTURE_SIZE[0] * self.zoom, PICTURE_SIZE[1] * self.zoom)

    def _tools(self) -> dict[str, Rect]:
        return {name: Rect(1 + i % 2 * _TOOL, 2 + i // 2 * _TOOL, _TOOL - 1, _TOOL - 1) for i, name in enumerate(TOOLS)}

    def _swatches(self) -> list[Rect]:
        top = self.height - _SWATCH - 1
        return [Rect(2 + i * _SWATCH, top, _SWATCH - 1, _SWATCH - 1) for i in range(len(PALETTE))]

    def parts(self) -> list[Part]:
        tools = [Part(name, rect, "click" * (name != self.tool)) for name, rect in self._tools().items()]
        swatches = [Part(f"colour {i}", r, "click" * (i != self.ink)) for i, r in enumerate(self._swatches())]
        return [Part("canvas", self._paper, "draw", "cross"), *tools, *swatches]

    # What input does

    def press(self, part: str, x: int, y: int) -> list[str]:
        if part == "canvas":
            return self._begin(self._pixel(x, y))
        before = (self.tool, self.ink)
        if part in TOOLS:
            self.tool = part
        elif part.startswith("colour "):
            self.ink = int(part.removeprefix("colour "))
        return ["click"] if (self.tool, self.ink) != before else []

    def drag(self, x: int, y: int) -> list[str]:
        if self._start is None or self.tool == "fill":
            return []
        to = self._pixel(x, y)
        if self.tool in ("line", "box"):
            picture = self._base.copy()
            _shape(picture, self.tool, self._start, to, self.ink)
        else:
            picture = self.canvas.copy()
            _stroke(picture, self._last, to, self._color, _WIDTHS.get(self.tool, 1))
        self._last = to
        return self._show(picture)

    def release(self) -> list[str]:
        self._start = None
        return []

    @property
    def _color(self) -> int:
        return 0 if self.tool == "eraser" else self.ink

    def _pixel(self, x: int, y: int) -> tuple[int, int]:
        """The pixel of the picture under (x, y); the nearest one where that is outside."""
        paper, zoom = self._paper, self.zoom
        across = min(max((x - paper.x) // zoom, 0), PICTURE_SIZE[0] - 1)
        return across, min(max((y - paper.y) // zoom, 0), PICTURE_SIZE[1] - 1)

    def _begin(self, at: tuple[int, int]) -> list[str]:
        self._base = self.canvas
        self._start = self._last = at
        picture = self.canvas.copy()
        if self.tool == "fill":
            picture[flooded(picture, at)] = self.ink
        else:
            _stroke(picture, at, at, self._color, _WIDTHS.get(self.tool, 1))
        return self._show(picture)

    def _show(self, picture: np.ndarray) -> list[str]:
        if np.array_equal(picture, self.canvas):
            return []
        if self.canvas is self._base:  # the stroke's first change
            self._undo = [*self._undo[1 - _UNDO :], self._base]
        self.canvas, self.modified, self._text = picture, True, ""
        return ["draw"]

    # Menus

    def menus(self) -> dict[str, tuple[Item, ...]]:
        image = (
            Item("Undo", bool(self._undo)),
            Item("Clear", bool(self.canvas.any())),
            Item("Mirror", not np.array_equal(self.canvas, self.canvas[:, ::-1])),
            Item("Flip", not np.array_equal(self.canvas, self.canvas[::-1])),
        )
        return {"File": self.file_menu(), "Image": image, **super().menus()}

    def choose(self, menu: str, item: str) -> list[str]:
        if item == "Undo":
            self.canvas, self.modified, self._text = self._undo.pop(), True, ""
            return ["undo"]
        made = {"Clear": blank(), "Mirror": self.canvas[:, ::-1].copy(), "Flip": self.canvas[::-1].copy()}
        if item not in made:
            return super().choose(menu, item)
        self._base = self.canvas
        return self._show(made[item])

    def stored(self) -> File:
        return File("picture", picture=self.canvas.copy())

    # The picture

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        canvas[:] = look.FACE
        for name, rect in self._tools().items():
            look.button(canvas, rect, "", name == hovered, down=name == self.tool)
            stamp(canvas, rect.x + 3, rect.y + 3, TOOLS[name], look.INK)
        current = Rect(3, 2 + 3 * _TOOL + 2, 23, 11)
        fill(canvas, current, PALETTE[self.ink])
        frame(canvas, current, look.EDGE)
        paper, zoom = self._paper, self.zoom
        frame(canvas, Rect(paper.x - 1, paper.y - 1, paper.w + 2, paper.h + 2), look.EDGE)
        colors = np.array(PALETTE, dtype=np.uint8)[self.canvas]
        canvas[paper.y : paper.y + paper.h, paper.x : paper.x + paper.w] = colors.repeat(zoom, 0).repeat(zoom, 1)
        for number, rect in enumerate(self._swatches()):
            fill(canvas, rect, PALETTE[number])
            lit, chosen = hovered == f"colour {number}", number == self.ink
            frame(canvas, rect, look.ACCENT if lit else look.INK if chosen else look.EDGE)

    def vary(self, rng: np.random.Generator) -> None:
        self.tool = list(TOOLS)[int(rng.integers(len(TOOLS)))]
        self.ink = int(rng.integers(1, len(PALETTE)))


def _stroke(picture: np.ndarray, start: tuple[int, int], end: tuple[int, int], color: int, width: int) -> None:
    """A straight line as wide as a square brush of `width`."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1])) + 1
    xs = np.rint(np.linspace(start[0], end[0], steps)).astype(int)
    ys = np.rint(np.linspace(start[1], end[1], steps)).astype(int)
    reach = np.arange(width) - width // 2
    height, across = picture.shape
    rows = np.clip(ys[:, None, None] + reach[:, None], 0, height - 1)
    columns = np.clip(xs[:, None, None] + reach, 0, across - 1)
    picture[rows, columns] = color


def _shape(picture: np.ndarray, tool: str, start: tuple[int, int], end: tuple[int, int], color: int) -> None:
    corners = [start, end] if tool == "line" else [start, (end[0], start[1]), end, (start[0], end[1]), start]
    for a, b in itertools.pairwise(corners):
        _stroke(picture, a, b, color, 1)


def flooded(picture: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: the pixels of one colour that hang together with the one at (x, y), by their sides."""
    same = picture == picture[at[1], at[0]]
    found = np.zeros_like(same)
    found[at[1], at[0]] = True
    before = 0
    while (count := int(found.sum())) != before:
        before = count
        for _ in range(8):
            grown = found.copy()
            grown[1:] |= found[:-1]
            grown[:-1] |= found[1:]
            grown[:, 1:] |= found[:, :-1]
            grown[:, :-1] |= found[:, 1:]
            found = grown & same
    return found
