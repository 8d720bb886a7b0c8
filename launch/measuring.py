"""The evaluate stage: each model at each number of steps is a task; what they measured becomes the report."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.environments.bitmap_font import GLYPHS
from data_pipeline.environments.desktop_drawing import enlarge
from data_pipeline.mirror import located
from data_pipeline.schema import DatasetManifest, to_action
from data_pipeline.shards import Dataset
from launch.resources import Resources
from launch.shard_work import MapTasks
from wm import artifact
from wm.precision import dtype_of
from wm.rollout import WorldSession
from wm.stages.bench import VAE, unit_name
from wm.stages.evaluate import Clip, EvaluateConfig, Evaluation, reconstruction
from wm.stages.video_clips import encoder
from wm.stages.video_measures import Aids


def make_measurements(
    settings: EvaluateConfig,
    root: Path,
    folder: Path,
    seed: int,
    map_tasks: MapTasks,
    resources: Resources,
    on_done: Callable[[int], None],
) -> dict[str, Any]:
    """Every unit in `folder`, and what `result.json` says."""
    device = "cuda" if resources.gpus_per_worker else "cpu"
    tasks = [(settings, root, folder, seed, device, model, steps) for model, steps in settings.all_units()]
    answers = map_tasks(measure_unit, tasks, resources, on_done)
    names = [unit_name(*unit) for unit in settings.all_units()]
    return {"units": {name: answer["seconds"] for name, answer in zip(names, answers, strict=True)}}


def measure_unit(
    settings: EvaluateConfig, root: Path, folder: Path, seed: int, device: str, model: str, steps: int
) -> dict[str, Any]:
    """One task; does nothing where `folder` holds this unit of these weights and recordings."""
    evaluation = open_evaluation(settings, root, folder, seed, device)
    unit = evaluation.measure_vae() if (model, steps) == VAE else evaluation.measure(model, steps)
    return {"seconds": unit["seconds"]}


def open_evaluation(settings: EvaluateConfig, root: Path, folder: Path, seed: int, device: str = "cpu") -> Evaluation:
    """The models and the held-out recordings under `root`, ready to be measured."""
    named = (("teacher", settings.teacher), ("student", settings.student), ("weak", settings.weak))
    models = {name: root / where for name, where in named if where}
    weights = {name: path / "weights" for name, path in models.items()}
    vae = root / settings.vae / "weights"
    world = artifact.assemble(
        vae, weights, world=root.name, context_frames=settings.counts.context_frames, device=torch.device(device)
    )
    for network in (world.vae, *world.models.values()):
        network.to(dtype_of(settings.precision))
    recordings = Dataset.open(located(root, settings.recordings))
    hashes = [artifact.file_hash(path / "model.safetensors")[:16] for path in (vae, *weights.values())]
    return settings.build(
        folder=folder,
        open_session=partial(WorldSession, world),
        reconstruct=reconstruction(world.vae, device),
        clips=[clip_of(recordings, number) for number in range(len(recordings.clips))],
        cursors=[
            (cursor.name, cursor.hotspot, torch.from_numpy(cursor.array().copy()))
            for cursor in recordings.manifest.cursors
        ],
        space=recordings.manifest.action_space,
        seed=seed,
        fingerprint=" ".join(hashes),
        aids=Aids(encode=encoder(world.vae, device), glyphs=glyphs_of(recordings.manifest), device=device),
        kinds=recordings.manifest.source.get("transitions"),
    )


def glyphs_of(manifest: DatasetManifest) -> dict[str, Tensor]:
    """The letters of the world's font as it draws them, (h, w) bool; none where it does not say."""
    environment = manifest.source.get("environment") or {}
    if environment.get("kind") != "desktop_sim":
        return {}
    scale = environment.get("scale", 1)
    return {letter: torch.from_numpy(enlarge(glyph, scale).copy()) for letter, glyph in GLYPHS.items()}


def clip_of(recordings: Dataset, number: int) -> Clip:
    """Recording `number` as evaluation and export take it."""
    sample = recordings.read(number)
    assert sample.video is not None
    return Clip(
        video=torch.from_numpy(sample.video.copy()).permute(0, 3, 1, 2).contiguous(),
        action=to_action(sample.actions),
        events=tuple(tuple(kinds) for kinds in sample.meta.get("events", ())),
        key=sample.key,
    )
