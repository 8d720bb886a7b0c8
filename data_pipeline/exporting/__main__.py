"""Write a dataset of ours in somebody else's format."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from data_pipeline.exporting.lerobot import export_lerobot
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset
from data_pipeline.video import Codec

EXPORTERS = {"lerobot": export_lerobot}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.exporting", description=__doc__)
    parser.add_argument("kind", choices=EXPORTERS, metavar="KIND", help=", ".join(EXPORTERS))
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a folder with dataset.json")
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="a folder, made where it is missing")
    parser.add_argument("--codec", choices=get_args(Codec), default="lossless", help="(lossless)")
    given = parser.parse_args(arguments)
    try:
        count = EXPORTERS[given.kind](Dataset.open(given.dataset), given.destination, given.codec)
    except (DataError, OSError, ValueError) as error:
        print(f"error: exporting {given.dataset}: {error}", file=sys.stderr)
        return 2
    print(f"{given.destination}: {count} episodes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
