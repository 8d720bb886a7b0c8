"""What the learners share of one update: the parameters, the micro-batches, what is measured, when it is skipped."""

import logging
import math
import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wm.batch import Batch
from wm.engine.protocols import Metrics
from wm.engine.world import World

logger = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 5
SPIKE_WINDOW, SPIKE_HISTORY = 64, 16  # steps that a loss is compared with: at most, at least


class Diverged(FloatingPointError):
    """Too many steps in a row were skipped, on every rank; weights and optimizer are those before the first of them."""


def untrained(module: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """The entries of the state_dict that no optimizer moves, live: buffers and frozen parameters."""
    moved = {id(p) for name, p in module.named_parameters() if name in trained}
    return {name: t.detach() for name, t in module.state_dict(keep_vars=True).items() if id(t) not in moved}


def whole_state(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict on the CPU, with float32 `weights` for the trained parameters, under all names of a shared one."""
    names = {id(p): name for name, p in module.named_parameters() if name in weights}
    state = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        value = weights[names[id(tensor)]] if id(tensor) in names else tensor
        state[name] = value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype, copy=True)
    return state


def micro_batches(batch: Batch, size: int) -> Iterator[tuple[Batch, float]]:
    """Parts of at most `size` samples (0: one part) and the weight of each, so that weighted means are batch means."""
    for part in batch.split(size or max(1, len(batch))):
        yield part, len(part) / len(batch)


class MetricMeans:
    """Sums of weighted metrics over micro-batches, on the device; read once, with the loss among them."""

    def __init__(self, world: World):
        self._world = world
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: Tensor, metrics: Metrics, weight: float) -> None:
        for name, value in {"loss": loss, **metrics}.items():
            tensor = torch.as_tensor(value, dtype=torch.float32, device=self._world.device).detach() * weight
            self._sums[name] = self._sums[name] + tensor if name in self._sums else tensor

    def own_loss(self) -> float:
        """This rank's loss; waits for the device."""
        return self._sums["loss"].item()

    def rank_means(self) -> dict[str, Tensor]:
        """Means over ranks, by one collective. Every rank must have added the same names."""
        return dict(zip(self._sums, self._world.all_reduce_mean(torch.stack(list(self._sums.values()))), strict=True))


@dataclass
class StepCount:
    """How many steps were applied and skipped; refuses to go on after too many skipped in a row."""

    applied: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    losses: list[float] = field(default_factory=list)  # of the newest applied steps, where spikes are looked for

    def is_spike(self, loss: float, sigma: float) -> bool:
        """Whether `loss` is more than `sigma` standard deviations above the mean of the applied steps' (0: never).

        A loss that hardly moves has next to no deviation, so a thousandth of its size is the least that counts.
        """
        if not sigma or len(self.losses) < SPIKE_HISTORY:
            return False
        mean = statistics.fmean(self.losses)
        return loss > mean + sigma * max(statistics.pstdev(self.losses), 1e-3 * abs(mean))

    def apply(self, loss: float | None = None) -> None:
        """Count an applied step; its loss is kept for `is_spike` where it is given."""
        self.applied += 1
        self.skipped_in_a_row = 0
        if loss is not None:
            self.losses = [*self.losses, loss][-SPIKE_WINDOW:]

    def skip(self, batch: Batch, own_loss: float, gradient_norm: float, spike: bool, world: World) -> None:
        """Count and log a step that was not applied, with its samples. Diverged at the fifth in a row."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        held = world.gather_objects((own_loss, batch.sample_ids))
        suspects = [(rank, *item) for rank, item in enumerate(held) if not math.isfinite(item[0])]
        suspects = suspects or [(rank, *item) for rank, item in enumerate(held)]
        text = "; ".join(
            f"rank {rank} loss {loss:g} samples {', '.join(ids) or '(unnamed)'}" for rank, loss, ids in suspects
        )
        reason = "a loss far above those before it" if spike else f"gradient norm {gradient_norm:g}"
        line = f"step {batch.step} skipped on all ranks, {reason}: {text}"
        if world.rank == 0:
            logger.warning(line)
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row, the last at step {batch.step}, had a loss or gradient that is "
                f"not finite, or a loss beyond spike_sigma; lower learning_rate or look at the samples. Last: {line}"
            )
