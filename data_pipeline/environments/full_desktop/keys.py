"""What the keys of a keyboard write, by their physical codes as browsers name them."""

import string

_MARKS = {
    "Space": "  ",
    "Minus": "-_",
    "Equal": "=+",
    "Period": ".>",
    "Comma": ",<",
    "Slash": "/?",
    "Semicolon": ";:",
    "Quote": "'\"",
    "BracketLeft": "[(",
    "BracketRight": "])",
}
_DIGITS = dict(zip(string.digits, ")!@#$%^&*(", strict=True))
SHIFT = ("ShiftLeft", "ShiftRight")

WRITES: dict[str, str] = {
    **{f"Key{letter}": letter.lower() + letter for letter in string.ascii_uppercase},
    **{f"Digit{digit}": digit + mark for digit, mark in _DIGITS.items()},
    **_MARKS,
}  # without and with shift

MOVES = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End")


def letter(code: str, shift: bool) -> str:
    """The letter that a key writes; empty for a key that writes none."""
    return WRITES[code][shift] if code in WRITES else ""
