"""Shapes, colours and sprites of the simulated desktop, drawn into (H, W, 3) uint8 arrays."""

import numpy as np

from data_pipeline.environments.environment import CursorSprite, Rect

Color = tuple[int, int, int]

INK: Color = (24, 26, 34)
PAPER: Color = (250, 249, 244)
WHITE: Color = (255, 255, 255)
GREY: Color = (150, 154, 164)
BAR: Color = (22, 24, 34)
BAR_HOVER: Color = (84, 92, 118)
BAR_FOCUS: Color = (52, 58, 78)
ALERT: Color = (232, 58, 52)

_SKY_TOP: Color = (18, 42, 92)
_SKY_BOTTOM: Color = (86, 164, 176)

# '#' outline, 'o' fill, '.' clear. The hotspot is the pixel under the pointer.
_CURSORS: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {
    "arrow": (
        (0, 0),
        (
            "##....",
            "#o#...",
            "#oo#..",
            "#ooo#.",
            "#oooo#",
            "#oo###",
            "##o#..",
            ".####.",
        ),
    ),
    "text": (
        (2, 4),
        (
            "#####",
            "#ooo#",
            "##o##",
            ".#o#.",
            ".#o#.",
            "##o##",
            "#ooo#",
            "#####",
        ),
    ),
    "hand": (
        (2, 0),
        (
            ".###...",
            ".#o#...",
            ".#o###.",
            ".#oooo#",
            "##oooo#",
            "#ooooo#",
            ".#ooo#.",
            "..####.",
        ),
    ),
    "move": (
        (3, 3),
        (
            "..###..",
            ".##o##.",
            "###o###",
            "#ooooo#",
            "###o###",
            ".##o##.",
            "..###..",
        ),
    ),
}


def mix(a: Color, b: Color, amount: float) -> Color:
    """`a` with `amount` in [0, 1] of it replaced by `b`."""
    red, green, blue = (round(p + (q - p) * amount) for p, q in zip(a, b, strict=True))
    return red, green, blue


def fill(canvas: np.ndarray, rect: Rect, color: Color) -> None:
    canvas[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w] = color


def frame(canvas: np.ndarray, rect: Rect, color: Color) -> None:
    """A border one pixel wide along the inside of `rect`."""
    x, y, w, h = rect
    for side in (Rect(x, y, w, 1), Rect(x, y + h - 1, w, 1), Rect(x, y, 1, h), Rect(x + w - 1, y, 1, h)):
        fill(canvas, side, color)


def stamp(canvas: np.ndarray, x: int, y: int, picture: tuple[str, ...], color: Color) -> None:
    """Paint the '#' of `picture` with its top left at (x, y)."""
    mask = np.array([[mark == "#" for mark in row] for row in picture])
    canvas[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = color


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """(h, w, c) to (h * scale, w * scale, c), each pixel a square."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else picture


def wallpaper(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, a gradient from the top left to the bottom right."""
    down = np.linspace(0.0, 1.0, height)[:, None]
    across = np.linspace(0.0, 1.0, width)[None, :]
    amount = (0.75 * down + 0.25 * across)[..., None]
    top, bottom = np.array(_SKY_TOP, dtype=np.float64), np.array(_SKY_BOTTOM, dtype=np.float64)
    return np.rint(top + (bottom - top) * amount).astype(np.uint8)


def cursor_sprites(scale: int) -> dict[str, CursorSprite]:
    """Every cursor shape by name."""
    return {name: _sprite(name, hotspot, rows, scale) for name, (hotspot, rows) in _CURSORS.items()}


def _sprite(name: str, hotspot: tuple[int, int], rows: tuple[str, ...], scale: int) -> CursorSprite:
    inks = {"#": (*INK, 255), "o": (*WHITE, 255), ".": (0, 0, 0, 0)}
    rgba = np.array([[inks[mark] for mark in row] for row in rows], dtype=np.uint8)
    return CursorSprite(name, (hotspot[0] * scale, hotspot[1] * scale), enlarge(rgba, scale))


def draw_cursor(canvas: np.ndarray, sprite: CursorSprite, pointer: tuple[int, int]) -> None:
    """Lay `sprite` over `canvas` with its hotspot on `pointer`; what is outside the canvas is cut off."""
    height, width = canvas.shape[:2]
    left, top = pointer[0] - sprite.hotspot[0], pointer[1] - sprite.hotspot[1]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + sprite.rgba.shape[1], width), min(top + sprite.rgba.shape[0], height)
    part = sprite.rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    area = canvas[y0:y1, x0:x1]
    np.copyto(area, part[..., :3], where=part[..., 3:] > 0)
