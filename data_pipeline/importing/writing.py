"""A source becomes a dataset: one size, one rate, clips of bounded length, shards; what cannot be used is named."""

import hashlib
import itertools
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.importing.recording import Episode, Recording, Source
from data_pipeline.importing.retiming import combine, pick, shown
from data_pipeline.latent_sums import Sums
from data_pipeline.schema import DataError, DatasetManifest, Sample, ShardEntry, check
from data_pipeline.shards import MANIFEST, write_manifest, write_shard
from data_pipeline.video import Codec
from wm.config import config

log = logging.getLogger(__name__)

REPORT = "import.json"
_SAME_RATE = 0.01  # part of a rate: 29.97 is 30, 25 is not
_SLUG = 48  # characters of an episode's name that its clips' keys keep


@config
class Form:
    """How the dataset is to be. What is 0 is as in the first episode, and an episode that differs is then bad."""

    fps: float = 0.0  # frames a second; frames are dropped or shown again to get there
    height: int = 0  # pixels; frames are scaled, proportions change where those of an episode differ
    width: int = 0
    clip_frames: int = 256  # at most, in each sample: longer episodes are cut into parts of about equal length
    clips_per_shard: int = 16
    codec: Codec = "lossless"

    def __post_init__(self) -> None:
        if min(self.fps, self.height, self.width) < 0 or min(self.clip_frames, self.clips_per_shard) < 1:
            raise ValueError("fps, height and width must not be negative, clip-frames and clips-per-shard at least 1")
        if bool(self.height) != bool(self.width):
            raise ValueError(f"height {self.height}, width {self.width}: give both, or neither")


@dataclass(frozen=True)
class _Target:
    """What every frame of the dataset is."""

    fps: float
    height: int  # of the picture, even where frames are latents
    width: int
    shape: tuple[int, ...]  # of a frame
    latents: bool  # which can neither be scaled nor retimed


@dataclass
class Report:
    """What became of a source's episodes."""

    num_episodes: int = 0  # all that were looked at
    num_clips: int = 0
    num_frames: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)  # {"episode": ..., "problem": ...} of each

    def add_bad(self, episode: str, problem: str) -> None:
        self.bad.append({"episode": episode, "problem": problem})
        log.warning("%s: %s", episode, problem)


def import_source(kind: str, source: Source, destination: Path, form: Form, heldout: float = 0.0) -> dict[str, Report]:
    """Write `source` as the dataset `destination`, or as `train` and `heldout` under it; a report of each by its folder.

    `heldout` is the part of the episodes that is held out; which ones depends on their names alone. DataError where
    there is a dataset already, or where nothing can be used.
    """
    if not source.episodes:
        raise DataError("there is nothing in it to import")
    target = _target(form, source)
    reports = {}
    for name, episodes in _splits(source.episodes, heldout).items():
        folder = destination / name
        if (folder / MANIFEST).exists():
            raise DataError(f"{folder} holds a dataset already; delete it or name another folder")
        reports[name] = _write(kind, replace(source, episodes=episodes), folder, form, target)
    return reports


def _splits(episodes: Sequence[Episode], heldout: float) -> dict[str, Sequence[Episode]]:
    """Folder name -> episodes, in their order; the folder itself where nothing is held out."""
    if not 0 <= heldout < 1:
        raise ValueError(f"heldout is {heldout}: the part of the episodes that is held out is at least 0 and below 1")
    if heldout == 0:
        return {"": episodes}
    if len(episodes) < 2:
        raise DataError("one episode alone cannot be split into train and heldout")
    count = min(max(1, round(heldout * len(episodes))), len(episodes) - 1)
    by_hash = sorted(episodes, key=lambda episode: hashlib.sha256(episode.name.encode()).digest())
    held = {episode.name for episode in by_hash[:count]}
    return {
        "train": [episode for episode in episodes if episode.name not in held],
        "heldout": [episode for episode in episodes if episode.name in held],
    }


def _target(form: Form, source: Source) -> _Target:
    """What `form` says, and for what it leaves open what the first episode is that can be read."""
    problem = ""
    for episode in source.episodes:
        try:
            recording = episode.open()
            shape = next(recording.frames()).shape
        except DataError as error:
            problem = problem or f"{episode.name}: {error}"
            continue
        if not (form.fps or recording.fps):
            raise DataError(
                "its format keeps no frame rate; say with --fps at how many frames a second it was recorded"
            )
        return _shaped(form, source, form.fps or recording.fps, shape)
    raise DataError(f"none of {len(source.episodes)} episodes can be used; the first: {problem}")


def _shaped(form: Form, source: Source, fps: float, shape: tuple[int, ...]) -> _Target:
    if source.latents is None:
        height, width = form.height or shape[0], form.width or shape[1]
        return _Target(fps, height, width, (height, width, 3), latents=False)
    if form.height:
        raise DataError("holds latents, which cannot be scaled: leave --height and --width out")
    return _Target(fps, shape[1] * source.latents.stride, shape[2] * source.latents.stride, shape, latents=True)


def _write(kind: str, source: Source, folder: Path, form: Form, target: _Target) -> Report:
    report = Report(num_episodes=len(source.episodes))
    source, sums = replace(source, space=replace(source.space, fps=target.fps)), Sums()
    entries = _shards(_summed(_samples(kind, source, form, target, report), sums), folder, form)
    if not entries:
        first = report.bad[0]
        raise DataError(f"none of {report.num_episodes} episodes can be used; {first['episode']}: {first['problem']}")
    report.num_clips = sum(entry.num_samples for entry in entries)
    report.num_frames = sum(entry.num_frames for entry in entries)
    about = {"importer": kind, "num_episodes": report.num_episodes, "num_bad": len(report.bad), **source.about}
    (folder / REPORT).write_text(json.dumps({**about, "bad": report.bad}, indent=1))
    manifest = DatasetManifest(
        action_space=source.space,
        fps=target.fps,
        height=target.height,
        width=target.width,
        kind="video" if source.latents is None else "latents",
        shards=tuple(entries),
        source=about,
        latents=None if source.latents is None else sums.statistics(source.latents.maker, source.latents.stride),
    )
    write_manifest(folder, manifest)
    return report


def _shards(samples: Iterator[Sample], folder: Path, form: Form) -> list[ShardEntry]:
    entries: list[ShardEntry] = []
    for first in samples:
        here = itertools.chain([first], itertools.islice(samples, form.clips_per_shard - 1))
        entries.append(write_shard(folder / f"{len(entries):05d}.tar", here, form.codec))
    return entries


def _summed(samples: Iterator[Sample], sums: Sums) -> Iterator[Sample]:
    """`samples`, whose latents are counted in on their way."""
    for sample in samples:
        if sample.latents is not None:
            sums.add(sample.latents)
        yield sample


def _samples(kind: str, source: Source, form: Form, target: _Target, report: Report) -> Iterator[Sample]:
    """The clips of every episode that can be used; the clips of an episode before a damaged one are kept."""
    for number, episode in enumerate(source.episodes):
        try:
            for sample in _clips(kind, number, episode, source, form, target):
                check(sample)
                yield sample
        except DataError as error:
            report.add_bad(episode.name, str(error))


def _clips(kind: str, number: int, episode: Episode, source: Source, form: Form, target: _Target) -> Iterator[Sample]:
    recording = episode.open()
    _check(recording, form, target)
    chosen = shown(recording.times if recording.fps else recording.times / target.fps, target.fps)
    rows = combine(recording.rows, chosen, source.space)
    frames = pick(recording.frames(), chosen)
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", episode.name)[-_SLUG:].strip("-")
    for start, stop in _cuts(len(chosen), form.clip_frames):
        taken = _taken(frames, stop - start, form, target)
        own = {"source": kind, "episode": episode.name, "first_frame": start, "fps": target.fps}
        yield Sample(
            key=f"{number:07d}-{slug}-{start:06d}",
            actions={name: values[start:stop] for name, values in rows.items()},
            meta={**recording.meta, **own},
            video=taken if source.latents is None else None,
            latents=taken if source.latents is not None else None,
        )


def _cuts(num_frames: int, longest: int) -> list[tuple[int, int]]:
    """Runs of about equal length, none longer than `longest`, that make up `num_frames`."""
    edges = np.linspace(0, num_frames, math.ceil(num_frames / longest) + 1).round().astype(int).tolist()
    return list(itertools.pairwise(edges))


def _check(recording: Recording, form: Form, target: _Target) -> None:
    """DataError where a recording's parts are not of one length, or it is of another rate than the dataset."""
    lengths = {name: len(values) for name, values in recording.rows.items()}
    if set(lengths.values()) != {len(recording.times)}:
        raise DataError(f"{len(recording.times)} frames, but rows of {lengths}: which belongs to which is not known")
    if recording.fps and (target.latents or not form.fps) and abs(recording.fps / target.fps - 1) > _SAME_RATE:
        hint = "" if target.latents else "; --fps makes them all alike"
        raise DataError(f"has {recording.fps:g} frames a second, the dataset {target.fps:g}{hint}")


def _taken(frames: Iterator[np.ndarray], count: int, form: Form, target: _Target) -> np.ndarray:
    """(count, ...): the next ones of `frames`, in the dataset's size."""
    taken = [_fitted(frame, form, target) for frame in itertools.islice(frames, count)]
    if len(taken) < count:
        raise DataError(f"its frames end {count - len(taken)} too early")
    return np.stack(taken)


def _fitted(frame: np.ndarray, form: Form, target: _Target) -> np.ndarray:
    if frame.shape == target.shape:
        return frame
    if not form.height:
        has, needs = ("x".join(map(str, shape)) for shape in (frame.shape, target.shape))
        hint = "; --height and --width make them all alike" if not target.latents else ""
        raise DataError(f"has frames of {has}, the dataset {needs}{hint}")
    return np.asarray(Image.fromarray(frame).resize((target.width, target.height), Image.Resampling.BICUBIC))
