"""The full desktop's applications against slow references: arithmetic, a list of letters, flooding pixel by pixel."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import numpy as np
import pytest

from data_pipeline.environments.full_desktop.calculator import BUTTONS, DIGITS, Calculator, compute
from data_pipeline.environments.full_desktop.desktop import Desktop
from data_pipeline.environments.full_desktop.disk import PICTURE_SIZE
from data_pipeline.environments.full_desktop.editor import MOST_LETTERS, Editor
from data_pipeline.environments.full_desktop.files import Files
from data_pipeline.environments.full_desktop.paint import TOOLS, Paint, flooded
from data_pipeline.environments.full_desktop.scrolling import Scroll


def room() -> Desktop:
    return Desktop(256, 192, 2)


def pressed(buttons: str) -> str:
    calculator = Calculator(room())
    for button in re.findall(r"\+/-|.", buttons):
        calculator.press(button, 0, 0)
    return calculator.shown


@pytest.mark.parametrize(
    ("buttons", "shown"),
    [
        ("1+2=", "3"), ("7*8-6/2=", "25"), ("1/3=", "0.333333333"), ("5/0=", "Error"), ("5/0=7C3", "3"), ("0.1+0.2=", "0.3"),
        ("50%", "0.5"), ("9+/-", "-9"), ("12<", "1"), ("2+3=4", "4"), ("2+*3=", "6"), ("9999999999*9999999999=", "Error"),
        ("1.2.3", "1.23"), ("007", "7"), ("3=", "3"),
    ],
)  # fmt: skip
def test_a_calculator_computes(buttons: str, shown: str) -> None:
    assert pressed(buttons) == shown


def test_whole_numbers_from_left_to_right_as_fractions_do() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        value = Fraction(int(rng.integers(1, 99)))
        buttons = str(value)
        for _ in range(int(rng.integers(1, 4))):
            operation, number = str(rng.choice(["+", "-", "*"])), int(rng.integers(0, 99))
            buttons += f"{operation}{number}"
            value = {"+": value + number, "-": value - number, "*": value * number}[operation]
        assert pressed(buttons + "=") == str(value)


def test_division_is_right_to_the_last_digit() -> None:
    rng = np.random.default_rng(1)
    for a, b in rng.integers(1, 10**6, (100, 2)).tolist():
        quotient = compute(Decimal(a), "/", Decimal(b))
        assert abs(Fraction(quotient) - Fraction(a, b)) <= Fraction(a, b) / 10 ** (DIGITS - 1)
    with pytest.raises(InvalidOperation):
        compute(Decimal(1), "/", Decimal(0))


def test_any_buttons_show_a_number_that_fits_and_say_whether_they_change_something() -> None:
    rng = np.random.default_rng(2)
    calculator = Calculator(room())
    for _ in range(2000):
        button = BUTTONS[int(rng.integers(len(BUTTONS)))]
        kinds = {part.name: part.kind for part in calculator.parts()}
        before = calculator.contents()
        assert bool(calculator.press(button, 0, 0)) == bool(kinds[button]) == (calculator.contents() != before)
        assert calculator.shown == "Error" or sum(map(str.isdigit, calculator.shown)) <= DIGITS + 1


class Plain:
    """An editor as a list of letters."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.caret = 0

    def key(self, code: str) -> None:
        match code:
            case "ArrowLeft":
                self.caret = max(self.caret - 1, 0)
            case "ArrowRight":
                self.caret = min(self.caret + 1, len(self.letters))
            case "Backspace" if self.caret:
                self.caret -= 1
                del self.letters[self.caret]
            case "Delete" if self.caret < len(self.letters):
                del self.letters[self.caret]
            case "Enter":
                self._insert("\n")
            case _ if code.startswith("Key"):
                self._insert(code[3].lower())

    def _insert(self, letter: str) -> None:
        self.letters.insert(self.caret, letter)
        self.caret += 1


def test_an_editor_edits_as_a_list_of_letters_does() -> None:
    rng = np.random.default_rng(3)
    codes = ("KeyA", "KeyW", "KeyI", "Enter", "Backspace", "Delete", "ArrowLeft", "ArrowRight", "ArrowLeft", "KeyM")
    editor, plain = Editor(room()), Plain()
    for _ in range(800):
        code = codes[int(rng.integers(len(codes)))]
        editor.key(code, shift=False)
        plain.key(code)
        assert (editor.text, editor.caret) == ("".join(plain.letters), plain.caret)
    assert len(editor.text) > 30


def test_lines_hold_the_whole_text_and_the_caret_is_in_view() -> None:
    rng = np.random.default_rng(4)
    editor = Editor(room())
    codes = ("KeyW", "Space", "Enter", "ArrowUp", "ArrowDown", "Home", "End", "KeyL", "KeyM")
    for _ in range(600):
        editor.key(codes[int(rng.integers(len(codes)))], shift=bool(rng.integers(2)))
        lines = editor.lines()
        assert "".join(editor.text[a:b] for a, b in lines) == editor.text.replace("\n", "")
        assert 0 <= editor._line_of_caret(lines) - editor._scroll.first < editor._rows
    assert len(lines) > editor._rows


def test_a_press_puts_the_caret_where_it_points() -> None:
    editor = Editor(room())
    for code in ("KeyW", "KeyI", "KeyM", "Enter", "KeyL", "KeyL"):
        editor.key(code, shift=False)
    assert editor.press("line 0", 3 + 6, 5) == ["caret"]
    assert editor.caret == 1  # after the w, six wide
    assert editor.press("line 0", 100, 5) == ["caret"]
    assert editor.caret == 3
    assert editor.press("below", 0, 60) == ["caret"]
    assert editor.caret == 6


def test_undo_brings_the_text_back_and_forth() -> None:
    editor = Editor(room())
    for code in ("KeyA", "KeyB"):
        editor.key(code, shift=False)
    for text in ("a", "ab", "a"):
        assert editor.choose("Edit", "Undo") == ["undo"]
        assert editor.text == text
    assert editor.choose("Edit", "Copy line") == ["type"]
    assert editor.text == "a\na"
    assert editor.choose("Edit", "Delete line") == ["type"]
    assert editor.text == "a"


def test_a_full_page_takes_no_more() -> None:
    editor = Editor(room())
    editor.text = "x" * MOST_LETTERS
    assert editor.key("KeyA", shift=False) == []
    assert not any(part.kind == "type" for part in editor.parts())


def test_flooding_is_what_a_walk_over_neighbours_finds() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        picture = (rng.random((13, 17)) < 0.4).astype(np.uint8)
        x, y = int(rng.integers(17)), int(rng.integers(13))
        ahead, found = [(x, y)], {(x, y)}
        while ahead:
            a, b = ahead.pop()
            for nx, ny in ((a + 1, b), (a - 1, b), (a, b + 1), (a, b - 1)):
                if 0 <= nx < 17 and 0 <= ny < 13 and picture[ny, nx] == picture[y, x] and (nx, ny) not in found:
                    found.add((nx, ny))
                    ahead.append((nx, ny))
        assert {(int(a), int(b)) for b, a in np.argwhere(flooded(picture, (x, y)))} == found


@pytest.mark.parametrize("tool", TOOLS)
def test_paint_goes_where_the_pointer_is_and_undo_takes_it_back(tool: str) -> None:
    paint = Paint(room())
    paint.canvas[:, 40:] = 5
    before, paper = paint.canvas.copy(), paint._paper
    paint.press(tool, 0, 0)
    paint.press("colour 3", 0, 0)
    assert paint.press("canvas", paper.x + 50, paper.y + 20) == ["draw"]
    color = 0 if tool == "eraser" else 3
    assert paint.canvas[20, 50] == color
    if tool != "fill":
        assert paint.drag(paper.x + 70, paper.y + 30) == ["draw"]
        assert paint.canvas[30, 70] == color
        assert paint.canvas[25, 60] == (5 if tool == "box" else color)
        assert paint.drag(-99, 999) == ["draw"]  # outside: as near as the picture goes
        assert paint.canvas[-1, 0] == color
    paint.release()
    assert paint.drag(paper.x, paper.y) == []
    assert paint.choose("Image", "Undo") == ["undo"]
    assert np.array_equal(paint.canvas, before)
    assert not paint.menus()["Image"][0].enabled


def test_mirrored_twice_is_as_before() -> None:
    paint = Paint(room())
    paint.canvas[:] = np.random.default_rng(6).integers(0, 9, PICTURE_SIZE[::-1])
    before = paint.canvas.copy()
    for item in ("Mirror", "Flip", "Mirror", "Flip"):
        assert paint.choose("Image", item) == ["draw"]
    assert np.array_equal(paint.canvas, before)


def test_scrolling_there_and_back() -> None:
    scroll = Scroll()
    for lines in (3, -1, 40, -5):
        scroll.by(lines, shown=6, total=20)
        assert 0 <= scroll.first <= 14
    assert scroll.first == 9
    assert scroll.by(-99, 6, 20) == ["scroll"]
    assert (scroll.first, scroll.by(-1, 6, 20)) == (0, [])
    scroll.reveal(17, 6, 20)
    assert scroll.first == 12


def test_files_opens_what_its_icons_name() -> None:
    desktop = room()
    desktop.disk.vary(np.random.default_rng(8))
    desktop.launch("files", "")
    files = desktop.windows[0].app
    assert isinstance(files, Files)
    for path, kind in (("Documents", "browse"), ("Pictures", "browse")):
        files.selected = path
        assert files._open(path) == [kind]
        assert files.document == path
        inside = [name for name in files._entries() if desktop.disk.files[name].kind != "folder"]
        assert files._open(inside[0]) == ["open"]
        assert desktop.windows[-1].app.document == inside[0]
        assert files._open(inside[0]) == []  # it is in front already
        assert files.press("Up", 0, 0) == ["browse"]
