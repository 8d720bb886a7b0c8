"""`precision: auto`: the number format that is faster where a stage runs, chosen when it begins and kept while it goes on.

A GPU is faster in bfloat16. Processors differ: some multiply bfloat16 twice as fast as float32, some that have instructions
for it half as fast, and those without ten times slower.
"""

import time
from pathlib import Path
from typing import Any

import torch

from launch import stage_state
from launch.run_config import RunConfig
from wm.config import from_dict, to_dict

AUTO = "auto"
SIZE, REPEATS = 512, 5  # of the product that is timed, and how often: a few milliseconds in all
ADVANTAGE = 1.2  # so much faster bfloat16 has to be: what is not a product is no faster in it


def settled(run: RunConfig, folder: Path) -> RunConfig:
    """`run` with a number format wherever it says auto: the one that the stage in `folder` began with."""
    if with_precision(run, "float32") == run:
        return run
    state = stage_state.read(folder)
    if "precision" not in state:
        state["precision"] = fastest(run.resources.gpus_per_worker > 0 or torch.cuda.is_available())
        stage_state.write(folder, state)
    return with_precision(run, state["precision"])


def with_precision(run: RunConfig, precision: str) -> RunConfig:
    """`run` with this number format wherever it says auto."""
    return from_dict(RunConfig, _replaced(to_dict(run), precision))


def fastest(on_gpu: bool) -> str:
    """ "bfloat16" or "float32"; on a processor by a product of each."""
    if on_gpu:
        return "bfloat16"
    low, full = (_seconds(dtype) for dtype in (torch.bfloat16, torch.float32))
    return "bfloat16" if low * ADVANTAGE < full else "float32"


def _replaced(tree: Any, precision: str) -> Any:
    if isinstance(tree, list):
        return [_replaced(value, precision) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        name: precision if (name, value) == ("precision", AUTO) else _replaced(value, precision)
        for name, value in tree.items()
    }


def _seconds(dtype: torch.dtype) -> float:
    """Of the fastest of a few products, the first of which only warms up."""
    matrix, taken = torch.ones(SIZE, SIZE, dtype=dtype), []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
