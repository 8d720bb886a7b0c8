"""Turn recordings in somebody else's format into a dataset that training reads; what cannot be used is named and counted."""

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from data_pipeline.importing.recording import Source
from data_pipeline.importing.registry import IMPORTERS
from data_pipeline.importing.writing import REPORT, Form, Report, import_source
from data_pipeline.schema import DataError
from data_pipeline.video import Codec

_NAMED = 5  # bad episodes that are told of; all of them are in the report


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    logging.getLogger("data_pipeline.importing").setLevel(logging.ERROR)
    try:
        form = Form(
            fps=given.fps,
            height=given.height,
            width=given.width,
            clip_frames=given.clip_frames,
            clips_per_shard=given.clips_per_shard,
            codec=given.codec,
        )
        if not given.source.exists():
            raise DataError("there is nothing at this path")
        source = _opened(given.kind, given.source, given.view)
        reports = import_source(given.kind, source, given.destination, form, given.heldout)
    except (DataError, OSError, ValueError) as error:
        print(f"error: importing {given.source}: {error}", file=sys.stderr)
        return 2
    for name, report in reports.items():
        print("\n".join(_told(given.destination / name, report)))
    return 0


def _opened(kind: str, path: Path, view: str) -> Source:
    importer = IMPORTERS[kind]
    if view and not importer.has_views:
        raise DataError(f"a source of kind {kind} has one view: leave --view {view} out")
    return importer.open(path, view) if importer.has_views else importer.open(path)


def _parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {kind:14} {importer.source}" for kind, importer in IMPORTERS.items())
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.importing",
        description=__doc__,
        epilog=f"kinds, and what SOURCE is:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = Form()
    parser.add_argument("kind", choices=IMPORTERS, metavar="KIND", help=", ".join(IMPORTERS))
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="a folder, made where it is missing")
    parser.add_argument("--view", default="", help="which camera or picture, where a source has several")
    parser.add_argument("--heldout", type=float, default=0.0, metavar="PART", help="write train/ and heldout/ (0.05)")
    parser.add_argument("--fps", type=float, default=form.fps, help="frames a second; as in the first episode")
    parser.add_argument("--height", type=int, default=form.height, help="pixels; as in the first episode")
    parser.add_argument("--width", type=int, default=form.width, help="pixels; as in the first episode")
    parser.add_argument("--clip-frames", type=int, default=form.clip_frames, help=f"at most ({form.clip_frames})")
    parser.add_argument("--clips-per-shard", type=int, default=form.clips_per_shard, help=f"({form.clips_per_shard})")
    parser.add_argument("--codec", choices=get_args(Codec), default=form.codec, help=f"({form.codec})")
    return parser


def _told(folder: Path, report: Report) -> list[str]:
    """Lines that say what became of a source."""
    good = report.num_episodes - len(report.bad)
    lines = [
        f"{folder}: {good} of {report.num_episodes} episodes whole, {report.num_clips} clips, {report.num_frames} frames"
    ]
    lines += [f"  bad: {entry['episode']}: {entry['problem']}" for entry in report.bad[:_NAMED]]
    if len(report.bad) > _NAMED:
        lines.append(f"  and {len(report.bad) - _NAMED} more, in {folder / REPORT}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
