"""Play a world: in a browser, or from a file of actions into a clip.

python -m tools.rollout runs/desktop_sim/artifact
python -m tools.rollout runs/desktop_sim/artifact --actions played.jsonl --out clip.mp4
"""

import argparse
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tools import hosting
from tools.batch import replay
from tools.server import PortInUseError
from tools.session import Game
from tools.worlds import artifact_game, environment_game

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; an error is one line on stderr."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check(options)
        return _replay(options) if options.actions else _serve(options)
    except KeyboardInterrupt:
        print("interrupted; nothing half written was left", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        if options.traceback:
            traceback.print_exc()
        print(f"error: {_explain(error)}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.rollout", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path, nargs="?", help="folder that the export stage wrote")
    parser.add_argument("--environment", metavar="KIND", help="play this environment itself, without a model")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu or cuda")
    batch = parser.add_argument_group("batch")
    batch.add_argument("--actions", type=Path, metavar="FILE", help="replay this action file; needs --out")
    batch.add_argument("--out", type=Path, metavar="CLIP.mp4", help="the clip to write, lossless")
    hosting.add_options(parser.add_argument_group("in a browser"))
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    return parser


def _check(options: argparse.Namespace) -> None:
    if (options.artifact is None) == (options.environment is None):
        raise ValueError("give either the folder of an artifact or --environment KIND")
    if (options.actions is None) != (options.out is None):
        raise ValueError("--actions FILE and --out CLIP.mp4 go together")
    hosting.check(options)


def _serve(options: argparse.Namespace) -> int:
    hosting.host(options, lambda: _game(options), with_page=True)
    return OK


def _replay(options: argparse.Namespace) -> int:
    if options.out.suffix != ".mp4":
        raise ValueError(f"--out {options.out} is not an .mp4 file")
    game = _game(options)
    if not game.repeats:
        print(f"note: {game.name} runs in real time; what began in it does not repeat exactly", file=sys.stderr)
    on_frame = {"on_frame": _progress} if sys.stderr.isatty() else {}
    num_frames = replay(game, options.actions, options.out, **on_frame)
    print(f"{num_frames} frames at {game.space.fps:g} a second: {options.out}")
    return OK


def _game(options: argparse.Namespace) -> Game:
    if options.environment is not None:
        return environment_game({"kind": options.environment})
    return artifact_game(options.artifact, options.device)


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done}/{total} frames", end=end, file=sys.stderr, flush=True)


def _explain(error: Exception) -> str:
    if isinstance(error, PortInUseError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room and give the same command again; nothing half written was left"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'a file'}: {os.strerror(error.errno).lower()}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
