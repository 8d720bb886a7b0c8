"""Ray itself: its settings, how it comes up, and how it goes without leaving anything behind."""

import fcntl
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray._private import utils

from launch.entry import StageError, headline
from launch.resources import MEET_SECONDS, SILENT_SECONDS, START_SECONDS
from wm.config import ConfigError

log = logging.getLogger(__name__)

# Ray's own settings, for it and all its workers; what the user has set stays.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no request leaves the machine
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the end of a stage is seen that late; the default is 2 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{START_SECONDS:g}",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{SILENT_SECONDS:g}",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": f"{MEET_SECONDS:g}",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean to the user
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take the cores from the processes beside them
    # What a step frees the next one takes again. Given back, it costs a page fault every 4 KiB: a tenth of a training step.
    "MALLOC_MMAP_THRESHOLD_": f"{32 << 20}",  # bytes; glibc takes no more
    "MALLOC_TRIM_THRESHOLD_": f"{1 << 30}",  # bytes that a process keeps at most
}
OBJECT_STORE = 256 << 20  # bytes; nothing large goes through Ray
PREFIX, KEPT = "wm-ray-", "kept"
LOCAL = "local"  # a runtime of our own, even where a cluster runs on this machine


@contextmanager
def ray_runtime(address: str | None) -> Iterator[None]:
    """Connected to the cluster at `address`, or to a runtime of this machine that ends with the context.

    ConfigError where no cluster is at `address`, StageError where Ray does not come up.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells that a token protects the runtime, which is its default
    if address:
        # The nodes of a cluster that runs already have an environment of their own: the job brings the settings along.
        environment = {name: os.environ[name] for name in SETTINGS}
        with _connected({"address": address, "runtime_env": {"env_vars": environment}}):
            yield
        return
    with _own_folder() as folder:
        where = {"address": LOCAL, "_temp_dir": folder}
        with _connected({**where, "include_dashboard": False, "object_store_memory": OBJECT_STORE}):
            yield


@contextmanager
def _own_folder() -> Iterator[str]:
    """Where Ray's logs and sockets lie. It goes with the runtime; where a stage or Ray failed it stays, and the log says so."""
    root = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    sweep(root)
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=root))
    in_use = os.open(made, os.O_RDONLY)
    fcntl.flock(in_use, fcntl.LOCK_EX)
    folder = made.rename(root / made.name.removeprefix("."))  # locked before a sweeper can see it
    try:
        yield str(folder)
    except StageError:
        (folder / KEPT).touch()
        log.warning("Ray's own logs are in %s", folder)
        raise
    finally:
        os.close(in_use)
        sweep(root)


def sweep(root: Path) -> None:
    """Remove the folders of runtimes that have ended, also of those that were killed: whose lock is free, and no failure kept."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid() or (folder / KEPT).exists():
                continue
            seen = os.open(folder, os.O_RDONLY)
        except OSError:  # another sweeper was faster
            continue
        try:
            fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(seen)


@contextmanager
def _connected(where: dict[str, Any]) -> Iterator[None]:
    try:
        _start(where)
        yield
    finally:
        ray.shutdown(wait_for_processes=True)


def _start(where: dict[str, Any], attempts: int = 2) -> None:
    """ray.init, once more where it failed: Ray gives its own processes 30 seconds, which a loaded machine may exceed."""
    try:
        with _interrupts_held_back():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except Exception as error:  # Ray raises the class Exception itself
        ray.shutdown(wait_for_processes=True)
        if where["address"] != LOCAL and isinstance(error, ConnectionError):
            raise ConfigError(f"no Ray cluster answers at {where['address']}: {error}") from None
        if where["address"] != LOCAL or attempts == 1:
            raise StageError(f"Ray did not start: {headline(error)}; --local does without") from error
        _start(where, attempts - 1)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """An interrupt takes effect at the end: Ray that is left while it comes up leaves processes behind. A second one is not
    held back. SIGTERM stays ours: with Ray's own handler the process would end where it is."""
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # that Ray's handler in C++ may have set, to end the process three seconds later
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, hold) for number in numbers}
    rays, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = rays
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
