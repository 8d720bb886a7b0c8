"""One stage: `python -m launch.run configs/desktop_sim/vae.yaml [--root runs/desktop_sim] [--local] [a.b=value ...]`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from launch import stage_state
from launch.entry import INTERRUPTED, OK, guarded, sole_user, spoken
from launch.progress import clock
from launch.resources import MEET_SECONDS, SILENT_SECONDS, START_SECONDS, Resources
from launch.run_config import load_run
from launch.runtime import Runtime, ThisProcess
from launch.stages import check_inputs, describe, run_stage
from wm.config import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong input, 75 stopped by a scheduler, 130 interrupted."""
    arguments = parser().parse_intermixed_args(argv)
    command = spoken("launch.run", argv)
    return guarded(lambda: run_file(arguments, command), command, arguments.traceback)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch.run", description="Run one stage.")
    parser.add_argument("config", type=Path, help="stage file, as configs/desktop_sim/vae.yaml")
    parser.add_argument("overrides", nargs="*", help="changes of the file, as loop.num_steps=100")
    add_common(parser)
    parser.add_argument("--again", action="store_true", help="keep what is there under old/ and make it anew")
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every command that runs stages."""
    parser.add_argument(
        "--root", type=Path, help="folder of this world's outputs; default runs/<name of the config folder>"
    )
    parser.add_argument("--hours", type=float, default=0.0, help="length of the training; 0.25 is what the files say")
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    parser.add_argument("--address", help="of a Ray cluster that is running; default: one is started on this machine")
    parser.add_argument("--trust-checkpoint", action="store_true", help="go on from another user's checkpoint too")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")


def open_runtime(arguments: argparse.Namespace) -> AbstractContextManager[Runtime]:
    """The runtime that the arguments ask for; Ray is imported only where it is used."""
    if arguments.local:
        return ThisProcess(arguments.trust_checkpoint)
    from launch.cluster import Cluster

    return Cluster(arguments.address, arguments.trust_checkpoint)


def run_file(arguments: argparse.Namespace, command: str) -> int:
    run = load_run(arguments.config, arguments.overrides, arguments.hours)
    root = arguments.root or Path("runs") / arguments.config.resolve().parent.name
    check_inputs(run, root, arguments.config.parent)
    with sole_user(root):
        folder = run.output(root)
        if arguments.again and folder.exists():
            print(f"the old one is kept in {stage_state.move_aside(root, folder)}")
        name = stage_state.identity(run, root)
        if stage_state.finished(folder, name):
            print(f"{folder} is finished already; --again makes it anew")
            return OK
        changes = stage_state.changes(folder, run, name)
        if changes:
            raise ConfigError(
                f"{folder} was made with other settings ({changes}); --again keeps it under old/ and makes it anew"
            )
        print(f"{describe(run)} -> {folder}", flush=True)
        if run.trains:
            print(patience(run.resources, on_ray=not arguments.local), flush=True)
        with open_runtime(arguments) as runtime:
            result = run_stage(run, root, runtime, arguments.config.parent)
    if result.get("stopped"):
        print(f"stopped at step {result['step']}; go on with: {command}")
        return INTERRUPTED
    print(f"done in {clock(stage_state.read(folder)['seconds'])}{summary(result)}")
    return OK


def patience(resources: Resources, on_ray: bool) -> str:
    """The time-outs of a training, in a line."""
    workers = f"workers start within {START_SECONDS:g} s, meet within {MEET_SECONDS:g} s and answer within {SILENT_SECONDS:g} s, "
    return (
        f"time-outs: {workers if on_ray else ''}a phase of a step within {resources.timeout_seconds:g} s (resources.timeout_seconds), "
        f"a collective within {resources.collective_seconds:g} s"
    )


def summary(result: dict[str, Any]) -> str:
    """The numbers of a result in a line, after ": "; "" where it has none."""
    hidden = ("seconds", "stopped")  # said elsewhere
    shown = {name: value for name, value in result.items() if isinstance(value, int | float) and name not in hidden}
    words = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()]
    return f": {', '.join(words)}" if words else ""


if __name__ == "__main__":
    sys.exit(main())
