"""Which sample comes when: a pure function of (seed, epoch, number of logical readers).

In each epoch the shards are permuted, the clips inside each too, and the windows of all clips in that order are cut
into `num_readers` parts. Each part is shuffled in blocks of `block_clips` clips, so that a reader needs few clips at a
time. Sample i of an epoch belongs to reader i mod `num_readers`. Ranks, worker threads and prefetching do not enter:
the state of a stream is one integer, and any world size sees the same global batches.

With weights, an epoch has as many samples, and a window comes in it as often as its weight says.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline.change import drawn

_EPOCHS_KEPT = 2  # prefetching looks across the end of one

_MASK = (1 << 64) - 1


class Order:
    """The endless stream of (epoch, clip, window); clips are numbered through all shards in order."""

    def __init__(
        self,
        windows_per_clip: Sequence[Sequence[int]],  # per shard, per clip, how many windows it has
        seed: int,
        num_readers: int = 8,
        block_clips: int = 8,
        weights: Callable[[int], np.ndarray] | None = None,  # of the windows of all clips in an epoch, (num_windows,)
    ) -> None:
        if num_readers < 1 or block_clips < 1:
            raise ValueError(f"num_readers {num_readers} and block_clips {block_clips} must be at least 1")
        self.seed, self.num_readers, self.block_clips, self._weights = seed, num_readers, block_clips, weights
        self._counts = np.array([n for shard in windows_per_clip for n in shard], np.int64)
        self._shard_of = np.repeat(np.arange(len(windows_per_clip)), [len(shard) for shard in windows_per_clip])
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self.num_windows = int(self._counts.sum())  # samples in one epoch
        if self.num_windows < 1:
            raise ValueError("there are no windows to order")

    def sample(self, i: int) -> tuple[int, int, int]:
        """(epoch, clip, window) of sample i of the stream, i from 0 without end."""
        epoch, position = divmod(i, self.num_windows)
        clips, windows = self._epoch(epoch)
        return epoch, int(clips[position]), int(windows[position])

    def clips(self, positions: range) -> np.ndarray:
        """The clips of the samples at `positions` of the stream, whatever their epochs."""
        at = np.asarray(positions, np.int64)
        epochs, places = np.divmod(at, self.num_windows)
        found = np.empty(len(at), np.int64)
        for epoch in np.unique(epochs).tolist()[:_EPOCHS_KEPT]:
            found[epochs == epoch] = self._epoch(epoch)[0][places[epochs == epoch]]
        return found[epochs < epochs[0] + _EPOCHS_KEPT]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = self._arrange(epoch)
                if len(self._epochs) > _EPOCHS_KEPT:
                    self._epochs.popitem(last=False)
            self._epochs.move_to_end(epoch)
            return self._epochs[epoch]

    def _arrange(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Clip and window of every sample of the epoch."""
        # Raw words, sorted: NumPy promises the words of a bit generator for ever, not what permutation() makes of them.
        raw = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw
        shard_key, clip_key = raw(self._shard_of.max() + 1), raw(len(self._counts))
        order = np.lexsort((clip_key, shard_key[self._shard_of]))
        counts = self._counts[order]
        place = np.repeat(np.arange(len(order)), counts)  # of each window's clip in the permuted order
        window = np.arange(self.num_windows) - np.repeat(np.cumsum(counts) - counts, counts)
        key = raw(self.num_windows)
        if self._weights is not None:
            first = np.cumsum(self._counts) - self._counts  # number of each clip's first window
            ordered = self._weights(epoch)[first[order[place]] + window]
            chosen = drawn(ordered, uniform(self.seed, epoch))
            place, window = place[chosen], window[chosen]
        shuffled = self._interleave(place, key)
        return order[place[shuffled]], window[shuffled]

    def _interleave(self, place: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Index of the window at each position of the epoch: cut into readers, shuffled in blocks, dealt in turn."""
        total, readers = self.num_windows, self.num_readers
        sizes = (total - np.arange(readers) + readers - 1) // readers  # reader r has positions r, r + R, r + 2R, ...
        starts = np.cumsum(sizes) - sizes
        reader = np.repeat(np.arange(readers), sizes)
        block = (place - place[np.minimum(starts, total - 1)][reader]) // self.block_clips
        shuffled = np.lexsort((key, block, reader))
        position = np.arange(total)
        return shuffled[starts[position % readers] + position // readers]


def uniform(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone (splitmix64, Steele et al. 2014, over the integers of the key)."""
    state = 0
    for part in key:
        state = (state ^ (part & _MASK)) * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return (state >> 11) / (1 << 53)
