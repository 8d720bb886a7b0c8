"""Serve an artifact to other programs: no page, one socket a session, the protocol of tools/PROTOCOL.md.

python -m tools.serve runs/desktop_sim/artifact --port 9000
python -m tools.serve runs/desktop_sim/artifact --port 0       # a free port; the line that it prints says which

A Python program uses tools/client.py:

    with Client.connect("http://127.0.0.1:9000/") as world:
        frame = world.reset(seed=1)
        frame = world.step(Controls((30, 40), (Event("press", "left"),)))
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.entry import OK, guarded, spoken
from tools import hosting
from tools.worlds import artifact_game


def main(argv: Sequence[str] | None = None) -> int:
    """0 ended by an interrupt, 1 failed, 2 wrong input."""
    options = _parser().parse_args(argv)
    command = spoken("tools.serve", argv)
    return guarded(lambda: _serve(options), command, options.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path, help="folder that the export stage or tools.export wrote")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu or cuda (default: %(default)s)")
    hosting.add_options(parser.add_argument_group("server"))
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def _serve(options: argparse.Namespace) -> int:
    hosting.check(options)
    hosting.host(options, lambda: artifact_game(options.artifact, options.device), with_page=False)
    return OK


if __name__ == "__main__":
    sys.exit(main())
