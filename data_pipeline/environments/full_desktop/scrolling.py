"""A list of lines of which a window shows some: its scroll bar, its wheel, and what keeps a line in view."""

from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop import look
from data_pipeline.environments.full_desktop.app import Part

WHEEL_LINES = 3  # scrolled by one notch


class Scroll:
    """`first` is the number of the first line that is seen; `shown` lines fit."""

    def __init__(self) -> None:
        self.first = 0

    def last(self, shown: int, total: int) -> int:
        """The largest `first`."""
        return max(0, total - shown)

    def settle(self, shown: int, total: int) -> None:
        """Stay inside after the number of lines or the size of the window changed."""
        self.first = min(self.first, self.last(shown, total))

    def by(self, lines: int, shown: int, total: int) -> list[str]:
        before = self.first
        self.first = min(max(before + lines, 0), self.last(shown, total))
        return ["scroll"] if self.first != before else []

    def reveal(self, line: int, shown: int, total: int) -> None:
        """Scroll as little as brings `line` into view."""
        self.first = min(max(self.first, line - shown + 1), line)
        self.settle(shown, total)

    def parts(self, area: Rect, shown: int, total: int) -> list[Part]:
        """The bar's buttons and its track above and below the thumb, along the right side of `area`."""
        up, down, track = bar(area)
        more_up, more_down = self.first > 0, self.first < self.last(shown, total)
        thumb = look.thumb(track, self.first, shown, total)
        above = Rect(track.x, track.y, track.w, thumb.y - track.y)
        below = Rect(track.x, thumb.y + thumb.h, track.w, track.y + track.h - thumb.y - thumb.h)
        parts = [Part("up", up, "scroll" * more_up), Part("down", down, "scroll" * more_down)]
        parts += [Part("page up", above, "scroll")] if more_up and above.h > 0 else []
        return parts + ([Part("page down", below, "scroll")] if more_down and below.h > 0 else [])

    def press(self, part: str, shown: int, total: int) -> list[str]:
        lines = {"up": -1, "down": 1, "page up": -shown, "page down": shown}
        return self.by(lines[part], shown, total) if part in lines else []


def bar(area: Rect) -> tuple[Rect, Rect, Rect]:
    """Buttons and track of the bar along the right side of `area`."""
    size, x = look.SCROLL_BAR, area.x + area.w - look.SCROLL_BAR
    up, down = Rect(x, area.y, size, size), Rect(x, area.y + area.h - size, size, size)
    return up, down, Rect(x, area.y + size, size, area.h - 2 * size)
