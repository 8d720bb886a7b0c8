"""`python -m tools.bench_saving [--parameters 30e6]`: how long saving keeps a training waiting, as a ratio in one run.

Saves the same learner in turn with what a naive loop does (torch.save of all state in the training's thread, synced),
with our protocol in the training's thread, and beside the training. Host memory for that is made at the start, beside what
comes first, as a training makes it; the first save is shown apart, and so is what making that memory kept waiting. Blocked
is the time that the call takes; nothing of the naive save is left out or added.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wm.engine.commit import Keep
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.saving import Saver
from wm.engine.world import World

WIDTH = 2048


def main(argv: Sequence[str] | None = None) -> int:
    """0 once everything is measured and printed."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix=".bench-saving-", dir=options.folder) as folder:
        found = measure(int(options.parameters), options.rounds, Path(folder), options.device)
    print(json.dumps(found) if options.json else _table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_saving", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--parameters", type=float, default=30e6, help="of the learner; its state has 16 bytes for each"
    )
    parser.add_argument("--rounds", type=int, default=3, help="saves of each kind (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write; on the storage of the runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="numbers for a program")
    return parser


def measure(parameters: int, rounds: int, folder: Path, device: str) -> dict[str, float]:
    """Median seconds by kind of save, gigabytes, and the ratios of blocked to naive."""
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(max(1, parameters // WIDTH**2))]
    learner = LocalLearner(nn.Sequential(*layers), LearnerConfig(), num_steps=1, world=World.single(device))
    here, beside = (_saver(folder / name, name == "beside") for name in ("here", "beside"))
    naive, protocol, blocked, written = [], [], [], []
    here.save(0, {"model": learner}, {})  # makes the moments, as a first step would
    room = _seconds(lambda: beside.make_room({"model": learner}))
    for step in range(1, rounds + 2):
        naive.append(_seconds(lambda: _naive_save(learner, folder / "naive.pt")))
        protocol.append(_seconds(lambda step=step: here.save(step, {"model": learner}, {})))  # type: ignore[misc]
        start = time.perf_counter()
        blocked.append(_seconds(lambda step=step: beside.save(step, {"model": learner}, {})))  # type: ignore[misc]
        beside.settle(wait=True)
        written.append(time.perf_counter() - start)
    median = {"naive": naive[1:], "protocol": protocol[1:], "blocked": blocked[1:], "until_written": written[1:]}
    found = {f"{name}_seconds": statistics.median(values) for name, values in median.items()}
    ratios = {
        "room_seconds": room,
        "first_blocked_seconds": blocked[0],
        "first_blocked_to_naive": blocked[0] / found["naive_seconds"],
        "blocked_to_naive": found["blocked_seconds"] / found["naive_seconds"],
        "blocked_to_protocol": found["blocked_seconds"] / found["protocol_seconds"],
    }
    return {"gigabytes": (folder / "naive.pt").stat().st_size / 1e9, **found, **ratios}


def _saver(root: Path, beside: bool) -> Saver:
    return Saver(root, World.single(), {}, Keep(1), beside=beside)


def _naive_save(learner: LocalLearner, path: Path) -> None:
    average = learner._average.tensors if learner._average is not None else []
    state = {"model": learner.module.state_dict(), "optimizer": learner._optimizer.state_dict(), "average": average}
    torch.save(state, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _seconds(action: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _table(found: dict[str, float]) -> str:
    return "\n".join(
        [
            f"state                            {found['gigabytes']:8.2f} GB",
            f"naive save                       {found['naive_seconds']:8.2f} s   (torch.save and fsync)",
            f"our protocol, here and now       {found['protocol_seconds']:8.2f} s   (fsync, SHA-256, rename, retention)",
            f"beside the training: blocked     {found['blocked_seconds']:8.2f} s   (the first time {found['first_blocked_seconds']:.2f})",
            f"beside the training: until whole {found['until_written_seconds']:8.2f} s",
            f"making its memory: blocked       {found['room_seconds']:8.2f} s   (once, before the first step)",
            f"blocked / naive                  {found['blocked_to_naive']:8.3f}     (the first time {found['first_blocked_to_naive']:.3f})",
            f"blocked / protocol here and now  {found['blocked_to_protocol']:8.3f}",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
