"""`python -m launch.punish CONFIG [--mean-seconds 60] [--minutes 5]`: a training whose workers are killed now and then.

Starts the training of a stage file as `launch.run` does, and from its first step on kills one of its workers (kill -9) at
random, with exponentially distributed times in between. Nothing else is touched: the run has to go on by itself. What that
cost is in `punish.json` in the stage's folder. Workers are killed on this machine only.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from launch.entry import INTERRUPTED, OK, StageError, guarded, spoken
from launch.processes import introduced
from launch.progress import clock
from launch.run_config import RunConfig, load_run
from wm.config import ConfigError
from wm.durable import write_text

LOOK_EVERY = 0.05  # seconds
PATIENCE = 900.0  # seconds for a start or a recovery; a run that needs more is lost
ENDLESS = 1_000_000  # failures that the run survives


@dataclass(frozen=True)
class Kill:
    seconds: float  # after the first step
    rank: int
    step: int  # the last one that was logged before
    lost_steps: int  # done again afterwards
    recovery_seconds: float  # until a step was done again


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 the run failed by itself, 2 wrong input."""
    arguments = _parser().parse_intermixed_args(argv)
    return guarded(lambda: _main(arguments), spoken("launch.punish", argv), arguments.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.punish", description="Kill workers of a training at random."
    )
    parser.add_argument("config", type=Path, help="training stage file, as configs/smoke/vae.yaml")
    parser.add_argument("overrides", nargs="*", help="changes of the file, as loop.save_every=20")
    parser.add_argument("--mean-seconds", type=float, default=60.0, help="mean time from one kill to the next")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long, counted from the first step")
    parser.add_argument("--kills", type=int, default=ENDLESS, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0, help="of the times and of the choice of workers")
    parser.add_argument(
        "--root", type=Path, help="folder of this world's outputs; default runs/<name of the config folder>"
    )
    parser.add_argument("--local", action="store_true", help="one process without Ray; the same command is given again")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    if arguments.mean_seconds <= 0 or arguments.minutes <= 0 or arguments.kills < 1:
        raise ConfigError("--mean-seconds, --minutes and --kills must be above 0")
    stage = load_run(arguments.config, arguments.overrides)
    if not stage.trains:
        raise ConfigError(
            f"{arguments.config} is a {stage.kind} stage, which does not train: give a training stage's file"
        )
    # A row a step, or it would not be known which steps were done twice.
    overrides = [*arguments.overrides, "loop.log_every=1", f"resources.max_failures={ENDLESS}"]
    run = load_run(arguments.config, overrides)
    root = arguments.root or Path("runs") / arguments.config.resolve().parent.name
    command = [sys.executable, "-m", "launch.run", str(arguments.config), *overrides, "--root", str(root)]
    report = punish(run, root, command + ["--local"] * arguments.local, arguments)
    write_text(run.output(root) / "punish.json", json.dumps(report, indent=1))
    print(_summary(report))
    return OK


def punish(run: RunConfig, root: Path, command: list[str], wants: argparse.Namespace) -> dict[str, Any]:
    """What `punish.json` says: the goodput, what it was reckoned from, and every kill."""
    folder, chance = run.output(root), random.Random(wants.seed)
    rows = Rows(folder / "metrics.jsonl")
    with Training(command, folder / "punish.log", again=wants.local) as training:
        began = time.monotonic()
        training.wait(lambda: bool(rows.read()), PATIENCE)
        first = last = time.monotonic()
        end, kills = first + 60 * wants.minutes, list[Kill]()
        while not training.ended and len(kills) < wants.kills:
            due = last + chance.expovariate(1 / wants.mean_seconds)
            training.wait(lambda at=min(due, end): time.monotonic() >= at)  # type: ignore[misc]
            if training.ended or time.monotonic() >= end:
                break
            last = time.monotonic()
            kill = _kill(training, folder, rows, chance, first)
            kills += [kill] if kill else []
        rows.read()  # the steps since the last kill
        wall = time.monotonic() - first
    return {
        "goodput": rows.useful_seconds() / wall,
        "wall_seconds": wall,
        "useful_seconds": rows.useful_seconds(),
        "seconds_to_first_step": first - began,
        "steps": len(rows.kept),
        "steps_done_twice": rows.count - len(rows.kept),
        "median_recovery_seconds": statistics.median(kill.recovery_seconds for kill in kills) if kills else None,
        "mean_seconds": wants.mean_seconds,
        "seed": wants.seed,
        "kills": [asdict(kill) for kill in kills],
    }


def _kill(training: "Training", folder: Path, rows: "Rows", chance: random.Random, first: float) -> Kill | None:
    """Kill a worker and wait for a step of those that take its place; None where the run ended meanwhile."""
    training.wait(lambda: bool(introduced(folder)), PATIENCE)
    workers = introduced(folder)
    if not workers or not (victim := chance.choice(workers)).kill():
        return None
    at = time.monotonic()
    training.wait(lambda: not set(introduced(folder)) & set(workers), PATIENCE)
    rows.read()
    reached, count = rows.last_step, rows.count
    training.wait(lambda: rows.read() > count, PATIENCE)
    if rows.count == count:
        return None
    again = rows.steps_since(count)[0]
    kill = Kill(at - first, victim.rank, reached, max(0, reached + 1 - again), time.monotonic() - at)
    print(
        f"{clock(kill.seconds)}: rank {kill.rank} killed after step {kill.step}; training again after "
        f"{kill.recovery_seconds:.1f} s, {kill.lost_steps} steps lost",
        flush=True,
    )
    return kill


class Rows:
    """What a metrics.jsonl with a row a step says from now on; what is in it already does not count."""

    def __init__(self, path: Path):
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self._steps: list[int] = []
        self.kept: dict[int, float] = {}  # seconds of each step, as it was done last

    def read(self) -> int:
        """How many rows there are by now."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]  # what follows is being written
            self._at += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                row = json.loads(line)
                self._steps.append(row["step"])
                self.kept[row["step"]] = row["seconds_per_step"]
        return self.count

    @property
    def count(self) -> int:
        return len(self._steps)

    @property
    def last_step(self) -> int:
        return self._steps[-1]

    def steps_since(self, count: int) -> list[int]:
        return self._steps[count:]

    def useful_seconds(self) -> float:
        """Time in the steps that stayed; what was done twice counts once."""
        return sum(self.kept.values())


class Training:
    """The command that trains; with `again` it is given anew where it was killed. Told to stop when the context ends."""

    def __init__(self, command: list[str], log: Path, again: bool):
        self._command, self._log, self._again = command, log, again
        self.ended = False

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.unlink(missing_ok=True)
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(PATIENCE)
        finally:
            self._process.kill()
        if error is None and code not in (OK, INTERRUPTED):
            raise StageError(f"the run could not be stopped (exit code {code}); its words are in {self._log}")

    def wait(self, condition: Callable[[], bool], seconds: float = float("inf")) -> None:
        """Until `condition` holds or the run came to its end. StageError where it fails, or takes longer than `seconds`."""
        end = time.monotonic() + seconds
        while not self._finished() and not condition():
            if time.monotonic() > end:
                raise StageError(f"the run did nothing for {clock(seconds)}; its words are in {self._log}")
            time.sleep(LOOK_EVERY)

    def _finished(self) -> bool:
        code = self._process.poll()
        if code == -signal.SIGKILL and self._again:
            self._start()
        elif code not in (None, OK):
            raise StageError(f"the run failed (exit code {code}); its words are in {self._log}")
        self.ended = code == OK
        return self.ended

    def _start(self) -> None:
        with open(self._log, "a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)


def _summary(report: dict[str, Any]) -> str:
    kills = len(report["kills"])
    recovery = f", training again after {report['median_recovery_seconds']:.1f} s (median)" if kills else ""
    return (
        f"{kills} kills in {clock(report['wall_seconds'])}{recovery}: {report['steps']} steps and {report['steps_done_twice']} "
        f"done twice, goodput {report['goodput']:.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
