"""A 3x5 pixel font: the smallest that a person still reads."""

import numpy as np

WIDTH, HEIGHT = 3, 5  # of a glyph
ADVANCE, LINE = 4, 6  # from one letter to the next, from one line to the next

# Five rows a glyph, three bits a row, the highest bit at the left: 0o757 is the digits 7, 5, 7.
_ROWS = {
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644", "G": "34553", "H": "55755",
    "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "65555", "O": "75557", "P": "75744",
    "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552", "W": "55775", "X": "55255",
    "Y": "55222", "Z": "71247", "0": "25552", "1": "26227", "2": "61247", "3": "61216", "4": "55711", "5": "74616",
    "6": "34652", "7": "71122", "8": "25252", "9": "25316", " ": "00000", ".": "00002", ",": "00024", "-": "00700",
    "+": "02720", "!": "22202", "?": "61202", ":": "02020", "/": "11244",
}  # fmt: skip


def _glyph(rows: str) -> np.ndarray:
    return np.array([[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in rows], dtype=bool)


GLYPHS = {letter: _glyph(rows) for letter, rows in _ROWS.items()}  # each (HEIGHT, WIDTH) bool


def draw_text(canvas: np.ndarray, x: int, y: int, text: str, color: tuple[int, int, int]) -> None:
    """Write one line of `text` into `canvas` (H, W, 3), its top left at (x, y); letters that do not fit are cut off."""
    for i, letter in enumerate(text.upper()):
        left = x + i * ADVANCE
        area = canvas[y : y + HEIGHT, left : left + WIDTH]
        area[GLYPHS[letter][: area.shape[0], : area.shape[1]]] = color
