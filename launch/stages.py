"""One stage from its config to its `result.json`, by whatever runtime there is."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.remote import is_address
from launch import stage_state
from launch.captions import caption_units, judge_captions
from launch.encoded_captions import refuse_stale_captions
from launch.exporting import write_artifact
from launch.latents import make_latents
from launch.linting import look
from launch.measuring import make_measurements
from launch.precision import settled
from launch.progress import Progress, Reading, training_progress
from launch.recordings import SPLITS, RecordConfig, make_recordings
from launch.run_config import RunConfig
from launch.runtime import Runtime
from launch.stage_state import DATASET, RESULT
from wm.config import ConfigError, dump
from wm.durable import write_text
from wm.stages.encode_latents import EncodeLatentsConfig
from wm.stages.evaluate import EvaluateConfig
from wm.stages.evaluate_captions import EvaluateCaptionsConfig
from wm.stages.export import ExportConfig

# Which stage file makes what a stage may find missing; latents and recordings are datasets, the others have weights.
MAKERS = {"recordings": "record", "latents": "encode", "vae": "vae", "dit": "dit", "distill": "distill"}

LOOKED_AT = 4  # clips of its dataset that the linter reads before a training


@dataclass
class Counter:
    """Tasks done so far, for the progress bar."""

    total: int
    unit: str
    done: int = field(default=0)

    def __call__(self, done: int) -> None:
        self.done = done

    def read(self) -> Reading:
        return Reading(self.done, self.total, self.unit)


def run_stage(run: RunConfig, root: Path, runtime: Runtime, configs: Path) -> dict[str, Any]:
    """What `result.json` says of `run` under `root`; `stopped` is True where an interrupt ended a training early.

    Goes on where an earlier attempt was. `configs` is the folder of the stage files, for messages.
    """
    check_inputs(run, root, configs)
    folder = run.output(root)
    spent = stage_state.begin(folder, run, stage_state.identity(run, root))
    run = settled(run, folder)
    counter = Counter(_num_tasks(run, root), "shards" if run.kind in ("record", "encode_latents") else "units")
    if run.trains:
        look([run.located(root, name) for name in (run.source, *run.mixed_in)], LOOKED_AT)
    read = training_progress(folder, run.loop.num_steps) if run.trains and run.loop else counter.read
    with Progress(read, beat=lambda seconds: stage_state.spend(folder, spent + seconds)):
        if run.trains:
            return runtime.train(run, root)
        dump(run, folder / "config.yaml")
        result = _make(run, root, folder, runtime, counter)
    write_text(folder / RESULT, json.dumps(result, indent=1))
    return result


def check_inputs(run: RunConfig, root: Path, configs: Path) -> None:
    """ConfigError naming the first thing that `run` reads and that is not there yet, and the command that makes it."""
    for name in stage_state.inputs(run):
        if is_address(name):
            run.located(root, name)  # says itself what is wrong with it
            continue
        owner = Path(name).parts[0]
        is_dataset = owner == "recordings" or name in (run.source, *run.mixed_in)
        needed = root / name / (DATASET if is_dataset else "weights/model.safetensors")
        if needed.exists():
            continue
        maker = configs / f"{MAKERS.get(owner, owner)}.yaml"
        what = "manifest" if is_dataset else "weights"
        raise ConfigError(
            f"{owner}: no {what} under {root / name}; run `python -m launch.run {maker} --root {root}` first"
        )
    refuse_stale_captions(run, root, configs)


def describe(run: RunConfig) -> str:
    """In one line what the stage does."""
    stage = run.stage
    if isinstance(stage, RecordConfig):
        return (
            f"{stage.environment.kind}, {stage.policy.kind} policy: {stage.num_recordings} recordings of {stage.num_frames} "
            f"frames and {stage.num_heldout} held out"
        )
    if isinstance(stage, EncodeLatentsConfig):
        return "the tokenizer turns the recordings into latents"
    if isinstance(stage, EvaluateConfig):
        return f"{', '.join(f'{m}@{n}' if n else m for m, n in stage.all_units())} on held-out recordings"
    if isinstance(stage, EvaluateCaptionsConfig):
        models = ", ".join(f"{m}@{n}" if n else m for m, n in caption_units(stage))
        return f"{models}: {stage.num_clips} clips from held-out captions"
    if isinstance(stage, ExportConfig):
        return "student and tokenizer become one folder that plays by itself"
    data, loop = run.parts()
    names = {
        "train_vae": "tokenizer",
        "distill_decoder": "fast decoder",
        "train_dit": "teacher, rectified flow",
        "distill": "student, consistency",
    }
    return f"{names[run.kind]}: {loop.num_steps} steps of {data.global_batch_size} clips of {data.clip_frames} frames"


def _num_tasks(run: RunConfig, root: Path) -> int:
    stage = run.stage
    if isinstance(stage, RecordConfig):
        return sum(len(stage.tasks(split)) for split in SPLITS)
    if isinstance(stage, EncodeLatentsConfig):
        return len(json.loads((run.located(root, run.source) / DATASET).read_text())["shards"])
    if isinstance(stage, EvaluateCaptionsConfig):
        return len(caption_units(stage))
    return len(stage.all_units()) if isinstance(stage, EvaluateConfig) else 1


def _make(run: RunConfig, root: Path, folder: Path, runtime: Runtime, on_done: Callable[[int], None]) -> dict[str, Any]:
    stage, place = run.stage, (runtime.map_tasks, run.resources, on_done)
    if isinstance(stage, RecordConfig):
        return make_recordings(stage, run.seed, folder, *place)
    if isinstance(stage, EncodeLatentsConfig):
        return make_latents(stage, root, run.located(root, run.source), folder, *place)
    if isinstance(stage, EvaluateConfig):
        return make_measurements(stage, root, folder, run.seed, *place)
    if isinstance(stage, EvaluateCaptionsConfig):
        return judge_captions(stage, root, folder, run.seed, *place)
    assert isinstance(stage, ExportConfig)
    return write_artifact(stage, root, run.located(root, run.source), root / "artifact")
