"""What an evaluation measured beyond what every report shows: a row for each measure that its config named."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from wm.stages.markup import cell

# How the measures of the registry (video_measures.py) are called on a page; any other as in report.json.
LABELS = {
    "legibility": "legible letters, share",
    "line_retention": "lines of one pixel that stay, share",
    "cursor_psnr_db": "where the cursor is, dB",
    "latent_frechet": "Fréchet distance in latents",
    "precision": "precision in latents",
    "recall": "recall in latents",
    "diversity": "diversity over seeds in latents",
    "lpips": "LPIPS",
    "fid": "FID",
    "fvd": "FVD",
    "clip_score": "CLIP score",
}


def further_rows(columns: Sequence[Mapping[str, Any]], known: Sequence[str]) -> list[list[str]]:
    """A row of cells for each measure of any of `columns` that is not `known`; a dash where a column has it not."""
    names = dict.fromkeys(name for column in columns for name, row in column.items() if _is_row(row))
    return [
        [escape(LABELS.get(name, name.replace("_", " "))), *(cell(column.get(name, {})) for column in columns)]
        for name in names
        if name not in known
    ]


def reasons(columns: Sequence[Mapping[str, Any]]) -> str:
    """A line for every reason for which something in `columns` was not measured."""
    said = {row["reason"] for column in columns for row in column.values() if _is_row(row) and "reason" in row}
    return "".join(f"<p class='soft'>{escape(reason)}</p>" for reason in sorted(said))


def _is_row(row: Any) -> bool:
    return isinstance(row, Mapping) and ("value" in row or "median" in row)
