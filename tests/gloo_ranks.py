"""A Python file run as all ranks of a gloo group on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # what a group that the tests themselves run in may have left


@contextmanager
def kept_port() -> Iterator[str]:
    """A port of loopback that nobody else is given while the context lasts; torch's store can listen there."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store does: both may be bound to it
        keeper.bind(("127.0.0.1", 0))
        yield str(keeper.getsockname()[1])


def run_ranks(script: str, arguments: Sequence[str], world_size: int, seconds: float) -> list[str]:
    """What each rank wrote to the terminal, in rank order; none outlives this. TimeoutExpired after `seconds`."""
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    with kept_port() as port:
        workers = [
            subprocess.Popen(
                [sys.executable, script, *arguments],
                env=environment
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_PORT": port},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world_size)
        ]
        try:
            return [worker.communicate(timeout=seconds)[0] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
