"""Waits until the nodes that a cluster shall have are in it: `python -m launch.nodes NODE...`, or `--count N` of any name.

Ray starts work on what is there and waits without end for the rest; a launch script wants to know who is missing. The
names are those given to `ray start --node-name`; the cluster is the one at RAY_ADDRESS, or the one of this machine.
"""

import argparse
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence

import ray

from launch.entry import OK, StageError, guarded
from wm.config import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """0 all are there, 1 some are missing and named, 2 wrong input, 75 told to stop."""
    parser = argparse.ArgumentParser(prog="python -m launch.nodes", description="Wait for the nodes of a cluster.")
    parser.add_argument("names", nargs="*", metavar="NODE", help="as given to ray start --node-name")
    parser.add_argument("--count", type=int, default=0, help="of nodes, where their names are not known")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds until the missing ones are named")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "launch.nodes", *(sys.argv[1:] if argv is None else argv)])
    return guarded(lambda: _wait_in_cluster(arguments), command, show_traceback=False)


def wait_for(
    names: Sequence[str], count: int, joined: Callable[[], set[str]], timeout: float, pause: float
) -> set[str]:
    """What `joined` returns when all `names` and at least `count` are in it, asked every `pause` seconds.

    StageError after `timeout` seconds, with the names that are missing, or those that are there where only the count is known.
    """
    end = time.monotonic() + timeout
    while True:
        there = joined()
        missing = sorted(set(names) - there)
        if not missing and len(there) >= count:
            return there
        if time.monotonic() > end:
            who = f"missing: {', '.join(missing)}" if missing else f"there: {', '.join(sorted(there))}"
            raise StageError(f"{len(there)} of {max(count, len(names))} nodes joined within {timeout:.0f} s; {who}")
        time.sleep(pause)


def _wait_in_cluster(arguments: argparse.Namespace) -> int:
    if not arguments.names and arguments.count < 1:
        raise ConfigError("whom to wait for? Give the names of the nodes, or --count N")
    start = time.monotonic()
    _connect(os.environ.get("RAY_ADDRESS", "auto"), arguments.timeout)
    try:
        left = max(0.0, arguments.timeout - (time.monotonic() - start))
        there = wait_for(arguments.names, arguments.count, _joined, left, pause=1.0)
    finally:
        ray.shutdown()
    print(f"all {len(there)} nodes are there: {', '.join(sorted(there))}", flush=True)
    return OK


def _connect(address: str, timeout: float, pause: float = 1.0) -> None:
    """Join the cluster as soon as its head answers; StageError where it does not within `timeout` seconds."""
    start, terminate = time.monotonic(), signal.getsignal(signal.SIGTERM)
    while True:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            signal.signal(signal.SIGTERM, terminate)  # Ray has one of its own
            return
        except Exception as error:  # Ray raises many kinds while its head is starting
            ray.shutdown()
            if time.monotonic() - start > timeout:
                raise StageError(f"no head answers at {address} in {timeout:g} s: {error}") from error
            time.sleep(pause)


def _joined() -> set[str]:
    return {node["NodeName"] for node in ray.nodes() if node["Alive"]}


if __name__ == "__main__":
    sys.exit(main())
