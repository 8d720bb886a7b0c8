"""`python -m data_pipeline.lint DATASET...`: exit status 0 nothing found, 1 warnings, 2 errors."""

import argparse
import json
import sys
from pathlib import Path

from data_pipeline.lint.dataset import folders_of, lint
from data_pipeline.lint.finding import Limits, worst
from data_pipeline.lint.report import table, tree
from wm.config import ConfigError, from_dict


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.lint", description=__doc__)
    parser.add_argument(
        "datasets",
        type=Path,
        nargs="+",
        help="folders with dataset.json, or with such folders in them; one called heldout is compared with the others",
    )
    parser.add_argument("--clips", type=int, metavar="N", help="read N clips of each, evenly; all by default")
    parser.add_argument("--limits", default="{}", metavar="JSON", help=f"where findings begin; default {Limits()}")
    parser.add_argument("--json", action="store_true", help="print everything that was found as JSON")
    given = parser.parse_args(arguments)
    try:
        limits = from_dict(Limits, json.loads(given.limits))
    except (ConfigError, json.JSONDecodeError) as error:
        parser.error(f"--limits: {error}")
    if given.clips is not None and given.clips < 1:
        parser.error(f"--clips is {given.clips}; it must be at least 1")
    report = lint([part for folder in given.datasets for part in folders_of(folder)], given.clips, limits)
    print(json.dumps(tree(report), indent=1) if given.json else "\n".join(table(report)))
    return worst(report.findings)


if __name__ == "__main__":
    sys.exit(main())
