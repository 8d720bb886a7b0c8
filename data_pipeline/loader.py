"""Shards to batches: (Batch, cursor) from any cursor on, the same for any number of ranks, threads and restarts."""

import itertools
import logging
import math
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_pipeline.change import weights, window_scores
from data_pipeline.clip_cache import ClipCache, DecodedClip
from data_pipeline.data_config import Bucket, DataConfig, MixturePart, Skip, Strict, check_division
from data_pipeline.encoded_text import encoded_text
from data_pipeline.order import Order
from data_pipeline.patience import Patience
from data_pipeline.read_ahead import read_ahead
from data_pipeline.schema import LATENTS, DataError, to_action
from data_pipeline.shards import Dataset
from data_pipeline.tar_index import ClipEntry
from data_pipeline.windows import Windows
from wm.batch import Action, Batch, Given

__all__ = [
    "Batches",
    "Bucket",
    "DataConfig",
    "MixturePart",
    "Skip",
    "Strict",
    "check_division",
    "open_batches",
    "open_dataset",
]

log = logging.getLogger(__name__)

_SUBSTITUTES = 100  # samples tried in the place of a bad one
_LOOK_AHEAD = 4096  # samples whose shards are fetched before they are needed


@dataclass(frozen=True)
class _Window:
    name: str
    frames: np.ndarray  # (clip_frames, C, H, W)
    rows: dict[str, np.ndarray]  # (clip_frames, ...)
    caption: str | None
    text: np.ndarray | None = None  # the caption, encoded


def open_batches(config: DataConfig, folder: Path, rank: int, world_size: int, seed: int) -> "Batches":
    """This rank's view of the endless stream of global batches of the dataset in `folder`."""
    check_division(config, world_size)
    return Batches(config, open_dataset(config, folder), rank, world_size, seed)


def open_dataset(config: DataConfig, folder: Path) -> Dataset:
    """The dataset in `folder`, to be read as `config` says."""
    strict = isinstance(config.bad_samples, Strict)
    return Dataset.open(folder, check_sizes=strict, patience=Patience(config.retries))


class Batches:
    """Called with a cursor (samples consumed by all ranks), gives (Batch, next cursor) without end."""

    def __init__(self, config: DataConfig, dataset: Dataset, rank: int, world_size: int, seed: int) -> None:
        self.config, self.dataset, self.rank, self.world_size = config, dataset, rank, world_size
        self.bad: dict[int, str] = {}  # clip: what is wrong with it
        self.skipped = 0  # samples replaced so far, for the metrics
        self._lock = threading.Lock()
        self._windows = Windows(
            config.clip_frames,
            config.clip_stride,
            seed,
            config.event_fraction,
            config.event_area,
            config.shortest_clip,
            config.from_start,
        )
        self._events = [self._windows.events(clip.changed) for clip in dataset.clips]
        self._change = [_change(clip) for clip in dataset.clips] if config.change_fraction else []
        by_change = self._weights if config.change_fraction else None
        self._order = Order(self._windows_per_clip(), seed, config.num_readers, config.block_clips, by_change)
        shards = {name: number for number, name in enumerate(dict.fromkeys(clip.shard for clip in dataset.clips))}
        self._shard_of = np.array([shards[clip.shard] for clip in dataset.clips], np.int64)
        self._cache = ClipCache(config.cache_megabytes << 20) if self._whole_clips_fit() else None

    @property
    def num_windows(self) -> int:
        """Samples in one epoch."""
        return self._order.num_windows

    def __call__(self, cursor: int) -> Generator[tuple[Batch, int], None, None]:
        """Closing the iterator, or dropping it, ends its threads; an error in one of them is raised here."""
        if self.config.num_workers == 0:
            step = self.config.global_batch_size
            yield from ((self.batch(position), position + step) for position in itertools.count(cursor, step))
        pool = ThreadPoolExecutor(self.config.num_workers, thread_name_prefix="batches")
        try:
            yield from read_ahead(pool, self.batch, self.config, cursor)
        finally:
            self._stop_fetching()
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, cursor: int) -> Batch:
        """This rank's part of the global batch that begins at `cursor`."""
        positions = range(cursor + self.rank, cursor + self.config.global_batch_size, self.world_size)
        windows = [self._sample(position) for position in positions]
        latents = self.dataset.manifest.kind == "latents"
        frames = [window.frames for window in windows]
        in_a_row = self.config.shortest_clip > 0
        if in_a_row:
            frames = [np.concatenate(frames)]
        stacked = torch.from_numpy(np.stack(frames, dtype=np.float32 if latents else np.uint8))
        return Batch(
            step=cursor // self.config.global_batch_size,
            index=torch.tensor(positions, dtype=torch.int64),
            given=Given(
                Action.concatenate([to_action(window.rows) for window in windows], 1 if in_a_row else 0),
                _text(windows),
                encoded=encoded_text(self.dataset.manifest.text, {w.caption: w.text for w in windows}),
            ),
            video=None if latents else stacked,
            latents=stacked if latents else None,
            sample_ids=tuple(window.name for window in windows),
            lengths=tuple(len(window.frames) for window in windows) if in_a_row else (),
        )

    def _sample(self, position: int) -> _Window:
        """The window at a position of the stream, or the one that stands in for it if its clip is bad."""
        if self.dataset.cache is not None:
            self._fetch_ahead(position)
        for attempt in range(_SUBSTITUTES):
            # Half an epoch away: a neighbour would be in the same batch already.
            place = position + attempt * (self.num_windows // 2 + 1)
            epoch, clip, window = self._order.sample(place)
            if clip in self.bad:
                continue
            try:
                found = self._window(epoch, clip, window)
            except DataError as error:
                self._give_up_or_skip(clip, error)
                continue
            if attempt:
                with self._lock:
                    self.skipped += 1
            return found
        raise DataError(f"{self.dataset.folder}: {_SUBSTITUTES} samples in a row are in bad clips; {self._complaint()}")

    def _fetch_ahead(self, position: int) -> None:
        """Have the shards fetched that samples from `position` on need, in the order in which they are needed."""
        assert self.dataset.cache is not None
        # In a mixture the turns of this rank are no regular ones.
        every = 1 if self.config.mixture else self.world_size
        clips = self._order.clips(range(position, position + _LOOK_AHEAD * every, every))
        first_of_shard = np.unique(self._shard_of[clips], return_index=True)[1]
        self.dataset.prefetch(clips[np.sort(first_of_shard)].tolist())

    def _stop_fetching(self) -> None:
        if self.dataset.cache is not None:
            self.dataset.cache.stop()

    def _give_up_or_skip(self, clip: int, error: DataError) -> None:
        policy = self.config.bad_samples
        if isinstance(policy, Strict):
            raise DataError(f"{error}; or train without such clips: 'data.bad_samples={{kind: skip}}'") from error
        with self._lock:
            if clip not in self.bad:
                self.bad[clip] = str(error)
                log.warning("skipped a bad clip (%d so far): %s", len(self.bad), error)
            if len(self.bad) > policy.budget * len(self.dataset.clips):
                raise DataError(f"{self.dataset.folder}: {self._complaint()}") from error

    def _complaint(self) -> str:
        policy, last = self.config.bad_samples, next(reversed(self.bad.values()), "")
        budget = policy.budget if isinstance(policy, Skip) else 0.0
        total = len(self.dataset.clips)
        return f"{len(self.bad)} of {total} clips are bad, the budget is {budget:.1%}; the last: {last}"

    def _window(self, epoch: int, clip: int, window: int) -> _Window:
        entry = self.dataset.clips[clip]
        length = self._windows.length(entry.num_frames)
        start = self._windows.start(entry.num_frames, self._events[clip], epoch, clip, window)
        cut = slice(start, start + length)
        if self._cache is None:
            whole = self._decode(clip, start, length)
            frames = whole.frames
        else:
            whole = self._cache.get(clip, self._decode)
            frames = whole.frames[cut]
        rows = {name: values[cut] for name, values in whole.rows.items()}
        return _Window(f"{entry.key}@{start}", frames, rows, whole.caption, whole.text)

    def _decode(self, clip: int, start: int = 0, count: int | None = None) -> DecodedClip:
        """Some frames of a clip, with all rows."""
        frames = self._frames(clip, start, count)
        return DecodedClip(frames, self.dataset.rows(clip), self._caption(clip), self.dataset.text(clip))

    def _caption(self, clip: int) -> str | None:
        caption: str | None = self.dataset.meta(clip).get("caption")
        return caption

    def _frames(self, clip: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """(count, C, H, W), whatever order the disk has."""
        frames = self.dataset.frames(clip, start, count)
        if self.dataset.manifest.kind == "video":
            return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
        return frames

    def _windows_per_clip(self) -> list[list[int]]:
        """Windows of each clip, by shard."""
        shards: dict[str, list[int]] = {}
        for clip in self.dataset.clips:
            shards.setdefault(clip.shard, []).append(self._windows.count(clip.num_frames))
        if not any(n for counts in shards.values() for n in counts):
            longest = max((clip.num_frames for clip in self.dataset.clips), default=0)
            least = "shortest_clip" if self.config.shortest_clip else "clip_frames"
            raise DataError(
                f"{self.dataset.folder}: no clip has {getattr(self.config, least)} frames (the longest of "
                f"{len(self.dataset.clips)} has {longest}); set data.{least} lower or record longer clips"
            )
        return list(shards.values())

    def _weights(self, epoch: int) -> np.ndarray:
        """How often each window of all clips comes in `epoch`, 1 in the mean."""
        scores = []
        for number, (clip, change) in enumerate(zip(self.dataset.clips, self._change, strict=True)):
            starts, length = self._windows.starts(clip.num_frames, epoch, number), self._windows.length(clip.num_frames)
            scores.append(window_scores(change, starts, length) if len(starts) else np.zeros(0))
        return weights(np.concatenate(scores), self.config.change_fraction)

    def _whole_clips_fit(self) -> bool:
        """Whether the clips that this rank's readers shuffle at one time fit the cache; if not, windows are decoded."""
        manifest = self.dataset.manifest
        frame_bytes = manifest.height * manifest.width * 3
        if manifest.kind == "latents":
            frame_bytes = max(clip.members[LATENTS].size // clip.num_frames for clip in self.dataset.clips)
        clip_bytes = max(clip.num_frames for clip in self.dataset.clips) * frame_bytes
        readers = math.ceil(self.config.num_readers / self.world_size)
        at_once = min(readers * self.config.block_clips, len(self.dataset.clips))
        return at_once * clip_bytes <= self.config.cache_megabytes << 20


def _change(clip: ClipEntry) -> np.ndarray:
    """(T,) how much happens in each frame, as it was stored; the part of the pixels that changed where it was not."""
    return np.sqrt(clip.changed) if not clip.change else np.asarray(clip.change)


def _text(windows: list[_Window]) -> tuple[str, ...] | None:
    """The captions of a batch; None where no clip has one. DataError where only some have."""
    captions = [window.caption for window in windows if window.caption is not None]
    if captions and len(captions) < len(windows):
        bare = next(window.name for window in windows if window.caption is None)
        raise DataError(
            f"sample {bare} has no caption and others have: write an empty one where there is nothing to say"
        )
    return tuple(captions) or None
