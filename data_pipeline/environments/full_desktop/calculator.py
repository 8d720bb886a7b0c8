"""A calculator that computes, from left to right, as pocket calculators do."""

from decimal import Context, Decimal, InvalidOperation
from typing import Any

import numpy as np

from data_pipeline.environments.desktop_drawing import fill, frame
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import font, keys, look
from data_pipeline.environments.full_desktop.app import App, Host, Part

DIGITS = 10  # that it computes and shows
_CONTEXT = Context(prec=DIGITS, Emax=99, Emin=-99)
_LARGEST = Decimal(10) ** DIGITS
_FACE = (("C", "+/-", "%", "/"), ("7", "8", "9", "*"), ("4", "5", "6", "-"), ("1", "2", "3", "+"), ("0", ".", "<", "="))
BUTTONS = tuple(name for row in _FACE for name in row)
_KEYS = {"Enter": "=", "Backspace": "<", "Escape": "C", "Delete": "C"}
_BUTTON, _DISPLAY = (19, 13), 16


class Calculator(App):
    name, label, color = "calculator", "Calculator", (92, 168, 104)
    icon = ("########", "#......#", "########", "#.##.#.#", "########", "#.##.#.#", "########", "########")
    usual = least = (4 * (_BUTTON[0] + 1) + 3, _DISPLAY + 5 * (_BUTTON[1] + 1) + 4)
    resizable = False

    def __init__(self, host: Host, document: str = "") -> None:
        super().__init__(host, document)
        self.shown = "0"
        self._first: Decimal | None = None  # what stands left of the pending operation
        self._pending = ""
        self._fresh = True  # the next digit begins a new number

    @property
    def title(self) -> str:
        return self.label

    def contents(self) -> dict[str, Any]:
        first = "" if self._first is None else format(self._first)
        return {"shown": self.shown, "first": first, "pending": self._pending, "fresh": self._fresh}

    def _rects(self) -> dict[str, Rect]:
        w, h = _BUTTON
        return {
            name: Rect(2 + column * (w + 1), _DISPLAY + 2 + row * (h + 1), w, h)
            for row, names in enumerate(_FACE)
            for column, name in enumerate(names)
        }

    def parts(self) -> list[Part]:
        return [Part(name, rect, "click" * self._would_change(name)) for name, rect in self._rects().items()]

    def _would_change(self, button: str) -> bool:
        before = self._memory()
        changed = bool(self._push(button))
        self.shown, self._first, self._pending, self._fresh = before
        return changed

    def _memory(self) -> tuple[str, Decimal | None, str, bool]:
        return self.shown, self._first, self._pending, self._fresh

    def press(self, part: str, x: int, y: int) -> list[str]:
        return ["click"] if part in BUTTONS and self._push(part) else []

    def key(self, code: str, shift: bool) -> list[str]:
        button = _KEYS.get(code) or keys.letter(code, shift)
        return ["type"] if button in BUTTONS and button and self._push(button) else []

    def _push(self, button: str) -> bool:
        """Whether the button changed anything."""
        before = self._memory()
        if button == "C":
            self.shown, self._first, self._pending, self._fresh = "0", None, "", True
        elif self.shown == "Error":
            return False  # until it is cleared
        elif button.isdigit() or button == ".":
            self._write(button)
        elif button == "<":
            self.shown = self.shown[:-1] if not self._fresh and len(self.shown.lstrip("-")) > 1 else "0"
        elif button in ("+/-", "%"):
            value = self._value()
            self._show(-value if button == "+/-" else _CONTEXT.divide(value, Decimal(100)))
        else:
            self._operate(button)
        return self._memory() != before

    def _value(self) -> Decimal:
        return Decimal(self.shown)

    def _write(self, mark: str) -> None:
        shown = "0" if self._fresh else self.shown
        if mark == ".":
            shown += "" if "." in shown else "."
        elif sum(letter.isdigit() for letter in shown) < DIGITS or shown == "0":
            shown = mark if shown == "0" else shown + mark
        self.shown, self._fresh = shown, False

    def _operate(self, button: str) -> None:
        """Work out what was pending; `button` waits for its second number, = for none."""
        if self._pending and self._first is not None and not self._fresh:
            try:
                self._show(compute(self._first, self._pending, self._value()))
            except InvalidOperation:
                self.shown, self._first, self._pending = "Error", None, ""
                return
        if self.shown == "Error":
            self._first, self._pending = None, ""
            return
        self._first = None if button == "=" else self._value()
        self._pending = "" if button == "=" else button
        self._fresh = True

    def _show(self, value: Decimal) -> None:
        self.shown = written(value)

    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        canvas[:] = look.FACE
        display = Rect(2, 2, self.width - 4, _DISPLAY - 3)
        fill(canvas, display, (222, 234, 220))
        frame(canvas, display, look.EDGE)
        font.draw(canvas, display.x + display.w - 3 - font.width(self.shown), display.y + 3, self.shown, look.INK)
        font.draw(canvas, display.x + 3, display.y + 3, self._pending, look.EDGE)
        for name, rect in self._rects().items():
            look.button(canvas, rect, name, name == hovered, down=name in "/*-+=")

    def vary(self, rng: np.random.Generator) -> None:
        for _ in range(int(rng.integers(0, 8))):
            self._push(BUTTONS[int(rng.integers(len(BUTTONS)))])


def compute(a: Decimal, operation: str, b: Decimal) -> Decimal:
    """`a` and `b` by one of + - * /, to DIGITS digits; InvalidOperation for a division by zero."""
    if operation == "/" and b == 0:
        raise InvalidOperation
    does = {"+": _CONTEXT.add, "-": _CONTEXT.subtract, "*": _CONTEXT.multiply, "/": _CONTEXT.divide}
    return does[operation](a, b)


def written(value: Decimal) -> str:
    """`value` as the display shows it; Error where it has too many digits before the point."""
    if abs(value) >= _LARGEST:
        return "Error"
    places = DIGITS - 1 - max(value.adjusted(), 0) if value else 0
    rounded = value.quantize(Decimal(1).scaleb(-places), context=Context(prec=2 * DIGITS))
    text = format(rounded, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
