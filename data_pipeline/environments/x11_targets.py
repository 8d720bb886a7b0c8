"""What a hand can do with the windows of the recorded desktop, and what of it can be seen."""

from data_pipeline.environments import x11_programs as programs
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.x11_windows import Window

_BY_CLASS = {application.window_class: application for application in programs.APPLICATIONS.values()}


def uses(window: Window, active: int) -> list[tuple[str, Rect]]:
    """What a hand can do with `window`, as (kind, where on the screen)."""
    bar = ("drag", window.title_bar)
    if window.id != active:
        return [bar, ("raise", window.client)]
    application = _BY_CLASS.get(window.window_class)
    if application is None or window.is_dialog:
        return [bar, ("click", window.client)]
    buttons = [("click", part) for part in window.parts if programs.is_button(part.w, part.h)]
    return [bar, *((region.kind, region.within(window.client)) for region in application.regions), *buttons]


def visible(rect: Rect, covers: list[Rect]) -> Rect:
    """The largest rectangle that is left of `rect` beside each of `covers` in turn."""
    for cover in covers:
        if rect.intersects(cover):
            rect = max(_beside(rect, cover), key=lambda part: max(part.w, 0) * max(part.h, 0))
    return rect


def _beside(rect: Rect, cover: Rect) -> list[Rect]:
    """`rect` to the left, to the right, above and below `cover`; sizes may come out negative."""
    right, bottom = cover.x + cover.w, cover.y + cover.h
    return [
        Rect(rect.x, rect.y, cover.x - rect.x, rect.h),
        Rect(right, rect.y, rect.x + rect.w - right, rect.h),
        Rect(rect.x, rect.y, rect.w, cover.y - rect.y),
        Rect(rect.x, bottom, rect.w, rect.y + rect.h - bottom),
    ]


def centre(rect: Rect) -> tuple[int, int]:
    return rect.x + rect.w // 2, rect.y + rect.h // 2
