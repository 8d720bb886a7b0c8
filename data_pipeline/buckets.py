"""Clips of several sizes and lengths in one stream: a batch has one shape, and which one is a pure function of (seed, step).

A bucket is a number of frames, once for every picture size among the datasets. Each has an order of its own; steps are dealt
to them as the turns of a mixture are. So the cursor stays one integer, and ranks, threads and restarts see the same.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.loader import Batches, Bucket, DataConfig, MixturePart, check_division, open_dataset
from data_pipeline.mirror import located
from data_pipeline.mixture import Mixture, Turns, check_alike, open_mixture
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset
from wm.batch import Batch


@dataclass(frozen=True)
class _Member:
    """A dataset and what the mixture says of it."""

    part: MixturePart
    dataset: Dataset

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.dataset.manifest.height, self.dataset.manifest.width

    @property
    def longest(self) -> int:
        return max((clip.num_frames for clip in self.dataset.clips), default=0)


class Bucketed(Batches):
    """Batches that are each of one of `parts`, the streams of the buckets, dealt by `weights`.

    The cursor moves by `config.global_batch_size` a step, whichever bucket's turn it is; a bucket's own batch may be smaller.
    """

    def __init__(self, config: DataConfig, parts: Sequence[Batches], weights: Sequence[float], seed: int) -> None:
        first = parts[0]
        super().__init__(first.config, first.dataset, first.rank, first.world_size, seed)
        self.config, self.parts, self.turns = config, tuple(parts), Turns(weights, seed)

    def batch(self, cursor: int) -> Batch:
        """This rank's part of the global batch that begins at `cursor`, of the bucket whose turn it is."""
        step = cursor // self.config.global_batch_size
        bucket, turn = self.turns(step)
        first = turn * self.parts[bucket].config.global_batch_size
        made = self.parts[bucket].batch(first)
        # Randomness is keyed by `index`: numbers of the buckets' own streams would be the same in each of them.
        return dataclasses.replace(made, step=step, index=made.index - first + step * self.config.global_batch_size)

    def _stop_fetching(self) -> None:
        for part in self.parts:
            part._stop_fetching()


def open_stream(config: DataConfig, root: Path, rank: int, world_size: int, seed: int) -> Batches:
    """This rank's view of what `config` describes: one dataset, a mixture, or buckets; folders are relative to `root`."""
    if not config.buckets:
        return open_mixture(config, root, rank, world_size, seed)
    members = _members(config, root)
    parts: list[Batches] = []
    weights: list[float] = []
    for bucket in config.buckets:
        least = config.shortest_clip or bucket.clip_frames
        fitting = [member for member in members if member.longest >= least]
        if not fitting:
            longest = max(member.longest for member in members)
            raise DataError(
                f"data: no clip has the {least} frames of a bucket (the longest has {longest}): leave the bucket "
                "out, or record longer clips"
            )
        for size in dict.fromkeys(member.size for member in fitting):
            same_size = [member for member in fitting if member.size == size]
            # Seeds of their own: the same clips would otherwise come in the same order in every bucket.
            own_seed = seed + len(members) * len(parts)
            parts.append(_stream(_config_of(config, bucket, same_size), same_size, rank, world_size, own_seed))
            weights.append(bucket.weight * sum(member.part.weight for member in same_size))
    return Bucketed(config, parts, weights, seed)


def _members(config: DataConfig, root: Path) -> list[_Member]:
    members = []
    for part in (MixturePart(folder=config.folder, weight=config.weight), *config.mixture):
        folder = located(root, part.folder, config.shard_cache, config.retries)
        members.append(_Member(part, open_dataset(config, folder)))
        check_alike(members[0].dataset, members[-1].dataset, sizes=False)
    return members


def _config_of(config: DataConfig, bucket: Bucket, members: Sequence[_Member]) -> DataConfig:
    """What a bucket is, as a stream of its own."""
    first, *others = (member.part for member in members)
    return dataclasses.replace(
        config,
        folder=first.folder,
        weight=first.weight,
        mixture=tuple(others),
        clip_frames=bucket.clip_frames,
        from_start=bucket.from_start or config.from_start,
        global_batch_size=bucket.global_batch_size or config.global_batch_size,
        buckets=(),
    )


def _stream(config: DataConfig, members: Sequence[_Member], rank: int, world_size: int, seed: int) -> Batches:
    check_division(config, world_size)
    streams = [
        Batches(config, member.dataset, rank, world_size, seed + number) for number, member in enumerate(members)
    ]
    return streams[0] if len(streams) == 1 else Mixture(config, streams, seed)
