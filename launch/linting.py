"""A cheap look at datasets where they come out of a stage and where they go into one; all of it: data_pipeline.lint."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.lint.dataset import lint
from data_pipeline.lint.report import table, tree

log = logging.getLogger(__name__)

REPORT = "lint.json"


def look(folders: Sequence[Path], num_clips: int, report: Path | None = None) -> int:
    """The number of findings in `num_clips` clips of each of `folders`, every one a warning, all of them in `report`."""
    found = lint(folders, num_clips)
    if report is not None:
        report.write_text(json.dumps(tree(found), indent=1))
    if found.findings:
        lines = [*table(found), f"the whole of it: python -m data_pipeline.lint {' '.join(map(str, folders))}"]
        log.warning("%s", "\n".join(lines))
    return len(found.findings)
