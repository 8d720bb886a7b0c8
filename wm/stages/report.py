"""The report: what the evaluation measured, held against its targets, as report.json and one page that needs nothing else."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wm.config import to_dict
from wm.durable import write_text
from wm.measures import PSNR_CAP_DB
from wm.stages.bench import unit_name
from wm.stages.evaluate import EvaluateConfig, Target, read_unit
from wm.stages.page import page

FORMAT_VERSION = 1
# What the numbers depend on most; the ones that are not installed are left out.
PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "transformers", "xformers", "numpy", "av", "safetensors", "wm")


def write_report(
    folder: Path,
    *,
    evaluation: Path,
    config: EvaluateConfig,
    timing: Mapping[str, float],
    world: str,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `folder`/report.json and report.html from the units in `evaluation`; what comes back is report.json's tree.

    `timing` is the seconds of every stage, `settings` what else the reader should see of the run (resolved configs).
    ValueError when a unit that `config` asks for has not been measured.
    """
    units = {name: _unit(evaluation, name) for name in (unit_name(*unit) for unit in config.all_units())}
    report = _tree(units, config) | {
        "timing": {name: round(seconds, 1) for name, seconds in timing.items()},
        "seed": seed,
        "hardware": hardware(),
        "versions": versions(),
    }
    report = {"format_version": FORMAT_VERSION, "world": world} | report
    write_text(folder / "report.json", json.dumps(report, indent=2, allow_nan=False))
    write_text(folder / "report.html", page(report, units, evaluation, settings or {}))
    return report


def _unit(evaluation: Path, name: str) -> dict[str, Any]:
    unit = read_unit(evaluation / f"{name}.json")
    if unit is None:
        raise ValueError(f"{evaluation / name}.json is missing: the evaluation is not finished; run the evaluate stage")
    return unit


def _tree(units: Mapping[str, dict[str, Any]], config: EvaluateConfig) -> dict[str, Any]:
    """The measures by model and number of steps, what they were held against and by which rules."""
    tree: dict[str, Any] = {"vae": units["vae"]["measures"], "teacher": {}, "student": {}}
    speed: dict[str, Any] = {"teacher": {}, "student": {}}
    for model, steps in config.units():
        measures = dict(units[unit_name(model, steps)]["measures"])
        speed[model][str(steps)] = measures.pop("speed")
        tree[model][str(steps)] = measures
    tree["speed"] = speed
    tree["targets"] = [judged(target, tree) for target in config.targets]
    tree["rules"] = {
        "transition": to_dict(config.transition_rule),
        "counts": to_dict(config.counts),
        "psnr_cap_db": PSNR_CAP_DB,
    }
    return tree


def judged(target: Target, tree: Mapping[str, Any]) -> dict[str, Any]:
    """`target` with the value that was measured, its interval, and whether it passed; None where it was not measured."""
    value, base = _look_up(tree, target.measure), 0.0
    if target.relative_to is not None:
        base = _look_up(tree, target.relative_to)
    row: dict[str, Any] = {k: v for k, v in to_dict(target).items() if v is not None}
    if value is None or base is None:
        return row | {"value": None, "passed": None}
    value = round(value - base, 4)
    low, high = _look_up(tree, _beside(target.measure, "low")), _look_up(tree, _beside(target.measure, "high"))
    if target.relative_to is None and low is not None and high is not None:
        row |= {"low": low, "high": high}
    above = target.at_least is None or value >= target.at_least
    below = target.at_most is None or value <= target.at_most
    return row | {"value": value, "passed": above and below}


def _look_up(tree: Mapping[str, Any], path: str) -> Any:
    """What is at a dotted path, None where there is nothing."""
    node: Any = tree
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _beside(path: str, name: str) -> str:
    return path.rpartition(".")[0] + "." + name


def hardware() -> dict[str, Any]:
    """The machine that this runs on: what makes two reports comparable."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _line_of(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpu": gpus,
        "system": platform.platform(),
    }


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages in `names` that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _line_of(path: Path, key: str) -> str:
    """The value of the first line `key : value` of a file in /proc; empty where there is none."""
    if not path.exists():
        return ""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def _memory_gib() -> float | None:
    kib = _line_of(Path("/proc/meminfo"), "MemTotal").removesuffix("kB").strip()
    return round(int(kib) / 2**20, 1) if kib else None
