"""How fast an artifact is: frames a second and latencies of its models, and their ratios, all in one run.

python -m tools.bench runs/desktop_sim/artifact
python -m tools.bench runs/desktop_sim/artifact student@2 student@2/bfloat16 teacher@16 --json speed.json

A machine is never twice equally fast, so the cases take turns of a few frames: what slows one slows its neighbours too,
and the ratio of two turns of one round says more than two numbers of two runs.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from launch.entry import OK, guarded, spoken
from wm.artifact import World, load
from wm.batch import Action
from wm.config import ConfigError
from wm.durable import write_text
from wm.measures import bootstrap
from wm.rollout import WorldSession
from wm.stages.bench import row, speed_rows
from wm.stages.report import hardware, versions

WARM_UP_ROUNDS = 2  # caches fill, kernels are chosen


@dataclass(frozen=True)
class Case:
    """One way to play an artifact."""

    model: str
    num_steps: int
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.model}@{self.num_steps}" + (f"/{self.precision}" if self.precision != "float32" else "")


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong input, 130 interrupted."""
    options = _parser().parse_args(argv)
    command = spoken("tools.bench", argv)
    return guarded(lambda: _bench(options), command, options.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path, help="folder that the export stage or tools.export wrote")
    parser.add_argument("cases", nargs="*", help="MODEL@STEPS or MODEL@STEPS/bfloat16; others are held to the first")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each case (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="frames of a turn (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="rollouts side by side (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, with the machine")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def _bench(options: argparse.Namespace) -> int:
    for name, least in (("rounds", 2), ("frames", 1), ("batch", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    if options.threads:
        torch.set_num_threads(options.threads)
    world = load(options.artifact, options.device)
    cases = [parsed(text, world) for text in options.cases] or usual(world)
    if not world.starts:
        raise ConfigError(f"{options.artifact} has no clip to start from; export it with held-out recordings")
    worlds = {"float32": world, "bfloat16": world}
    if any(case.precision == "bfloat16" for case in cases):
        worlds["bfloat16"] = _cast(load(options.artifact, options.device), torch.bfloat16)
    seconds = timed(worlds, cases, options.rounds, options.frames, options.batch)
    rows = compared(seconds, options.batch)
    print("\n".join(table(rows)))
    if options.json:
        settings = {name: getattr(options, name) for name in ("rounds", "frames", "batch", "device")}
        settings |= {"artifact": str(options.artifact), "threads": torch.get_num_threads()}
        about = {"settings": settings, "hardware": hardware(), "versions": versions()}
        write_text(options.json, json.dumps({"cases": rows, **about}, indent=2, allow_nan=False))
    return OK


def parsed(text: str, world: World) -> Case:
    """The case that `text` names; ConfigError where `world` has no such model."""
    match = re.fullmatch(r"(\w+)@([1-9]\d{0,2})(?:/(float32|bfloat16))?", text)
    if match is None:
        raise ConfigError(f"{text!r} is no case: write MODEL@STEPS, as student@2, or MODEL@STEPS/bfloat16")
    if match[1] not in world.models:
        raise ConfigError(f"{text!r}: this artifact has no {match[1]}; it has {', '.join(world.models)}")
    return Case(match[1], int(match[2]), match[3] or "float32")


def usual(world: World) -> list[Case]:
    """Every model at its own number of steps, the student also at 1, 2 and 4; the student's own comes first."""
    cases = [Case(name, world.manifest.models[name].num_steps) for name in sorted(world.models)]
    return list(dict.fromkeys([*cases, *(Case("student", steps) for steps in (1, 2, 4))]))


def timed(
    worlds: Mapping[str, World], cases: Sequence[Case], rounds: int, frames: int, batch: int = 1
) -> dict[Case, np.ndarray]:
    """Seconds of every frame, (rounds, frames) a case: from the action in to the decoded frame in main memory.

    `worlds` holds the artifact by precision.
    """
    sessions = {case: _Turns(worlds[case.precision], case, batch) for case in cases}
    seconds = {case: np.empty((rounds, frames)) for case in cases}
    for number in range(-WARM_UP_ROUNDS, rounds):
        first = number % len(cases)  # another case begins each round, so that none always follows the same
        for case in (*cases[first:], *cases[:first]):
            taken = [sessions[case].frame() for _ in range(frames)]
            if number >= 0:
                seconds[case][number] = taken
    return seconds


def compared(seconds: dict[Case, np.ndarray], batch: int = 1) -> list[dict[str, Any]]:
    """For each case its speed, and how many times as fast as the first it is: the median over rounds and its interval."""
    first = next(iter(seconds.values())).sum(axis=1)
    rows = []
    for case, taken in seconds.items():
        ratio = bootstrap(first / taken.sum(axis=1), lambda x: float(np.median(x)))
        speed = speed_rows(torch.from_numpy(taken.ravel()), batch)
        rows.append({"case": str(case), **speed, "times_the_first": row(ratio)})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines that a person reads."""
    lines = [f"{'case':<22}{'frames a second':<28}{'latency ms, p50 and p95':<26}times the first (95 %)"]
    for one in rows:
        rate, latency, ratio = one["frames_per_second"], one["latency_ms"], one["times_the_first"]
        speed = f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})"
        times = f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        lines.append(f"{one['case']:<22}{speed:<28}{latency['p50']:>8.1f} {latency['p95']:>8.1f}         {times}")
    return lines


class _Turns:
    """A rollout of one case that goes on from turn to turn, under the actions of the artifact's first clip."""

    def __init__(self, world: World, case: Case, batch: int) -> None:
        frames, action = world.starts[0]
        self._action = Action.concatenate([action] * batch, 0)
        self._session = WorldSession(world, model=case.model, num_steps=case.num_steps, batch=batch)
        self._session.reset(frames[None].expand(batch, -1, -1, -1, -1), self._action)
        self._next = 0

    def frame(self) -> float:
        """Seconds that the next frame took."""
        action = self._action[:, self._next : self._next + 1]
        self._next = (self._next + 1) % self._action.pointer.shape[1]
        began = time.perf_counter()
        self._session.step(action).cpu()
        return time.perf_counter() - began


def _cast(world: World, dtype: torch.dtype) -> World:
    for network in (world.vae, *world.models.values()):
        network.to(dtype)
    return world


if __name__ == "__main__":
    sys.exit(main())
