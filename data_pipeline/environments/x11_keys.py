"""Physical keys and buttons as browsers name them, and as X does."""

from Xlib import XK

# X's numbers of the buttons, and of the wheel's four directions.
BUTTONS = {"left": 1, "middle": 2, "right": 3}
UP, DOWN, LEFT, RIGHT = 4, 5, 6, 7

# Physical keys whose X name is not in their code's.
_KEYSYMS = {
    "Space": "space",
    "Enter": "Return",
    "Backspace": "BackSpace",
    "Tab": "Tab",
    "Minus": "minus",
    "Equal": "equal",
    "Comma": "comma",
    "Period": "period",
    "Slash": "slash",
    "Semicolon": "semicolon",
    "Quote": "apostrophe",
    "Escape": "Escape",
    "ShiftLeft": "Shift_L",
    "ControlLeft": "Control_L",
    **{f"Arrow{name}": name for name in ("Left", "Right", "Up", "Down")},
}
WRITING = (*(f"Key{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), *(f"Digit{digit}" for digit in range(10)))


def keysym(code: str) -> int:
    """X's number of the symbol on the physical key `code` of a US keyboard; ValueError for a key that is not known."""
    name = code[-1].lower() if code in WRITING else _KEYSYMS.get(code)
    if name is None:
        raise ValueError(f"key {code!r} is not one that x11_desktop can press; those are {[*WRITING, *_KEYSYMS]}")
    return int(XK.string_to_keysym(name))


def number(button: str) -> int:
    """X's number of `button`; ValueError for one that is not known."""
    if button not in BUTTONS:
        raise ValueError(f"button {button!r} is not one that x11_desktop can press; those are {list(BUTTONS)}")
    return BUTTONS[button]
