"""What the commands that serve a world share: their options, what is refused in them, and the serving itself."""

import argparse
from collections.abc import Callable
from pathlib import Path

from tools.gate import MIN_TOKEN_LENGTH, Limits, is_loopback
from tools.recorder import Recorder, Recording
from tools.server import Hall, listen, serve
from tools.session import Game


def add_options(group: argparse._ArgumentGroup, with_recordings: bool = True) -> None:
    """The options of a server."""
    group.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: %(default)s)")
    group.add_argument("--host", default="127.0.0.1", help="another address than this machine's own needs --token")
    group.add_argument("--token", default="", help="what guests must say to play; at least 12 characters")
    group.add_argument("--max-sessions", type=int, default=4, help="sessions at a time (default: %(default)s)")
    if not with_recordings:
        return
    group.add_argument("--recordings", type=Path, help="folder for what guests record (default: played/ by it)")


def check(options: argparse.Namespace) -> None:
    """ValueError for a port that is none, and for a server that anybody could use."""
    if not 0 <= options.port < 1 << 16:
        raise ValueError(f"--port is {options.port}: from 0 to {(1 << 16) - 1}")
    if options.token and len(options.token) < MIN_TOKEN_LENGTH:
        raise ValueError(f"--token has {len(options.token)} characters; it needs at least {MIN_TOKEN_LENGTH}")
    if not is_loopback(options.host) and not options.token:
        raise ValueError(f"--host {options.host} lets other machines in: give --token too, so that only yours play")


def host(
    options: argparse.Namespace,
    open_game: Callable[[], Game],
    with_page: bool,
    make_recording: Callable[[Game, Path], Recording] = Recorder,
) -> None:
    """Serve what `open_game` gives until interrupted; without the page, for programs, where `with_page` is False."""
    limits = Limits(max_sessions=options.max_sessions)
    listener = listen(options.host, options.port)  # before the world is loaded: a port in use is said at once
    try:
        hall = Hall(
            open_game(),
            _recordings(options),
            limits,
            options.token,
            is_loopback(options.host),
            with_page=with_page,
            make_recording=make_recording,
        )
        serve(hall, listener)
    finally:
        listener.close()


def _recordings(options: argparse.Namespace) -> Path:
    if options.recordings is not None:
        return Path(options.recordings)
    return Path("played") if options.artifact is None else options.artifact.absolute().parent / "played"
