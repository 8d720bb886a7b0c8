"""Pieces of a report's page as HTML: numbers, cells, tables, pictures."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

PAGE_WIDTH_PX = 1020


def label(unit: str) -> str:
    """`student-2` as a person says it."""
    model, _, steps = unit.partition("-")
    return f"{model}, {steps} step{'s' * (steps != '1')}"


def number(value: float | None) -> str:
    """Two decimals where they can mean something; a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.{2 if abs(value) < 100 else 0}f}".replace("-", "−")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def picture(evaluation: Path, file: str, caption: str, marks: str = "") -> str:
    """An image of the evaluation, inside the page."""
    path = evaluation / file
    kind = path.suffix.removeprefix(".")
    data = base64.b64encode(path.read_bytes()).decode()
    # Small frames are enlarged, every pixel a square (style sheet), until the picture is about as wide as the page.
    with Image.open(path) as opened:
        width = opened.width * min(4, max(1, PAGE_WIDTH_PX // opened.width))
    image = f'<img width="{width}" alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image}{marks}</figure>"


def cell(row: Mapping[str, Any]) -> str:
    """A value with its interval and trials."""
    value = row.get("value", row.get("median"))
    text = number(value)
    if value is not None and row.get("low") is not None:
        text += f" <small>[{number(row['low'])}, {number(row['high'])}]</small>"
    return text + (f" <small>n={row['trials']}</small>" if row.get("trials") else "")
