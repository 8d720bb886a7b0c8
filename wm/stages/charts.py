"""Plots as inline SVG text: lines with a band, and bars with whiskers. Colours are CSS variables of the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 920, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
COLOURS = 4  # --series-0 ... --series-3


@dataclass(frozen=True)
class Line:
    """One curve over frames 1, 2, ...; the band from `low` to `high` is drawn where given."""

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Bar:
    value: float
    low: float
    high: float
    note: str = ""  # shown when the pointer rests on it


def lines(curves: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """The curves in one plot, with a legend."""
    values = [v for c in curves for v in (*c.values, *(c.low or ()), *(c.high or ()))]
    ticks = _ticks(min(values), max(values))
    length = max(len(c.values) for c in curves)

    def x(frame: float) -> float:
        return LEFT + (frame - 1) / max(1, length - 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return _height(value, ticks)

    parts = [_grid(ticks, y_label)]
    for frame in [1, *range(_step(length), length + 1, _step(length))]:
        parts.append(_text(x(frame), HEIGHT - BOTTOM + 18, str(frame), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    for i, curve in enumerate(curves):
        colour = f"var(--series-{i % COLOURS})"
        if curve.low and curve.high:
            above = [(x(n), y(v)) for n, v in enumerate(curve.high, 1)]
            below = [(x(n), y(v)) for n, v in enumerate(curve.low, 1)]
            parts.append(f'<polygon points="{_points(above + below[::-1])}" fill="{colour}" opacity=".16"/>')
        points = _points([(x(n), y(v)) for n, v in enumerate(curve.values, 1)])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return _figure(parts, [c.name for c in curves])


def bars(groups: Sequence[str], series: Mapping[str, Sequence[Bar | None]], *, y_label: str) -> str:
    """For each group one bar of each series, from 0 to 1, with its interval as a whisker."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    room = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    thick = min(22.0, 0.8 * room / max(1, len(series)))
    parts = [_grid(ticks, y_label)]
    for g, group in enumerate(groups):
        middle = LEFT + (g + 0.5) * room
        parts.append(_text(middle, HEIGHT - BOTTOM + 18, group, "middle"))
        for s, (name, row) in enumerate(series.items()):
            bar = row[g]
            if bar is not None:
                parts.append(_bar(bar, middle + (s - len(series) / 2) * thick, thick, s, f"{name}, {group}", ticks))
    return _figure(parts, list(series))


def _bar(bar: Bar, left: float, thick: float, number: int, title: str, ticks: Sequence[float]) -> str:
    top, bottom, middle = _height(bar.value, ticks), _height(0, ticks), left + thick / 2
    note = escape(f"{title}: {bar.value:.2f} [{bar.low:.2f}, {bar.high:.2f}] {bar.note}".strip())
    shape = f'x="{left + 1:.1f}" y="{top:.1f}" width="{thick - 2:.1f}" height="{bottom - top:.1f}" rx="2"'
    whisker = (
        f'x1="{middle:.1f}" x2="{middle:.1f}" y1="{_height(bar.low, ticks):.1f}" y2="{_height(bar.high, ticks):.1f}"'
    )
    return (
        f'<g><title>{note}</title><rect {shape} fill="var(--series-{number % COLOURS})"/>'
        f'<line {whisker} stroke="var(--text)" stroke-width="1" opacity=".65"/></g>'
    )


def _figure(parts: Sequence[str], names: Sequence[str]) -> str:
    keys = "".join(
        f'<span><i style="background:var(--series-{i % COLOURS})"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg><p class="key">{keys}</p></div>'


def _grid(ticks: Sequence[float], label: str) -> str:
    rows = []
    for tick in ticks:
        y = _height(tick, ticks)
        rows.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        rows.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = (
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(label)}</text>'
    )
    return "".join(rows) + turned


def _height(value: float, ticks: Sequence[float]) -> float:
    """The y of a value between the lowest and the highest tick."""
    share = (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from at most `low` to at least `high`."""
    size = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(size / 4))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= size / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def _step(length: int) -> int:
    """Frames between two labels of the axis."""
    return next((s for s in (1, 2, 5, 10, 25, 50, 100, 250, 1000) if length / s <= 10), 5000)


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
