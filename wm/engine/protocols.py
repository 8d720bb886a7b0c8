"""Who talks to whom in a run: types only."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from wm.batch import Batch

# A metric is a float or a detached scalar tensor; the loop turns it into a float when it logs.
Metrics = Mapping[str, float | Tensor]
Loss = Callable[[Batch], tuple[Tensor, Metrics]]
# From a cursor, this rank's batches without end, each with the cursor that follows it.
OpenBatches = Callable[[int], Iterator[tuple[Batch, int]]]
# Called on every rank, equally often, when a checkpoint is whole: its step and its folder.
OnCheckpoint = Callable[[int, Path], None]


class Snapshot(Protocol):
    """What one rank has to write of a part."""

    def save(self, folder: Path) -> None: ...


class Part(Snapshot, Protocol):
    """What a checkpoint holds under one name. Every rank calls all four."""

    def load(self, folder: Path) -> None: ...

    def make_room(self) -> None:
        """Begin to make the host memory of snapshots, beside the training, so that the first keeps nobody waiting for it."""
        ...

    def snapshot(self) -> Snapshot:
        """The values of this moment, in host memory, until the next call.

        Its `save` writes what the part's own would have written now; it speaks no collective, so any thread may call it.
        """
        ...


class Learner(Part, Protocol):
    """One module, its optimizer, the partition of both that this rank owns, and the average of the weights."""

    @property
    def module(self) -> nn.Module: ...  # for a forward without gradient: a teacher, a picture for the log

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...  # the forward whose gradient `update` takes

    def update(self, loss: Loss, batch: Batch) -> Metrics:
        """One optimizer step on `batch`: micro-batches, backward, clipping, step, average. Metrics are rank means.

        `loss` returns the mean over the samples it is given. Beside its metrics come loss, grad_norm (before clipping),
        learning_rate and skipped_steps. A loss or gradient that is not finite on any rank is applied on none.
        """
        ...

    def averaged(self) -> AbstractContextManager[nn.Module]:
        """The module with the average in place of its weights, whole on every rank, until the context ends."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The average in float32 under the names of the module's state_dict, whole, on the CPU of every rank."""
        ...


class MakeLearner(Protocol):
    """How a stage gets a learner without knowing which; `launch/worker.py` supplies it."""

    def __call__(self, module: nn.Module, config: Any) -> Learner: ...


class Stage(Protocol):
    def step(self, batch: Batch) -> Metrics:
        """One optimizer step's worth of this rank's data."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """What a checkpoint holds, by name."""
        ...

    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pictures (C, H, W) or videos (T, C, H, W) in [0, 1] to look at, by name. Every rank calls."""
        ...

    def finish(self, folder: Path) -> Mapping[str, Any]:
        """Once after the last step, on every rank: what `result.json` says of this run."""
        ...
