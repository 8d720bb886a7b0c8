"""Stopped at any moment, as a keyboard, a scheduler or Ray's job server does it, a run on Ray leaves nothing behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launch.entry import INTERRUPTED, REQUEUE
from launch.ray_runtime import sweep
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # others would leave files in /dev/shm

HERE = Path(__file__).parent.parent
STOPS = int(os.environ.get("WM_STOPS", "3"))  # case L-13 asks for 50, which take 25 minutes: WM_STOPS=50
LONGEST = 25.0  # seconds until a stop: imports, Ray, its workers and the training's first steps have all begun by then
PATIENCE = 200.0
GONE_SECONDS = 30.0
KILL_SECONDS = 30.0  # until a scheduler kills what is still there (SLURM's KillWait)
MARK = "WM_RUN_OF_A_TEST"  # in the environment of all processes of a run


def marked(mark: str) -> list[str]:
    """Command lines of the processes that a run with this mark has left."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a short name: the path of a socket has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="l-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stops") / "smoke"
    command = [sys.executable, "-m", "launch.run", "configs/smoke/record.yaml", "--root", str(made), "--local"]
    subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=PATIENCE)
    return made


def stop(process: "subprocess.Popen[str]", kind: str) -> str:
    """What the run said to its end."""
    if kind == "job":  # Ray's job server ends the entrypoint alone
        process.terminate()
    else:  # Ctrl-C reaches all of the terminal's foreground group, a scheduler all of a step, Ray's own processes among them
        os.killpg(process.pid, signal.SIGINT if kind == "keyboard" else signal.SIGTERM)
    try:
        return process.communicate(timeout=KILL_SECONDS if kind == "scheduler" else PATIENCE)[0]
    except subprocess.TimeoutExpired:
        if kind == "scheduler":
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate(timeout=1)[0]


@pytest.mark.case("L-13")
@pytest.mark.parametrize("number", range(STOPS))
def test_stopped_at_a_random_moment_it_leaves_nothing(number: int, root: Path, temporary: Path) -> None:
    rng, mark = random.Random(number), uuid.uuid4().hex
    kind, moment = ("keyboard", "job", "scheduler")[number % 3], rng.uniform(0.0, LONGEST)
    shared = set(os.listdir("/dev/shm"))
    command = ["launch.run", "configs/smoke/vae.yaml", "--root", str(root), "loop.num_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=HERE, env=os.environ | {MARK: mark, "TMPDIR": str(temporary)},
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    time.sleep(moment)
    said = f"{kind} after {moment:.1f} s: {stop(process, kind)}"
    if kind != "scheduler":
        # Before Python has got to our first line, the signal does what it does to any Python.
        early = {1, -signal.SIGINT, -signal.SIGTERM} if "tokenizer:" not in said else set()
        assert process.returncode in {INTERRUPTED if kind == "keyboard" else REQUEUE} | early, said
    wait_for(lambda: not marked(mark), f"{kind}: all gone", GONE_SECONDS, lambda: "\n".join([*marked(mark), said]))
    if kind == "scheduler":
        sweep(temporary)  # what was killed cannot clean up: the next run does
    left = [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]  # torch's cache
    assert left == [], said
    assert set(os.listdir("/dev/shm")) <= shared
