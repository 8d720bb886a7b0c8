"""Opens a dataset however damaged it is: what can be read comes out clip by clip, what cannot is a finding."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Finding
from data_pipeline.schema import DataError, check
from data_pipeline.shards import Dataset


def open_dataset(folder: Path) -> Dataset | Finding:
    """The dataset in `folder`, or why there is none."""
    try:
        return Dataset.open(folder, check_sizes=False)
    except DataError as error:
        return Finding("error", "unreadable", str(folder), str(error))


def sizes(dataset: Dataset) -> Iterator[Finding]:
    """Shards that are missing, or not as long as the manifest says."""
    for entry in dataset.manifest.shards if dataset.cache is None else ():  # else they come when they are read
        path = dataset.folder / entry.name
        size = path.stat().st_size if path.exists() else None
        if size != entry.size:
            problem = "is missing" if size is None else f"has {size} bytes, the manifest says {entry.size}"
            message = f"the shard {problem}: copy it again, or delete it and run the stage that wrote it"
            yield Finding("error", "unreadable", str(path), message)


def clips(dataset: Dataset, num_clips: int | None) -> Iterator[Clip | Finding]:
    """Every clip, or `num_clips` of them evenly over the dataset; a Finding in the place of one that cannot be read."""
    total = len(dataset.clips)
    chosen = range(total) if num_clips is None else np.unique(np.linspace(0, total - 1, num_clips).round().astype(int))
    for number in chosen if total else ():
        yield _clip(dataset, int(number))


def _clip(dataset: Dataset, number: int) -> Clip | Finding:
    entry, manifest = dataset.clips[number], dataset.manifest
    where = f"{dataset.folder / entry.shard} {entry.key}"
    try:
        sample = dataset.read(number)
        check(sample)
        _check_channels(sample.actions, manifest.action_space.buttons, manifest.action_space.keys)
    except DataError as error:
        return Finding("error", "unreadable", where, str(error))
    return Clip(
        where, entry.key, manifest.action_space, manifest.fps, sample.actions, sample.meta, sample.video, sample.latents
    )


def _check_channels(rows: dict[str, np.ndarray], buttons: tuple[str, ...], keys: tuple[str, ...]) -> None:
    for name, names in (("buttons", buttons), ("keys", keys)):
        if rows[name].shape[1] != len(names):
            raise DataError(f"its rows have {rows[name].shape[1]} {name}, the dataset's ActionSpace {len(names)}")
