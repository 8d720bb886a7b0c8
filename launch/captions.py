"""The evaluate stage of a text world: held-out captions to a model, and what it drew to the world's own parser."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.environments.shapes import ShapesConfig
from data_pipeline.environments.shapes_parser import matches
from data_pipeline.mirror import located
from data_pipeline.schema import DatasetManifest
from data_pipeline.shards import Dataset
from launch.resources import Resources
from launch.shard_work import MapTasks
from wm import artifact
from wm.caption_clips import draw_captions
from wm.caption_match import Match
from wm.config import ConfigError, from_dict
from wm.precision import dtype_of
from wm.stages.evaluate import reconstruction
from wm.stages.evaluate_captions import VAE, CaptionEvaluation, EvaluateCaptionsConfig
from wm.stages.video_clips import encoder
from wm.stages.video_measures import Aids


def caption_units(settings: EvaluateCaptionsConfig) -> list[tuple[str, int]]:
    """What is measured: the tokenizer, then every (model, number of steps)."""
    return [(VAE, 0), *settings.units()]


def judge_captions(
    settings: EvaluateCaptionsConfig,
    root: Path,
    folder: Path,
    seed: int,
    map_tasks: MapTasks,
    resources: Resources,
    on_done: Callable[[int], None],
) -> dict[str, Any]:
    """Every unit in `folder`, and what `result.json` says: the share of clips that are right in all, and seconds."""
    device = "cuda" if resources.gpus_per_worker else "cpu"
    tasks = [(settings, root, folder, seed, device, model, steps) for model, steps in caption_units(settings)]
    answers = map_tasks(judge_unit, tasks, resources, on_done)
    return {
        "units": {
            f"{model}-{steps}": answer for (model, steps), answer in zip(settings.units(), answers[1:], strict=True)
        }
    }


def judge_unit(
    settings: EvaluateCaptionsConfig, root: Path, folder: Path, seed: int, device: str, model: str, steps: int
) -> dict[str, Any]:
    """One task; does nothing where `folder` holds this unit of these weights and recordings."""
    evaluation = open_caption_evaluation(settings, root, folder, seed, device)
    unit = evaluation.measure_vae() if model == VAE else evaluation.measure(model, steps)
    return {"all": unit["measures"]["all"]["value"], "seconds": unit["seconds"]}


def open_caption_evaluation(
    settings: EvaluateCaptionsConfig, root: Path, folder: Path, seed: int, device: str = "cpu"
) -> CaptionEvaluation:
    """The models and the held-out recordings under `root`, ready to be measured."""
    stages = (("teacher", settings.teacher), ("student", settings.student), ("weak", settings.weak))
    weights = {name: root / where / "weights" for name, where in stages if where}
    vae = root / settings.vae / "weights"
    world = artifact.assemble(vae, weights, world=root.name, context_frames=1, device=torch.device(device))
    for network in (world.vae, *world.models.values()):
        network.to(dtype_of(settings.precision))
    recordings = Dataset.open(located(root, settings.recordings))
    videos, captions = _said_and_shown(recordings, settings.num_clips)
    hashes = [artifact.file_hash(path / "model.safetensors")[:16] for path in (vae, *weights.values())]
    return settings.build(
        folder=folder,
        draw_captions=partial(draw_captions, world),
        reconstruct=reconstruction(world.vae, device),
        videos=videos,
        captions=captions,
        match=match_of(recordings.manifest),
        seed=seed,
        fingerprint=" ".join(hashes),
        aids=Aids(encode=encoder(world.vae, device), device=device, seed=seed),
    )


def match_of(manifest: DatasetManifest) -> Match:
    """How clips of the world that was recorded are held against captions; ConfigError where nothing can read them."""
    environment = manifest.source.get("environment") or {}
    if environment.get("kind") != "shapes":
        raise ConfigError(
            f"nothing reads captions out of clips of {environment.get('kind', manifest.source)}: evaluate_captions is for "
            "recordings of the environment shapes"
        )
    shapes = from_dict(ShapesConfig, environment)

    def match(video: Tensor, caption: str) -> dict[str, bool]:
        return matches(shapes, np.ascontiguousarray(video.permute(0, 2, 3, 1).numpy()), caption)

    return match


def _said_and_shown(recordings: Dataset, count: int) -> tuple[Tensor, list[str]]:
    """(videos (N, T, 3, H, W) uint8, captions) of the first `count` recordings, all as long as the shortest."""
    samples = [recordings.read(number) for number in range(min(count, len(recordings.clips)))]
    bare = [sample.key for sample in samples if "caption" not in sample.meta]
    if bare or not samples:
        raise ConfigError(
            f"{recordings.folder}: {bare[0] if bare else 'it'} has no caption; record a world that has some"
        )
    frames = min(len(sample) for sample in samples)
    videos = np.stack([sample.video[:frames] for sample in samples if sample.video is not None])
    return torch.from_numpy(videos).permute(0, 1, 4, 2, 3).contiguous(), [sample.meta["caption"] for sample in samples]
