"""The report of a world: written when its evaluation is there, and again at the end, when the time of every stage is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch import stage_state
from launch.precision import AUTO, with_precision
from launch.run_config import RunConfig
from launch.stage_state import RESULT
from wm.config import to_dict
from wm.stages.caption_report import write_caption_report
from wm.stages.evaluate import EvaluateConfig
from wm.stages.evaluate_captions import EvaluateCaptionsConfig
from wm.stages.report import write_report as write_world_report


def write_report(root: Path, runs: Mapping[str, RunConfig]) -> None:
    """`root`/report from the evaluation among `runs`, stages by name; nothing where none is finished yet."""
    for run in runs.values():
        folder, stage = run.output(root), run.stage
        if not isinstance(stage, EvaluateConfig | EvaluateCaptionsConfig) or not (folder / RESULT).exists():
            continue
        about: dict[str, Any] = {
            "evaluation": folder,
            "timing": stage_state.timing([(name, each.output(root)) for name, each in runs.items()]),
            "world": root.name,
            "seed": run.seed,
            "settings": {name: to_dict(_as_it_ran(each, root)) for name, each in runs.items()},
        }
        if isinstance(stage, EvaluateConfig):
            write_world_report(root / "report", config=stage, **about)
        else:
            write_caption_report(root / "report", config=stage, **about)


def _as_it_ran(run: RunConfig, root: Path) -> RunConfig:
    """In the number format that was settled when it began."""
    return with_precision(run, stage_state.read(run.output(root)).get("precision", AUTO))
