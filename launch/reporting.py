"""The report of a world: written when its evaluation is there, and again at the end, when the time of every stage is known."""

from collections.abc import Mapping
from pathlib import Path

from launch import stage_state
from launch.run_config import RunConfig
from launch.stage_state import RESULT
from wm.config import to_dict
from wm.stages import report
from wm.stages.evaluate import EvaluateConfig


def write_report(root: Path, runs: Mapping[str, RunConfig]) -> None:
    """`root`/report from the evaluation among `runs`, stages by name; nothing where none is finished yet."""
    for run in runs.values():
        folder = run.output(root)
        if isinstance(run.stage, EvaluateConfig) and (folder / RESULT).exists():
            report.write_report(
                root / "report",
                evaluation=folder,
                config=run.stage,
                timing=stage_state.timing([(name, each.output(root)) for name, each in runs.items()]),
                world=root.name,
                seed=run.seed,
                settings={name: to_dict(each) for name, each in runs.items()},
            )
