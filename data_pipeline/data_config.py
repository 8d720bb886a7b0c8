"""What a training is told of its data: which datasets, how windows are cut from their clips, how they come in batches."""

from typing import Annotated, Literal

from data_pipeline.patience import RetryConfig
from data_pipeline.shard_cache import ShardCacheConfig
from wm.config import Kind, config


@config
class Strict:
    """A bad clip ends the run."""

    kind: Literal["strict"] = "strict"


@config
class Skip:
    """A bad clip is named once, counted, and other samples take its place, as long as few are bad."""

    kind: Literal["skip"] = "skip"
    budget: float = 0.01  # part of all clips that may be bad


@config
class MixturePart:
    """Another dataset that samples are taken from."""

    folder: str  # relative to the world's folder, or an address
    weight: float = 1.0  # its part of the samples is this by the sum of all weights


@config
class Bucket:
    """Batches of clips of one length, which all have one picture size."""

    clip_frames: int
    global_batch_size: int = 0  # over all ranks; 0 is that of data. Longer clips may need fewer at a time
    weight: float = 1.0  # how often it is its turn; of each picture size by the weights of its datasets
    from_start: bool = False  # as that of data: first frames alone teach what a caption says of looks


@config
class DataConfig:
    folder: str  # of a dataset, relative to the world's folder, or its address: s3://, gs://, https://, file://
    clip_frames: int  # of a window; where there are buckets, of the longest
    global_batch_size: int  # windows, over all ranks; where there are buckets, of the largest batch
    clip_stride: int = 8  # frames from one window of a clip to the next
    from_start: bool = False  # one window of each clip, which begins where the clip does
    # Frames: from so many on, clips that are shorter than clip_frames come whole, all clips of a batch in a row without
    # padding; 0 leaves them out.
    shortest_clip: int = 0
    num_readers: int = 8  # logical readers; a property of the order, not of the machine
    block_clips: int = 8  # clips that a reader shuffles together
    num_workers: int = 2  # of each rank, that read ahead; 0 reads where the batch is asked for
    # Threads share one cache and cost nothing to start. Processes do not wait for the training's Python: for long pictures
    # of many clips, on machines with cores to spare. Each has a cache of its own.
    worker_kind: Literal["thread", "process"] = "thread"
    cache_megabytes: int = 1024  # decoded clips kept by each rank, or each process that reads for it
    event_fraction: float = 0.0  # part of the windows that are laid around a change on the screen
    event_area: float = 0.03  # part of the pixels that makes a change; more than a moving cursor's
    change_fraction: float = 0.0  # part of the windows that are drawn in proportion to how much happens in them
    bad_samples: Annotated[Strict | Skip, Kind] = Strict()
    mixture: tuple[MixturePart, ...] = ()  # other datasets of the same kind; latents are normalised as those in folder
    weight: float = 1.0  # of the dataset in folder, where there is a mixture
    buckets: tuple[Bucket, ...] = ()  # clips of several lengths, and datasets of several picture sizes, a shape a batch
    retries: RetryConfig = RetryConfig()  # of reads that fail for a moment
    shard_cache: ShardCacheConfig = ShardCacheConfig()  # of datasets at an address

    def __post_init__(self) -> None:
        longest = max((bucket.clip_frames for bucket in self.buckets), default=self.clip_frames)
        largest = max((bucket.global_batch_size for bucket in self.buckets), default=0)
        if longest != self.clip_frames or largest > self.global_batch_size:
            raise ValueError(
                f"the longest bucket has {longest} frames and clip_frames is {self.clip_frames}, the largest batch of a bucket "
                f"has {largest} clips and global_batch_size is {self.global_batch_size}: give clip_frames and "
                "global_batch_size of the largest"
            )


def check_division(config: DataConfig, world_size: int) -> None:
    """ValueError where the windows of `config` cannot be cut, or not be divided among the ranks."""
    if min(config.clip_frames, config.clip_stride, config.global_batch_size) < 1:
        raise ValueError("data: clip_frames, clip_stride and global_batch_size must be at least 1")
    if not 0 <= config.shortest_clip <= config.clip_frames:
        raise ValueError(
            f"data: shortest_clip is {config.shortest_clip} and clip_frames {config.clip_frames}: give shortest_clip from 1 to "
            "clip_frames, or 0 to leave shorter clips out"
        )
    if not 0 <= config.change_fraction <= 1:
        raise ValueError(f"data: change_fraction is {config.change_fraction}; it is a part of the windows, in [0, 1]")
    if config.global_batch_size % world_size:
        raise ValueError(
            f"data: global_batch_size {config.global_batch_size} does not divide among {world_size} ranks: "
            "choose a batch size that is a multiple of the number of ranks"
        )
