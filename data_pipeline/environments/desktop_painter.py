"""From the state of the simulated desktop to its picture. Pictures of windows are kept by what they show."""

from collections.abc import Callable, Hashable

import numpy as np

from data_pipeline.environments.bitmap_font import draw_text
from data_pipeline.environments.desktop_apps import APPS, App
from data_pipeline.environments.desktop_drawing import (
    ALERT,
    BAR,
    BAR_FOCUS,
    BAR_HOVER,
    GREY,
    INK,
    WHITE,
    cursor_sprites,
    draw_cursor,
    enlarge,
    fill,
    frame,
    mix,
    stamp,
    wallpaper,
)
from data_pipeline.environments.desktop_windows import BAR_HEIGHT, BORDER, TITLE_HEIGHT, Desktop, Hit, Layout, Window
from data_pipeline.environments.environment import Rect

_MARKS = {
    "minimise": (".....", ".....", ".....", "#####"),
    "close": ("#...#", ".#.#.", "..#..", ".#.#.", "#...#"),
}


class Painter:
    """Draws one layout. A picture depends on the state alone, so keeping it never shows."""

    def __init__(self, layout: Layout, kept: int) -> None:
        self.layout = layout
        self.cursors = cursor_sprites(layout.scale)
        self._wallpaper = wallpaper(layout.height, layout.width)
        self._pictures: dict[Hashable, np.ndarray] = {}
        self._kept = kept

    def __deepcopy__(self, memo: object) -> "Painter":
        """Itself: copies of an environment share the pictures."""
        return self

    def paint(self, desktop: Desktop) -> np.ndarray:
        """(height, width, 3) uint8, a new array."""
        picture = self._background(desktop).copy()
        focused = desktop.focused
        for window in desktop.windows:
            if not window.minimised:
                x, y, w, h = desktop.rect(window)
                picture[y : y + h, x : x + w] = self._window(window, window is focused, desktop.highlight)
        draw_cursor(picture, self.cursors[desktop.cursor], desktop.pointer)
        return picture

    def _keep(self, key: Hashable, draw: Callable[[], np.ndarray]) -> np.ndarray:
        picture = self._pictures.get(key)
        if picture is None:
            if len(self._pictures) >= self._kept:
                self._pictures.pop(next(iter(self._pictures)))
            picture = self._pictures[key] = draw()
        return picture

    def _background(self, desktop: Desktop) -> np.ndarray:
        spot = desktop.highlight
        hovered = spot.app if spot is not None and spot.part == "launcher" else ""
        states = tuple(desktop.status(app) for app in APPS)
        return self._keep((states, hovered), lambda: self._draw_background(states, hovered))

    def _draw_background(self, states: tuple[str, ...], hovered: str) -> np.ndarray:
        layout, picture = self.layout, self._wallpaper.copy()
        bar = np.empty((BAR_HEIGHT, layout.width // layout.scale, 3), dtype=np.uint8)
        bar[:] = BAR
        for i, (app, state) in enumerate(zip(APPS.values(), states, strict=True)):
            x, _, w, _ = (n // layout.scale for n in layout.launcher(i))
            _draw_launcher(bar, Rect(x, 1, w, BAR_HEIGHT - 1), app, state, app.name == hovered)
        picture[layout.desktop_height :] = BAR
        large = enlarge(bar, layout.scale)
        picture[layout.desktop_height :, : large.shape[1]] = large
        return picture

    def _window(self, window: Window, focused: bool, spot: Hit | None) -> np.ndarray:
        if spot is None or spot.app != window.app.name or spot.part == "launcher":
            spot = Hit("")
        key = (window.app.name, *window.app.contents().items(), focused, spot)
        return self._keep(key, lambda: self._draw_window(window.app, focused, spot.part, spot.control))

    def _draw_window(self, app: App, focused: bool, part: str, control: str) -> np.ndarray:
        w, h = self.layout.window_units
        picture = np.empty((h, w, 3), dtype=np.uint8)
        bar = app.color if focused else mix(app.color, (120, 126, 140), 0.6)
        fill(picture, Rect(0, 0, w, BORDER + TITLE_HEIGHT), bar)
        draw_text(picture, BORDER + 2, BORDER + 1, app.title, INK)
        for name, rect in self.layout.button_units.items():
            if name == part:
                fill(picture, rect, ALERT if name == "close" else WHITE)
            stamp(picture, rect.x + 1, rect.y + 1, _MARKS[name], WHITE if name == part == "close" else INK)
        content = self.layout.content_units
        app.draw(picture[content.y : content.y + content.h, content.x : content.x + content.w], control, focused)
        frame(picture, Rect(0, 0, w, h), INK)
        return enlarge(picture, self.layout.scale)


def _draw_launcher(bar: np.ndarray, cell: Rect, app: type[App], state: str, hovered: bool) -> None:
    fill(bar, cell, BAR_HOVER if hovered else BAR_FOCUS if state == "focused" else BAR)
    stamp(bar, cell.x + (cell.w - 5) // 2, cell.y + 1, app.icon, app.color)
    mark = {"closed": 0, "minimised": 3, "behind": 7, "focused": 13}[state]
    fill(
        bar,
        Rect(cell.x + (cell.w - mark) // 2, cell.y + cell.h - 1, mark, 1),
        GREY if state == "minimised" else app.color,
    )
