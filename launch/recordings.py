"""The record stage: some recordings of an environment into one shard a task, and the datasets that the shards become."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.environments.environment import Environment, EnvironmentDied
from data_pipeline.environments.registry import EnvironmentConfig
from data_pipeline.policies import PolicyConfig
from data_pipeline.record import cursor_images, record
from data_pipeline.schema import DatasetManifest, Sample
from data_pipeline.shards import write_manifest, write_shard
from launch.linting import REPORT, look
from launch.resources import Resources
from launch.shard_work import MapTasks, forget_notes, note, noted, work_hash
from wm.config import config, from_dict, to_dict

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # of one recording whose environment dies
LOOKED_AT = 8  # recordings of each split that the linter reads at the end
SPLITS = ("train", "heldout")  # held-out recordings have seeds of their own and are never trained on


@config
class RecordConfig:
    """What is recorded, by whom, and how much of it."""

    kind: Literal["record"] = "record"
    environment: EnvironmentConfig
    policy: PolicyConfig
    num_recordings: int  # for training
    num_heldout: int  # for evaluation and for the clips that a world starts from
    num_frames: int  # of each recording
    recordings_per_shard: int = 8

    def __post_init__(self) -> None:
        for name in ("num_recordings", "num_heldout", "num_frames", "recordings_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def tasks(self, split: str) -> list[tuple[int, ...]]:
        """The numbers of the recordings of each shard of `split`."""
        total = self.num_recordings if split == "train" else self.num_heldout
        numbers, size = range(total), self.recordings_per_shard
        return [tuple(numbers[start : start + size]) for start in range(0, total, size)]


def make_recordings(
    settings: RecordConfig,
    seed: int,
    folder: Path,
    map_tasks: MapTasks,
    resources: Resources,
    on_done: Callable[[int], None],
) -> dict[str, Any]:
    """Both datasets under `folder`, what the linter says of them beside it, and what `result.json` says."""
    tasks = [
        (settings, seed, split, index, numbers, folder / split)
        for split in SPLITS
        for index, numbers in enumerate(settings.tasks(split))
    ]
    answers = map_tasks(record_shard, tasks, resources, on_done)
    for split in SPLITS:
        mine = [answer for task, answer in zip(tasks, answers, strict=True) if task[2] == split]
        _finish(settings, seed, folder / split, mine)
    findings = look([folder / split for split in SPLITS], LOOKED_AT, folder / REPORT)
    entries = [answer["entry"] for answer in answers]
    return {
        "num_shards": len(entries),
        "num_recordings": sum(entry["num_samples"] for entry in entries),
        "num_frames": sum(entry["num_frames"] for entry in entries),
        "num_findings": findings,
    }


def record_shard(
    settings: RecordConfig, seed: int, split: str, index: int, numbers: tuple[int, ...], folder: Path
) -> dict[str, Any]:
    """One task: record `numbers` into shard `index` of `folder`, unless that was done before with the same settings."""
    name = f"{index:05d}.tar"
    work = work_hash(to_dict(settings.environment), to_dict(settings.policy), settings.num_frames, seed, split, numbers)
    done = noted(folder, name, work)
    if done is not None:
        return done
    with _opened(settings) as environment:
        entry = write_shard(folder / name, _samples(environment, settings, seed, split, numbers))
        about = _about(environment)
    return note(folder, name, work, {"entry": to_dict(entry), "about": about})


def seed_of(seed: int, split: str, number: int) -> int:
    """The seed of one recording: another for every run seed, split and number."""
    return int(np.random.SeedSequence([seed, SPLITS.index(split), number]).generate_state(1)[0])


def _samples(
    environment: Environment, settings: RecordConfig, seed: int, split: str, numbers: tuple[int, ...]
) -> Iterator[Sample]:
    for number in numbers:
        yield _recorded(environment, settings, seed_of(seed, split, number), f"{split}-{number:05d}")


def _recorded(environment: Environment, settings: RecordConfig, seed: int, key: str) -> Sample:
    """One recording; an episode in which the environment died is discarded and played again, a few times."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return record(environment, settings.policy.build(), settings.num_frames, seed, key)
        except EnvironmentDied as error:
            if attempt == MAX_ATTEMPTS:
                raise
            log.warning("%s, attempt %d of %d: %s", key, attempt, MAX_ATTEMPTS, error)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _opened(settings: RecordConfig) -> Iterator[Environment]:
    environment = settings.environment.build()
    try:
        yield environment
    finally:
        environment.close()


def _about(environment: Environment) -> dict[str, Any]:
    """What the manifest says of the environment, as the process that ran it saw it."""
    height, width = environment.render().shape[:2]
    return {
        "name": environment.name,
        "version": environment.version,
        "action_space": to_dict(environment.action_space),
        "height": height,
        "width": width,
        "cursors": [to_dict(cursor) for cursor in cursor_images(environment)],
        "transitions": dict(getattr(environment, "transitions", {})),
    }


def _finish(settings: RecordConfig, seed: int, folder: Path, answers: list[dict[str, Any]]) -> None:
    about = answers[0]["about"]
    manifest = {
        "action_space": about["action_space"],
        "fps": about["action_space"]["fps"],
        "height": about["height"],
        "width": about["width"],
        "kind": "video",
        "shards": [answer["entry"] for answer in answers],
        "source": {
            "environment": to_dict(settings.environment),
            "name": about["name"],
            "version": about["version"],
            "policy": to_dict(settings.policy),
            "seed": seed,
            **({"transitions": about["transitions"]} if about.get("transitions") else {}),
        },
        "cursors": about["cursors"],
    }
    write_manifest(folder, from_dict(DatasetManifest, manifest))
    forget_notes(folder, [answer["entry"]["name"] for answer in answers])
