"""All stages of a world in order: `python -m launch.pipeline configs/desktop_sim [--hours H] [--from STAGE] [stage.a.b=value ...]`.

A finished stage whose settings and inputs are unchanged is not run again; a stage that was interrupted goes on; one whose
settings or inputs changed is made anew, and what was there is kept under old/.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from launch import stage_state
from launch.entry import INTERRUPTED, OK, guarded, sole_user, spoken
from launch.progress import clock
from launch.reporting import write_report
from launch.run import add_common, open_runtime, summary
from launch.run_config import RunConfig, load_run
from launch.runtime import Runtime
from launch.stages import describe, run_stage
from wm.config import ConfigError
from wm.stages.evaluate_captions import EvaluateCaptionsConfig

ORDER = ("record", "vae", "encode", "dit", "distill", "evaluate", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong input, 75 stopped by a scheduler, 130 interrupted."""
    arguments = parser().parse_intermixed_args(argv)
    command = spoken("launch.pipeline", argv)
    return guarded(lambda: run_pipeline(arguments, command), command, arguments.traceback)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.pipeline", description="Run all stages of a world, in order."
    )
    parser.add_argument("configs", type=Path, help="folder of the stage files, as configs/desktop_sim")
    parser.add_argument("overrides", nargs="*", help="changes of the files, as vae.loop.num_steps=100")
    add_common(parser)
    parser.add_argument("--from", dest="first", choices=ORDER, help="make this stage and all after it anew")
    return parser


@dataclass(frozen=True)
class Step:
    """One stage of the pipeline."""

    name: str  # of its file
    run: RunConfig
    folder: Path


def load_steps(configs: Path, root: Path, overrides: Sequence[str], hours: float) -> list[Step]:
    """The stages that `configs` has files for, in order; ConfigError for the first file that is wrong."""
    if not configs.is_dir():
        raise ConfigError(f"no folder {configs}; give one with stage files, as configs/desktop_sim")
    names = [name for name in ORDER if (configs / f"{name}.yaml").exists()]
    if not names:
        raise ConfigError(
            f"{configs} has no stage file; at least one of {', '.join(f'{name}.yaml' for name in ORDER)} is needed"
        )
    sorted_out: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        name, _, rest = override.partition(".")
        if name not in sorted_out or "=" not in rest:
            raise ConfigError(f"override {override!r}: write stage.field=value with a stage of {', '.join(names)}")
        sorted_out[name].append(rest)
    runs = {name: load_run(configs / f"{name}.yaml", sorted_out[name], hours) for name in names}
    return [Step(name, run, run.output(root)) for name, run in runs.items()]


def run_pipeline(arguments: argparse.Namespace, command: str) -> int:
    root = arguments.root or Path("runs") / arguments.configs.resolve().name
    steps = load_steps(arguments.configs, root, arguments.overrides, arguments.hours)
    with ExitStack() as stack:
        stack.enter_context(sole_user(root))
        _set_aside(steps, root, arguments.first)
        runtime: Runtime | None = None
        for number, step in enumerate(steps, 1):
            head = f"[{number}/{len(steps)}] {step.name}"
            if stage_state.finished(step.folder, stage_state.identity(step.run, root)):
                print(f"{head:<15} finished before, {clock(stage_state.read(step.folder)['seconds'])}", flush=True)
                continue
            print(f"{head:<15} {describe(step.run)}", flush=True)
            # One runtime for all stages, and none where nothing is left to do.
            runtime = runtime or stack.enter_context(open_runtime(arguments))
            if not _run(step, root, runtime, arguments.configs):
                print(f"stopped; what is finished stays. Go on with: {command}")
                return INTERRUPTED
            write_report(root, {step.name: step.run for step in steps})
    _show_end(root, any(isinstance(step.run.stage, EvaluateCaptionsConfig) for step in steps))
    return OK


def _run(step: Step, root: Path, runtime: Runtime, configs: Path) -> bool:
    """Make one stage; False where an interrupt ended it early."""
    changes = stage_state.changes(step.folder, step.run, stage_state.identity(step.run, root))
    if changes:
        print(
            f"      {changes}: made anew, the old one is kept in {stage_state.move_aside(root, step.folder)}",
            flush=True,
        )
    result = run_stage(step.run, root, runtime, configs)
    if result.get("stopped"):
        return False
    print(f"      done in {clock(stage_state.read(step.folder)['seconds'])}{summary(result)}", flush=True)
    return True


def _set_aside(steps: Sequence[Step], root: Path, first: str | None) -> None:
    """Keep the outputs of the stages from `first` on under old/."""
    names = [step.name for step in steps]
    if first is None:
        return
    if first not in names:
        raise ConfigError(f"--from {first}: there is no such stage here, only {', '.join(names)}")
    for step in steps[names.index(first) :]:
        if step.folder.exists():
            print(f"{step.name}: the old one is kept in {stage_state.move_aside(root, step.folder)}", flush=True)


def _show_end(root: Path, from_text: bool) -> None:
    """Where everything is, and the command to play, or to draw from a text."""
    report, artifact = root / "report" / "report.html", root / "artifact"
    if report.exists():
        print(f"report       {report}")
    print(f"TensorBoard  tensorboard --logdir {root}")
    if artifact.exists():
        print(f"artifact     {artifact}")
        if from_text:
            print(
                f'draw         python -m tools.draw {artifact} "a red circle moves left behind a green square" --out clip.mp4'
            )
        else:
            print(f"play         python -m tools.rollout {artifact}")


if __name__ == "__main__":
    sys.exit(main())
