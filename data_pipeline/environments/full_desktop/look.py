"""How the full desktop looks: its colours, buttons, scroll bars, cursors and wallpaper, drawn into (H, W, 3) arrays."""

import numpy as np

from data_pipeline.environments.desktop_drawing import Color, enlarge, fill, frame, mix, stamp
from data_pipeline.environments.environment import CursorSprite, Rect
from data_pipeline.environments.full_desktop import font

INK: Color = (28, 30, 38)
PAPER: Color = (255, 255, 252)
FACE: Color = (228, 231, 236)  # of windows, buttons, bars
FACE_LIT: Color = (246, 248, 252)
FACE_DOWN: Color = (196, 204, 218)
EDGE: Color = (124, 132, 146)
FAINT: Color = (152, 158, 170)  # text of what cannot be used
ACCENT: Color = (46, 104, 186)
ACCENT_SOFT: Color = (204, 222, 246)
TITLE_BEHIND: Color = (158, 168, 184)
WHITE: Color = (255, 255, 255)
ALERT: Color = (214, 66, 58)
PANEL: Color = (36, 41, 54)
PANEL_LIT: Color = (72, 82, 106)
PANEL_FOCUS: Color = (58, 68, 92)

SCROLL_BAR = 8  # its width

_CURSORS: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {
    "arrow": (
        (0, 0),
        (
            "#.......",
            "##......",
            "#o#.....",
            "#oo#....",
            "#ooo#...",
            "#oooo#..",
            "#ooooo#.",
            "#oooo###",
            "#o##o#..",
            "##.#o#..",
            "....##..",
        ),
    ),
    "text": (
        (3, 5),
        ("##.##", "..#..", "..#..", "..#..", "..#..", "..#..", "..#..", "..#..", "..#..", "##.##"),
    ),
    "hand": (
        (2, 0),
        (
            "..##.....",
            ".#oo#....",
            ".#oo#....",
            ".#oo###..",
            ".#oo#o##.",
            "##oooooo#",
            "#ooooooo#",
            "#ooooooo#",
            ".#ooooo#.",
            "..#####..",
        ),
    ),
    "move": (
        (4, 4),
        (
            "...###...",
            "..#ooo#..",
            ".##.o.##.",
            "#o..o..o#",
            "#ooooooo#",
            "#o..o..o#",
            ".##.o.##.",
            "..#ooo#..",
            "...###...",
        ),
    ),
    "cross": (
        (4, 4),
        (
            "...###...",
            "...#o#...",
            "...#o#...",
            "####o####",
            "#ooo.ooo#",
            "####o####",
            "...#o#...",
            "...#o#...",
            "...###...",
        ),
    ),
    "resize": (
        (4, 4),
        (
            "#####....",
            "#ooo#....",
            "#oo#.....",
            "#o#o#....",
            "##.#o#.##",
            "....#o#o#",
            ".....#oo#",
            "....#ooo#",
            "....#####",
        ),
    ),
}  # '#' outline, 'o' fill, '.' clear; the hotspot is the pixel under the pointer


def cursor_sprites(scale: int) -> dict[str, CursorSprite]:
    """Every cursor shape by name."""
    inks = {"#": (*INK, 255), "o": (*WHITE, 255), ".": (0, 0, 0, 0)}
    sprites = {}
    for name, ((x, y), rows) in _CURSORS.items():
        rgba = np.array([[inks[mark] for mark in row] for row in rows], dtype=np.uint8)
        sprites[name] = CursorSprite(name, (x * scale, y * scale), enlarge(rgba, scale))
    return sprites


def wallpaper(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a sky over three ranges of hills."""
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :]
    top, bottom = np.array((52, 92, 160.0)), np.array((222, 196, 186.0))
    picture = np.broadcast_to(top + (bottom - top) * down**1.3, (height, width, 3)).copy()
    hills = (
        ((112, 130, 172), 0.62, 0.07, 7.0, 0.3),
        ((72, 104, 132), 0.74, 0.06, 4.6, 2.0),
        ((44, 78, 84), 0.86, 0.05, 8.5, 4.1),
    )
    for color, level, swing, waves, phase in hills:
        line = level + swing * np.sin(waves * across + phase) + swing / 2 * np.sin(2.3 * waves * across)
        picture[down[..., 0] >= line] = color
    return np.rint(picture).astype(np.uint8)


def button(canvas: np.ndarray, rect: Rect, label: str, lit: bool, down: bool = False, enabled: bool = True) -> None:
    """A push button with its label in the middle."""
    fill(canvas, rect, FACE_DOWN if down else FACE_LIT if lit else FACE)
    frame(canvas, rect, ACCENT if lit else EDGE)
    x = rect.x + (rect.w - font.width(label) + 1) // 2
    font.draw(canvas, x, rect.y + (rect.h - 7) // 2, label, INK if enabled else FAINT)


def thumb(track: Rect, first: int, shown: int, total: int) -> Rect:
    """Where the thumb of a vertical scroll bar is when `shown` of `total` lines can be seen from `first` on."""
    length = max(6, track.h * shown // max(total, 1))
    room = max(total - shown, 1)
    return Rect(track.x + 1, track.y + (track.h - length) * min(first, room) // room, track.w - 2, length)


def scroll_bar(canvas: np.ndarray, up: Rect, down: Rect, track: Rect, bar: Rect | None, hovered: str) -> None:
    """A vertical scroll bar; without `bar` there is nothing to scroll."""
    fill(canvas, track, mix(FACE, EDGE, 0.3))
    for name, rect, picture in (
        ("up", up, ("..#..", ".###.", "#####")),
        ("down", down, ("#####", ".###.", "..#..")),
    ):
        fill(canvas, rect, FACE_LIT if hovered == name else FACE)
        frame(canvas, rect, EDGE)
        stamp(canvas, rect.x + (rect.w - 5) // 2, rect.y + (rect.h - 3) // 2, picture, INK if bar else FAINT)
    if bar is not None:
        fill(canvas, bar, ACCENT if hovered == "thumb" else mix(EDGE, FACE, 0.2))


def clipped_text(canvas: np.ndarray, x: int, y: int, text: str, most: int, color: Color) -> None:
    """`text` cut to `most` pixels."""
    font.draw(canvas, x, y, font.fitting(text, most), color)
