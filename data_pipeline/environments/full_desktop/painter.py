"""From the state of the full desktop to its picture. Pictures of windows are kept by what they show."""

import json
from collections.abc import Callable, Hashable

import numpy as np

from data_pipeline.environments.desktop_drawing import draw_cursor, fill, frame, mix, stamp
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import font, look, surfaces
from data_pipeline.environments.full_desktop.app import App, Dialog
from data_pipeline.environments.full_desktop.apps import APPS
from data_pipeline.environments.full_desktop.desktop import Desktop
from data_pipeline.environments.full_desktop.screen import label
from data_pipeline.environments.full_desktop.surfaces import Menu, Window

_MARKS = {
    "minimise": (".......", ".......", ".......", ".......", ".......", "######."),
    "maximise": ("#######", "#######", "#.....#", "#.....#", "#.....#", "#######"),
    "close": ("##...##", ".##.##.", "..###..", "..###..", ".##.##.", "##...##"),
}
_SHADOW = 3  # units that a window's shadow reaches to the right and down


class Painter:
    """Draws one size. A picture depends on the state alone, so keeping it never shows."""

    def __init__(self, width: int, height: int, scale: int, kept: int) -> None:
        self.scale = scale
        self.cursors = look.cursor_sprites(scale)
        self._wallpaper = look.wallpaper(height, width)
        self._pictures: dict[Hashable, np.ndarray] = {}
        self._kept = kept
        self._columns = np.arange(width * 3).reshape(width, 3).repeat(scale, axis=0).ravel()

    def __deepcopy__(self, memo: object) -> "Painter":
        """Itself: copies of an environment share the pictures."""
        return self

    def paint(self, desktop: Desktop, pointer: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8, a new array, with the cursor at `pointer` in pixels."""
        picture = self._background(desktop).copy()
        focused = desktop.focused
        for window in desktop.windows:
            if not window.minimised:
                self._lay(picture, window.rect, self._window(window, window is focused, desktop))
                if window.dialog is not None:
                    self._lay(picture, *self._dialog(desktop, window, window.dialog))
        picture[desktop.floor :] = self._panel(desktop)
        if desktop.menu is not None:
            hovered = desktop.hover.part if desktop.hover.surface == "menu" else ""
            self._lay(picture, desktop.menu.rect, _draw_menu(desktop.menu, hovered))
        large = self._enlarged(picture)
        draw_cursor(large, self.cursors[desktop.cursor], pointer)
        return large

    def _enlarged(self, picture: np.ndarray) -> np.ndarray:
        """Each pixel a square; by whole rows, which is several times as fast as repeating triples along both axes."""
        height, width = picture.shape[:2]
        wide = picture.reshape(height, -1).take(self._columns, axis=1)
        return wide.repeat(self.scale, axis=0).reshape(height * self.scale, width * self.scale, 3)

    def _lay(self, picture: np.ndarray, rect: Rect, part: np.ndarray) -> None:
        """`part` over `picture`, with a shadow at its right and below."""
        x, y, w, h = rect
        below, beside = (
            picture[y + h : y + h + _SHADOW, x + _SHADOW : x + w + _SHADOW],
            picture[y + _SHADOW : y + h, x + w : x + w + _SHADOW],
        )
        for shadow in (below, beside):
            shadow[:] = shadow // 4 * 3
        picture[y : y + h, x : x + w] = part

    def _keep(self, key: Hashable, draw: Callable[[], np.ndarray]) -> np.ndarray:
        picture = self._pictures.get(key)
        if picture is None:
            if len(self._pictures) >= self._kept:
                self._pictures.pop(next(iter(self._pictures)))
            picture = self._pictures[key] = draw()
        return picture

    def _background(self, desktop: Desktop) -> np.ndarray:
        hovered = desktop.hover.part if desktop.hover.surface == "desktop" else ""
        kinds = tuple((name, "" if name in APPS else desktop.disk.files[name].kind) for name in desktop.icons())
        key = ("background", kinds, desktop.selected, hovered)
        return self._keep(key, lambda: self._draw_background(desktop, hovered))

    def _draw_background(self, desktop: Desktop, hovered: str) -> np.ndarray:
        picture = self._wallpaper.copy()
        for name, rect in desktop.icons().items():
            app = APPS[desktop.opens(name)[0]]
            _shade(picture, rect, 2 * (name == desktop.selected) or int(name == hovered))
            _draw_icon(picture, rect, app, label(name))
        return picture

    def _panel(self, desktop: Desktop) -> np.ndarray:
        hovered = desktop.hover.part if desktop.hover.surface == "panel" else ""
        open_menu = desktop.menu is not None and desktop.menu.owner == 0
        focused = desktop.focused
        buttons = tuple((w.number, w.app.name, w.app.title, w.minimised, w is focused) for w in desktop.windows)
        return self._keep(("panel", hovered, open_menu, buttons), lambda: _draw_panel(desktop, hovered, open_menu))

    def _window(self, window: Window, focused: bool, desktop: Desktop) -> np.ndarray:
        hovered = desktop.hover.part if desktop.hover.surface == f"window {window.number}" else ""
        menu = desktop.menu.name if desktop.menu is not None and desktop.menu.owner == window.number else ""
        contents = json.dumps(window.app.contents(), sort_keys=True)
        active = focused and window.dialog is None
        key = (
            window.app.name,
            window.app.title,
            window.rect[2:],
            focused,
            active,
            hovered,
            menu,
            contents,
            window.before is None,
        )
        return self._keep(key, lambda: _draw_window(window, focused, active, hovered, menu))

    def _dialog(self, desktop: Desktop, window: Window, dialog: Dialog) -> tuple[Rect, np.ndarray]:
        rect = desktop.dialog_rect(window, dialog)
        hovered = desktop.hover.part if desktop.hover.surface == f"dialog {window.number}" else ""
        focused = window is desktop.focused
        key = ("dialog", dialog, window.app.label, hovered, focused)
        return rect, self._keep(key, lambda: _draw_dialog(dialog, rect, window, hovered, focused))


def _shade(picture: np.ndarray, rect: Rect, strength: int) -> None:
    """A veil of white over `rect`, of `strength` quarters."""
    area = picture[rect.y + 1 : rect.y + rect.h - 1, rect.x + 1 : rect.x + rect.w - 1]
    area[:] = (area.astype(np.uint16) * (4 - strength) + 255 * strength) // 4


def _draw_icon(picture: np.ndarray, rect: Rect, app: type[App], text: str) -> None:
    tile = Rect(rect.x + rect.w // 2 - 8, rect.y + 4, 16, 16)
    fill(picture, tile, look.WHITE)
    frame(picture, tile, mix(app.color, look.INK, 0.4))
    stamp(picture, tile.x + 4, tile.y + 4, app.icon, app.color)
    x, y = rect.x + (rect.w - font.width(text)) // 2 + 1, rect.y + 23
    font.draw(picture, x + 1, y + 1, text, look.INK)
    font.draw(picture, x, y, text, look.WHITE)


def _draw_panel(desktop: Desktop, hovered: str, open_menu: bool) -> np.ndarray:
    panel = np.empty((surfaces.PANEL, desktop.width, 3), dtype=np.uint8)
    panel[:] = look.PANEL
    panel[0] = look.PANEL_LIT
    start = surfaces.START
    fill(panel, start, look.ACCENT if open_menu else look.PANEL_LIT if hovered == "Menu" else look.PANEL_FOCUS)
    stamp(panel, start.x + 3, start.y + 3, ("##.##", "##.##", ".....", "##.##", "##.##"), look.WHITE)
    font.draw(panel, start.x + 11, start.y + 3, "Menu", look.WHITE)
    for number, rect in surfaces.tasks([window.number for window in desktop.windows], desktop.width).items():
        window = desktop.window(number)
        assert window is not None
        focused = window is desktop.focused
        fill(
            panel, rect, look.PANEL_LIT if hovered == f"task {number}" else look.PANEL_FOCUS if focused else look.PANEL
        )
        frame(panel, rect, look.PANEL_LIT)
        stamp(
            panel,
            rect.x + 2,
            rect.y + 2,
            window.app.icon,
            mix(window.app.color, look.PANEL, 0.6 if window.minimised else 0.0),
        )
        if rect.w > 18:
            look.clipped_text(
                panel,
                rect.x + 12,
                rect.y + 3,
                window.app.title,
                rect.w - 13,
                look.FAINT if window.minimised else look.WHITE,
            )
        if focused:
            fill(panel, Rect(rect.x, rect.y + rect.h - 1, rect.w, 1), look.FACE_LIT)
    return panel


def _draw_menu(menu: Menu, hovered: str) -> np.ndarray:
    x, y, w, h = menu.rect
    picture = np.empty((h, w, 3), dtype=np.uint8)
    picture[:] = look.FACE_LIT
    for item, rect in zip(menu.items, menu.rows().values(), strict=True):
        row = surfaces.moved(rect, -x, -y)
        lit = item.name == hovered and item.enabled
        if lit:
            fill(picture, row, look.ACCENT)
        color = look.WHITE if lit else look.INK if item.enabled else look.FAINT
        font.draw(picture, row.x + 5, row.y + 2, item.name, color)
    frame(picture, Rect(0, 0, w, h), look.EDGE)
    return picture


def _draw_window(window: Window, focused: bool, active: bool, hovered: str, menu: str) -> np.ndarray:
    w, h = window.width, window.height
    picture = np.empty((h, w, 3), dtype=np.uint8)
    picture[:] = look.FACE
    bar = look.ACCENT if focused else look.TITLE_BEHIND
    fill(picture, Rect(0, 0, w, surfaces.BORDER + surfaces.TITLE), bar)
    stamp(picture, 3, 3, window.app.icon, mix(window.app.color, look.WHITE, 0.7))
    buttons = window.buttons()
    room = next(iter(buttons.values())).x - 16
    look.clipped_text(picture, 14, 4, window.app.title, room, look.WHITE if focused else look.FACE)
    for name, rect in buttons.items():
        if name == hovered:
            fill(picture, rect, look.ALERT if name == "close" else mix(bar, look.WHITE, 0.35))
        stamp(picture, rect.x + 2, rect.y + 3, _MARKS[name], look.WHITE)
    for name, rect in window.menu_titles().items():
        chosen = name == menu
        if chosen or hovered == f"menu {name}":
            fill(picture, rect, look.ACCENT if chosen else look.ACCENT_SOFT)
        font.draw(picture, rect.x + 4, rect.y + 2, name, look.WHITE if chosen else look.INK)
    x, y, iw, ih = window.inside
    window.app.draw(picture[y : y + ih, x : x + iw], hovered, active)
    if window.app.resizable and window.before is None:
        for reach in (3, 5):
            for step in range(reach):
                picture[h - 2 - step, w - 1 - reach + step] = look.ACCENT if hovered == "corner" else look.EDGE
    frame(picture, Rect(0, 0, w, h), mix(bar, look.INK, 0.4))
    return picture


def _draw_dialog(dialog: Dialog, rect: Rect, window: Window, hovered: str, focused: bool) -> np.ndarray:
    picture = np.empty((rect.h, rect.w, 3), dtype=np.uint8)
    picture[:] = look.FACE_LIT
    bar = look.ACCENT if focused else look.TITLE_BEHIND
    fill(picture, Rect(0, 0, rect.w, surfaces.TITLE), bar)
    font.draw(picture, 5, 3, window.app.label, look.WHITE)
    for number, line in enumerate(dialog.lines):
        font.draw(picture, 8, surfaces.TITLE + 5 + number * font.LINE, line, look.INK)
    box = surfaces.dialog_field(dialog, rect)
    if box is not None and dialog.field is not None:
        place = surfaces.moved(box, -rect.x, -rect.y)
        fill(picture, place, look.PAPER)
        frame(picture, place, look.ACCENT if focused else look.EDGE)
        font.draw(picture, place.x + 4, place.y + 3, dialog.field, look.INK)
        if focused:
            fill(picture, Rect(place.x + 3 + font.width(dialog.field), place.y + 2, 1, place.h - 4), look.ACCENT)
    for name, button in surfaces.dialog_buttons(dialog, rect).items():
        look.button(picture, surfaces.moved(button, -rect.x, -rect.y), name, name == hovered)
    frame(picture, Rect(0, 0, rect.w, rect.h), mix(bar, look.INK, 0.4))
    return picture
