"""The encode_latents stage: one shard of recordings into one shard of latents a task, and the statistics of all."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.change import change_scores
from data_pipeline.encoded_text import text_facts, to_rows
from data_pipeline.latent_sums import Sums
from data_pipeline.schema import DataError, DatasetManifest, LatentStatistics, Sample, TextFacts
from data_pipeline.shards import Dataset, write_manifest, write_shard
from launch.resources import Resources
from launch.shard_work import MapTasks, forget_strangers, note, noted, taken_over, work_hash
from wm.config import from_dict, to_dict
from wm.stages.clip_filter import ClipFilterConfig
from wm.stages.encode_latents import EncodeLatentsConfig, Encoder


def make_latents(
    settings: EncodeLatentsConfig,
    root: Path,
    source: Path,
    folder: Path,
    map_tasks: MapTasks,
    resources: Resources,
    on_done: Callable[[int], None],
) -> dict[str, Any]:
    """The dataset of latents of the recordings in `source`, in `folder`, and what `result.json` says of it.

    DataError where the filter keeps no clip at all.
    """
    recordings = Dataset.open(source).manifest
    device = "cuda" if resources.gpus_per_worker else "cpu"
    tasks = [(settings, root, source, entry.name, folder, device) for entry in recordings.shards]
    answers = map_tasks(encode_shard, tasks, resources, on_done)
    left_out = sum((Counter(answer["left_out"]) for answer in answers), Counter[str]())
    answers = [answer for answer in answers if answer["entry"]["num_samples"]]
    if not answers:
        raise DataError(
            f"the filter `keep` of encode_latents keeps no clip of {source}: {_listed(left_out)}; loosen it"
        )
    statistics = merged(answers)
    manifest = dataclasses.replace(
        recordings,
        kind="latents",
        shards=from_dict(DatasetManifest, to_dict(recordings) | {"shards": [a["entry"] for a in answers]}).shards,
        latents=statistics,
        text=one_text(answers),
    )
    write_manifest(folder, manifest)
    # The notes stay: when recordings or tokenizer change, they tell which shards are still what would be made.
    forget_strangers(folder, [entry.name for entry in manifest.shards])
    return {
        "num_shards": len(answers),
        "num_frames": sum(answer["entry"]["num_frames"] for answer in answers),
        "num_left_out": left_out.total(),
        "left_out": dict(left_out),
        "vae_hash": statistics.vae_hash,
        "mean": list(statistics.mean),
        "std": list(statistics.std),
    }


def encode_shard(
    settings: EncodeLatentsConfig, root: Path, source: Path, name: str, folder: Path, device: str
) -> dict[str, Any]:
    """One task: the latents of shard `name` of `source`, unless this very tokenizer made them of the same bytes before.

    Also those of a dataset that was set aside (`root`/old) are taken: only what changed is encoded anew.
    """
    encoder = settings.build(root, torch.device(device))
    recordings = Dataset.open(source)
    entry = next(entry for entry in recordings.manifest.shards if entry.name == name)
    work = work_hash(encoder.vae_hash, encoder.text_hash, settings.precision, to_dict(settings.keep), entry.sha256)
    earlier = sorted((root / "old").glob(f"{folder.name}-*"), reverse=True)
    done = noted(folder, name, work) or taken_over(earlier, folder, name, work)
    if done is not None:
        return done
    sums, left_out = Sums(), Counter[str]()
    kept = _kept(settings.keep, recordings, name, left_out)
    written = write_shard(folder / name, (_encoded(encoder, recordings, index, sums) for index in kept))
    answer = {
        "entry": to_dict(written),
        "vae_hash": encoder.vae_hash,
        "stride": encoder.stride,
        "left_out": dict(left_out),
    }
    answer |= sums.answer()
    if encoder.text is not None:
        answer["text"] = to_dict(text_facts(encoder.text_hash, encoder.encode_caption("")))
    return note(folder, name, work, answer)


def merged(answers: list[dict[str, Any]]) -> LatentStatistics:
    """Mean and standard deviation of each channel over all shards; ValueError where two tokenizers were at work."""
    makers = {(answer["vae_hash"], answer["stride"]) for answer in answers}
    if len(makers) != 1:
        raise ValueError(
            f"the latents were made by different tokenizers {sorted(makers)}: the tokenizer changed while they were"
        )
    ((vae_hash, stride),) = makers
    count = sum(answer["count"] for answer in answers)
    mean = np.sum([answer["sum"] for answer in answers], axis=0) / count
    variance = np.sum([answer["squares"] for answer in answers], axis=0) / count - np.square(mean)
    std = np.sqrt(np.maximum(variance, 1e-12))
    return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()), vae_hash=vae_hash, stride=stride)


def one_text(answers: list[dict[str, Any]]) -> TextFacts | None:
    """What all shards say of the encoder of their captions; ValueError where two were at work."""
    told = [answer.get("text") for answer in answers]
    if any(facts != told[0] for facts in told):
        raise ValueError("the captions were encoded by different text encoders: its folder changed while they were")
    return None if told[0] is None else from_dict(TextFacts, told[0])


def _kept(keep: ClipFilterConfig, recordings: Dataset, name: str, left_out: Counter[str]) -> Iterator[int]:
    """Numbers of the clips in shard `name` that `keep` lets through; counts the others by why."""
    for index, clip in enumerate(recordings.clips):
        if clip.shard != name:
            continue
        reason = keep.reason(recordings.meta(index))
        if reason is None:
            yield index
        else:
            left_out[reason] += 1


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in left_out.most_common())


def _encoded(encoder: Encoder, recordings: Dataset, index: int, sums: Sums) -> Sample:
    sample = recordings.read(index)
    assert sample.video is not None
    latents = encoder.encode(sample.video)
    sums.add(latents)
    # Here the pixels are at hand for the last time: latents of a frame that stays the same need not be the same.
    change = [round(float(x), 4) for x in change_scores(sample, recordings.manifest.action_space)]
    return dataclasses.replace(
        sample, video=None, latents=latents, text=_text(encoder, sample), meta={**sample.meta, "change": change}
    )


def _text(encoder: Encoder, sample: Sample) -> np.ndarray | None:
    if encoder.text is None:
        return None
    if "caption" not in sample.meta:
        raise DataError(
            f"sample {sample.key} has no caption and encode_latents is to encode them: leave its text out, or record a world "
            "that has captions"
        )
    return to_rows(encoder.encode_caption(sample.meta["caption"]))
