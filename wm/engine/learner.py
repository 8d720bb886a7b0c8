"""What turns a loss into an optimizer step: the config every learner reads, and LocalLearner, plain torch.

LocalLearner is the reference that ZeroLearner is compared with. Steps are counted as applied optimizer steps: a
skipped step moves neither the weights nor the schedule nor the average.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wm.batch import Batch
from wm.config import config
from wm.engine import failpoints, phases
from wm.engine.average import Average, PowerAverages, swapped
from wm.engine.host_memory import HostMemory
from wm.engine.offload import Shelf
from wm.engine.optimizer import AdamWAndMuon, Matrix, build_optimizer, matrix_shape, moments, parameter_groups, shelf_of
from wm.engine.partition import Fragment, Nothing, RankFile, Reader, rank_file
from wm.engine.posthoc import power_exponent
from wm.engine.protocols import Loss, Metrics, Snapshot
from wm.engine.update import MetricMeans, StepCount, micro_batches, untrained, whole_state
from wm.engine.world import World
from wm.precision import Precision, dtype_of


@config
class LearnerConfig:
    """How one module is trained. AdamW (Loshchilov & Hutter 2019), or Muon for its hidden matrices and AdamW for the rest.

    Weight decay is on tensors of two axes or more that are not tagged otherwise (wm/tags.py).
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = 0.95  # of Muon
    orthogonal_iterations: int = 5  # by which Muon makes a step orthogonal; three are cheaper and will do
    weight_decay: float = 0.0
    warmup_steps: int = 100  # the rate rises linearly from 1/warmup_steps
    decay: Literal["constant", "linear", "cosine", "wsd"] = "constant"  # after the warm-up; wsd is constant, then falls
    decay_share: float = 0.2  # of the run's steps, in which wsd falls
    final_learning_rate: float = 0.0  # where decay ends, as a fraction of learning_rate
    gradient_clip: float = 1.0  # largest global norm; 0 clips nothing
    spike_sigma: float = 0.0  # a loss so many standard deviations above the recent mean is not applied; 0: any is
    precision: Precision = "float32"  # of module and gradient; masters and average are float32
    zero_stage: Literal[0, 1, 2, 3] = 1  # what is partitioned over ranks; LocalLearner has it whole
    # Where moments and averages lie between steps: on the device, in host memory, or in files that are mapped into it. A step
    # brings them piece by piece.
    offload: Literal["none", "cpu", "nvme"] = "none"
    offload_folder: str = ""  # for nvme: on a fast disk of each machine's own
    micro_batch_size: int = 0  # samples of one rank that go through at once; 0 is all
    average_decay: float = 0.999  # 0 keeps no average
    average_lengths: tuple[
        float, ...
    ] = ()  # of power averages that checkpoints hold too, say 0.05, 0.1 (engine/posthoc.py)

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate {self.learning_rate} must be above 0")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay {self.average_decay} must be in [0, 1); 0 keeps no average")
        if not all(0 <= beta < 1 for beta in (*self.betas, self.momentum)):
            raise ValueError(f"betas {self.betas} and momentum {self.momentum} must be in [0, 1)")
        for length in self.average_lengths:
            power_exponent(length)
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share {self.decay_share} must be in (0, 1]: it is a share of the run's steps")
        if (self.offload == "nvme") != bool(self.offload_folder):
            raise ValueError(
                f"offload {self.offload} and offload_folder {self.offload_folder!r}: nvme needs a folder, and only nvme has one"
            )
        if self.orthogonal_iterations < 1:
            raise ValueError(f"orthogonal_iterations {self.orthogonal_iterations} must be at least 1")
        for name in (
            "weight_decay", "warmup_steps", "final_learning_rate", "gradient_clip", "spike_sigma", "micro_batch_size"
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")

    @property
    def dtype(self) -> torch.dtype:
        """Of module and gradient; ValueError where it is not settled yet."""
        return dtype_of(self.precision)


def learning_rate(config: LearnerConfig, step: int, num_steps: int) -> float:
    """The rate of the optimizer step after `step` applied ones, of `num_steps` in the run."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.decay == "constant":
        return config.learning_rate * warmup
    whole = num_steps - config.warmup_steps
    falling = min(whole, math.ceil(config.decay_share * num_steps)) if config.decay == "wsd" else whole
    left = 1.0 - min(1.0, max(0, step - (num_steps - falling)) / max(1, falling))
    # Cosine (Loshchilov & Hutter 2017); warm-up, stable, decay by 1 - sqrt (Hägele et al. 2024, arXiv:2405.18392, eq. 1).
    shape = {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "wsd": 1.0 - math.sqrt(1.0 - left)}[
        config.decay
    ]
    return config.learning_rate * warmup * (config.final_learning_rate + (1.0 - config.final_learning_rate) * shape)


def optimizer_settings(config: LearnerConfig) -> dict[str, Any]:
    """What build_optimizer is told beside the parameters."""
    return {
        "muon": config.optimizer == "muon",
        "rate": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "momentum": config.momentum,
        "iterations": config.orthogonal_iterations,
        "iterate_in": config.dtype,
        "shelf": Shelf(config.offload_folder) if config.offload != "none" else None,
    }


class _Group:
    """Parameters of one weight decay as views of one flat tensor, with their float32 masters and gradients."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], dtype: torch.dtype, device: torch.device):
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.master = torch.cat([p.detach().to(device, torch.float32).reshape(-1) for p in self.parameters])
        self.low = self.master if dtype == torch.float32 else self.master.to(dtype)
        self.gradient = torch.zeros_like(self.master)
        self.master.grad = self.gradient
        for parameter, view in zip(self.parameters, self.shaped(self.low), strict=True):
            parameter.data = view

    def split(self, flat: Tensor) -> list[Tensor]:
        return list(flat.split([p.numel() for p in self.parameters]))

    def shaped(self, flat: Tensor) -> list[Tensor]:
        return [view.view(p.shape) for p, view in zip(self.parameters, self.split(flat), strict=True)]

    def matrices(self) -> Iterator[Matrix]:
        """Where the parameters lie in the master."""
        first = 0
        for parameter in self.parameters:
            yield Matrix(self.master, first, 0, parameter.numel(), matrix_shape(parameter.shape))
            first += parameter.numel()

    def take_gradients(self) -> None:
        """Add what backward left in the parameters, in float32, and clear it there."""
        for parameter, view in zip(self.parameters, self.split(self.gradient), strict=True):
            if parameter.grad is not None:
                view.add_(parameter.grad.reshape(-1))
                parameter.grad = None

    def publish(self) -> None:
        """Show the masters to the module."""
        if self.low is not self.master:
            self.low.copy_(self.master)


class LocalLearner:
    """One module, whole on every rank, by plain torch. With more than one rank gradients are averaged.

    The module is moved to the world's device and its parameters are cast to `config.precision` in place; buffers and
    inputs are not cast.
    """

    def __init__(self, module: nn.Module, config: LearnerConfig, *, num_steps: int, world: World):
        self._module = module.to(world.device)
        for parameter in module.parameters():  # not the buffers: rotary tables lose their meaning in bfloat16
            parameter.data = parameter.data.to(config.dtype)
        self._config, self._num_steps, self._world = config, num_steps, world
        kinds = parameter_groups(module, config.optimizer == "muon")
        self._groups = [_Group(kind.named, config.dtype, world.device) for kind in kinds]
        self._optimizer = build_optimizer(
            kinds, [[group.master] for group in self._groups], **optimizer_settings(config)
        )
        if isinstance(self._optimizer, AdamWAndMuon):
            of_muon = [group for group, kind in zip(self._groups, kinds, strict=True) if kind.muon]
            self._optimizer.lay_out((matrix for group in of_muon for matrix in group.matrices()), None)
        masters, shelf = [g.master for g in self._groups], shelf_of(self._optimizer)
        self._average = Average(masters, config.average_decay, shelf) if config.average_decay else None
        self._powers = PowerAverages(masters, config.average_lengths, shelf)
        self._count, self._memory = StepCount(), HostMemory()

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def _names(self) -> set[str]:
        return {name for group in self._groups for name in group.names}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)

    def update(self, loss: Loss, batch: Batch) -> Metrics:
        """One optimizer step, or none where any rank's loss or gradient is not finite. See protocols.Learner."""
        means = self._accumulate(loss, batch)
        phases.enter("optimizer")
        failpoints.reach("learner.gradients")
        norm = self._gradient_norm()
        metrics = means.rank_means()
        rate = learning_rate(self._config, self._count.applied, self._num_steps)
        sigma = self._config.spike_sigma
        finite = bool(torch.isfinite(norm + metrics["loss"]))
        spike = finite and bool(sigma) and self._count.is_spike(metrics["loss"].item(), sigma)
        if finite and not spike:
            self._apply(norm, rate)
            self._count.apply(metrics["loss"].item() if sigma else None)
        else:
            self._count.skip(batch, means.own_loss(), norm.item(), spike, self._world)
        return {**metrics, "grad_norm": norm, "learning_rate": rate, "skipped_steps": float(self._count.skipped)}

    def _accumulate(self, loss: Loss, batch: Batch) -> MetricMeans:
        means = MetricMeans(self._world)
        for group in self._groups:
            group.gradient.zero_()
            for parameter in group.parameters:
                parameter.grad = None
        for part, weight in micro_batches(batch, self._config.micro_batch_size):
            phases.enter("forward")
            value, metrics = loss(part)
            phases.enter("backward")
            (value * weight).backward()
            means.add(value, metrics, weight)
            for group in self._groups:
                group.take_gradients()
        return means

    def _gradient_norm(self) -> Tensor:
        for group in self._groups:
            if self._world.world_size > 1:
                group.gradient.copy_(self._world.all_reduce_mean(group.gradient))
        # In float64: torch sums the squares of a long tensor one by one, which took 3e-5 of the norm of 600,000 gradients.
        norms = [torch.linalg.vector_norm(g.gradient, dtype=torch.float64) for g in self._groups]
        return torch.linalg.vector_norm(torch.stack(norms)).float()

    def _apply(self, norm: Tensor, rate: float) -> None:
        if self._config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_([g.master for g in self._groups], self._config.gradient_clip, norm)
        for settings in self._optimizer.param_groups:
            settings["lr"] = rate
        self._optimizer.step()
        for group in self._groups:
            group.publish()
        failpoints.reach("learner.applied")
        if self._average is not None:
            self._average.update([g.master for g in self._groups])
        self._powers.update([g.master for g in self._groups], self._count.applied + 1)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        parameters = [p for g in self._groups for p in g.parameters]
        with swapped(parameters, list(self._whole(self._average).values())):
            yield self._module

    def weights(self) -> dict[str, Tensor]:
        """The average (the masters, where none is kept) and the frozen parameters and buffers, float32, on the CPU."""
        return whole_state(self._module, self._whole(self._average))

    def _whole(self, average: Average | None) -> dict[str, Tensor]:
        flats = [g.master for g in self._groups] if average is None else average.tensors
        return {
            n: t
            for g, flat in zip(self._groups, flats, strict=True)
            for n, t in zip(g.names, g.shaped(flat), strict=True)
        }

    def save(self, folder: Path) -> None:
        """Rank 0 writes; the others hold the same."""
        if self._world.rank == 0:
            self._file().save(folder)

    def make_room(self) -> None:
        if self._world.rank == 0:
            self._memory.make(self._file().tensors)

    def snapshot(self) -> Snapshot:
        return self._file().copied(self._memory) if self._world.rank == 0 else Nothing()

    def _file(self) -> RankFile:
        return rank_file(0, self._fragments(), untrained(self._module, self._names), dataclasses.asdict(self._count))

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """What any learner saved, at any world size and ZeRO stage. ValueError where the parameters differ."""
        reader = Reader(folder)
        fragments = self._fragments()
        reader.check({f.name: f.numel for f in fragments})
        reader.fill(fragments)
        for name, tensor in untrained(self._module, self._names).items():
            tensor.copy_(reader.extra(name))
        self._count = StepCount(**reader.facts)
        for group in self._groups:
            self._optimizer.state[group.master]["step"].fill_(self._count.applied)
            group.publish()

    def _fragments(self) -> list[Fragment]:
        fragments: list[Fragment] = []
        for index, group in enumerate(self._groups):
            flats = {"master": group.master, **moments(self._optimizer, group.master)}
            if self._average is not None:
                flats["average"] = self._average.tensors[index]
            flats |= {kind: tensors[index] for kind, tensors in self._powers.tensors.items()}
            pieces = {kind: group.split(flat) for kind, flat in flats.items()}
            for i, (name, parameter) in enumerate(zip(group.names, group.parameters, strict=True)):
                fragments.append(Fragment(name, parameter.numel(), 0, {kind: p[i] for kind, p in pieces.items()}))
        return fragments
