"""Several datasets as one stream: whose turn it is, a pure function of (seed, weights, position), so it resumes anywhere.

Turns go in cycles. In each, every dataset has a fixed number of places, as near to its weight as whole numbers come, in an
order of the cycle's own. A dataset's samples come in its own order, none left out, whatever the others do.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.loader import Batches, DataConfig, _Window, open_batches
from data_pipeline.mirror import located
from data_pipeline.schema import DataError, DatasetManifest
from data_pipeline.shards import Dataset

CYCLE = 1000  # turns in a cycle; a weight of less than half of 1/CYCLE of all cannot be kept
_CYCLES_KEPT = 4


class Turns:
    """Maps positions of the mixed stream to (dataset, position in that dataset's stream), one to one."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if len(weights) == 0 or not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"data: weights of a mixture are {list(weights)}; each must be above 0")
        self.seed, self.places = seed, _places(np.asarray(weights, np.float64))
        self._cycles: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, position: int) -> tuple[int, int]:
        """Whose turn it is at `position`, and which of its turns it is, from 0 on."""
        cycle, place = divmod(position, CYCLE)
        owner, count = self._cycle(cycle)
        dataset = int(owner[place])
        return dataset, cycle * int(self.places[dataset]) + int(count[place])

    def _cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """(CYCLE,) the dataset of each place, and how many places before it in the cycle are of the same dataset."""
        with self._lock:
            if cycle not in self._cycles:
                self._cycles[cycle] = self._arrange(cycle)
                if len(self._cycles) > _CYCLES_KEPT:
                    self._cycles.popitem(last=False)
            return self._cycles[cycle]

    def _arrange(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        # Raw words, sorted: NumPy promises the words of a bit generator for ever.
        words = np.random.PCG64(np.random.SeedSequence([self.seed, cycle])).random_raw(CYCLE)
        owner = np.repeat(np.arange(len(self.places)), self.places)[np.argsort(words, kind="stable")]
        count = np.zeros(CYCLE, np.int64)
        for dataset, places in enumerate(self.places):
            count[owner == dataset] = np.arange(places)
        return owner, count


def _places(weights: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to CYCLE and are nearest to `weights` (largest remainders)."""
    exact = weights / weights.sum() * CYCLE
    places = np.floor(exact).astype(np.int64)
    order = np.argsort(places - exact, kind="stable")
    places[order[: CYCLE - places.sum()]] += 1
    if (places == 0).any():
        raise ValueError(
            f"data: a weight of {weights.min():g} among {weights.sum():g} is less than one sample in {CYCLE}: "
            "give it more, or leave its dataset out"
        )
    return places


class Mixture(Batches):
    """The batches of `config.folder` and of the datasets in `config.mixture`, each sample from the one whose turn it is.

    The cursor, threads, ranks and the policy for bad samples are as for one dataset; each dataset has its own budget.
    """

    def __init__(self, config: DataConfig, parts: Sequence[Batches], seed: int) -> None:
        first = parts[0]
        super().__init__(config, first.dataset, first.rank, first.world_size, seed)
        self.parts = tuple(parts)
        weights = [config.weight, *(part.weight for part in config.mixture)]
        self.turns = Turns(weights, seed)
        for part in self.parts[1:]:
            check_alike(first.dataset, part.dataset)

    @property
    def num_skipped(self) -> int:
        """Samples replaced so far, over all datasets."""
        return sum(part.skipped for part in self.parts)

    def _stop_fetching(self) -> None:
        for part in self.parts:
            part._stop_fetching()

    def _sample(self, position: int) -> _Window:
        dataset, place = self.turns(position)
        return self.parts[dataset]._sample(place)


def open_mixture(config: DataConfig, root: Path, rank: int, world_size: int, seed: int) -> Batches:
    """This rank's view of the datasets of `config`, whose folders are relative to `root` or addresses; one dataset is no mixture."""
    first = open_batches(
        config, located(root, config.folder, config.shard_cache, config.retries), rank, world_size, seed
    )
    if not config.mixture:
        return first
    # Seeds of their own: datasets of the same size would otherwise be shuffled alike.
    others = [
        open_batches(
            config, located(root, part.folder, config.shard_cache, config.retries), rank, world_size, seed + number
        )
        for number, part in enumerate(config.mixture, 1)
    ]
    return Mixture(config, [first, *others], seed)


def check_alike(first: Dataset, other: Dataset, sizes: bool = True) -> None:
    """DataError for datasets that cannot be in one batch, or with `sizes` False not in one run."""
    a, b = first.manifest, other.manifest
    for name in ("kind", *(("height", "width") if sizes else ()), "fps", "action_space"):
        if getattr(a, name) != getattr(b, name):
            hint = ", or read them in data.buckets" if name in ("height", "width") else ""
            raise DataError(
                f"{other.folder} has {name} {getattr(b, name)}, {first.folder} {getattr(a, name)}: "
                f"datasets of a mixture must be alike; bring one to the other{hint}"
            )
    if _tokenizer(a) != _tokenizer(b):
        raise DataError(
            f"{other.folder} holds latents of VAE {_tokenizer(b)}, {first.folder} of {_tokenizer(a)}: "
            "encode both with one"
        )
    if a.text != b.text:
        raise DataError(
            f"{other.folder} and {first.folder} hold captions of different text encoders, or one of them "
            "none: encode both with one (encode_latents, with the same text)"
        )


def _tokenizer(manifest: DatasetManifest) -> str:
    return "" if manifest.latents is None else manifest.latents.vae_hash
