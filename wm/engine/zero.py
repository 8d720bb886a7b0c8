"""ZeroLearner: the learner of every run, on DeepSpeed ZeRO 0 to 3. The only user of deepspeed.

What is private to DeepSpeed and used, because there is no public way: the float32 partitions of its optimizers
(zero_masters.py) and the engine's backward prologue. The parity tests hold both for the pinned version.
"""

import dataclasses
import gc
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wm.batch import Batch
from wm.engine import failpoints, phases
from wm.engine.average import Average, PowerAverages
from wm.engine.host_memory import HostMemory
from wm.engine.learner import LearnerConfig, learning_rate, optimizer_settings
from wm.engine.optimizer import AdamWAndMuon, Matrix, build_optimizer, matrix_shape, moments, parameter_groups, shelf_of
from wm.engine.partition import Fragment, Nothing, RankFile, Reader, rank_file
from wm.engine.protocols import Loss, Metrics, Snapshot
from wm.engine.update import MetricMeans, StepCount, micro_batches, untrained, whole_state
from wm.engine.world import World, init_process_group
from wm.engine.zero_masters import masters_of

logger = logging.getLogger(__name__)

REDUCE_BUCKET_ELEMENTS = 50_000_000  # DeepSpeed's own default allocates ten times as much on every step


def deepspeed_config(config: LearnerConfig, world_size: int, elements: int) -> dict[str, Any]:
    """What DeepSpeed is told. Batch sizes are formal: `update` splits the batch and says where a step ends.

    `elements` are those of all parameters. In bfloat16 gradients are accumulated in float32, except at ZeRO 0, where
    DeepSpeed has no such path.
    """
    zero_stage = config.zero_stage
    tree: dict[str, Any] = {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clip,
        "zero_optimization": {
            "stage": zero_stage,
            # Allocated anew in every step: what is larger than a few megabytes comes from the system, page by page.
            "reduce_bucket_size": min(REDUCE_BUCKET_ELEMENTS, elements),
            # Below stage 3 it scatters nothing: it would copy all gradients together to sum them, and apart again.
            "reduce_scatter": zero_stage == 3,
            "allgather_bucket_size": 4 * REDUCE_BUCKET_ELEMENTS,
        },
    }
    if config.optimizer == "muon" or config.offload != "none":  # DeepSpeed knows torch's; ours is held to LocalLearner
        tree["zero_allow_untested_optimizer"] = True
    if config.precision == "bfloat16":
        tree["bf16"] = {"enabled": True, "check_grad_overflow": True}
        tree["data_types"] = {"grad_accum_dtype": "bf16" if zero_stage == 0 else "fp32"}
        if zero_stage == 1:  # what is reduced there is float32; the default would round it to bfloat16
            tree["communication_data_type"] = "fp32"
    return tree


class ZeroLearner:
    """One module under a DeepSpeed engine. Same law as LocalLearner; parameters, moments and average are partitioned.

    An initialised process group is used as it is; without one, one is made. All calls but `module`
    are collectives. Only one engine of a process may have parameters that require a gradient while it updates: freeze
    the module of the other (`requires_grad_(False)`).
    """

    def __init__(self, module: nn.Module, config: LearnerConfig, *, num_steps: int, world: World):
        deepspeed = _import_deepspeed(world)
        if not dist.is_initialized():
            init_process_group(world.device, world.rank, world.world_size)
        self._config, self._num_steps, self._world = config, num_steps, world
        groups = parameter_groups(module, config.optimizer == "muon")
        names = {id(p): name for group in groups for name, p in group.named}
        for parameter in module.parameters():
            parameter.data = parameter.data.contiguous()  # checkpoints hold slices of the flattened parameter
        # The rate is set by every update; at ZeRO 0 in bfloat16 DeepSpeed takes a step of its own when it begins.
        settings = optimizer_settings(config) | {"rate": 0.0}
        optimizer = build_optimizer(groups, [[p for _, p in group.named] for group in groups], **settings)
        elements = sum(parameter.numel() for parameter in module.parameters())
        with _quietly():
            self._engine, _, _, _ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=deepspeed_config(config, world.world_size, elements)
            )
        optimizer.state.clear()
        self._optimizer = optimizer
        self._masters = masters_of(self._engine, names, world, deepspeed)
        if isinstance(optimizer, AdamWAndMuon):
            hidden = {name for group in groups if group.muon for name, _ in group.named}
            sums = world.world_size > 1 and self._masters.partitioned
            optimizer.lay_out(self._matrices(hidden), dist.all_reduce if sums else None)
        if world.world_size == 1 and self._masters.reduced_by_engine:
            self._engine.enable_backward_allreduce = False  # it would flatten and copy all gradients for nobody
        flats, shelf = self._masters.flats, shelf_of(optimizer)
        self._average = Average(flats, config.average_decay, shelf) if config.average_decay else None
        self._powers = PowerAverages(flats, config.average_lengths, shelf)
        self._count, self._memory = StepCount(), HostMemory()

    @property
    def module(self) -> nn.Module:
        return self._engine.module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Not engine(...): its hooks see tensors only in tuples and dicts, and start the backward once for every call,
        # which drops gradients when a loss calls the module twice. `update` starts it, once for every loss.
        return self._engine.module(*args, **kwargs)

    def update(self, loss: Loss, batch: Batch) -> Metrics:
        """One optimizer step, or none where any rank's loss or gradient is not finite. See protocols.Learner."""
        rate = learning_rate(self._config, self._count.applied, self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        means, spike = self._accumulate(loss, batch)
        phases.enter("optimizer")
        failpoints.reach("learner.gradients")
        metrics = means.rank_means()
        norm = self._step()
        if norm is not None:
            failpoints.reach("learner.applied")
            if self._average is not None:
                self._average.update(self._masters.flats)
            self._powers.update(self._masters.flats, self._count.applied + 1)
            self._count.apply(metrics["loss"].item() if self._config.spike_sigma else None)
        else:
            self._count.skip(batch, means.own_loss(), float("nan"), spike, self._world)
        shown = float("nan") if norm is None else norm
        return {**metrics, "grad_norm": shown, "learning_rate": rate, "skipped_steps": float(self._count.skipped)}

    def _accumulate(self, loss: Loss, batch: Batch) -> tuple[MetricMeans, bool]:
        """What was measured, and whether the loss is a spike: then the gradients are NaN, so that no step is taken."""
        means, spike = MetricMeans(self._world), False
        parts = list(micro_batches(batch, self._config.micro_batch_size))
        for i, (part, weight) in enumerate(parts):
            self._engine.set_gradient_accumulation_boundary(i == len(parts) - 1)
            self._masters.before_forward()
            phases.enter("forward")
            value, metrics = loss(part)
            phases.enter("backward")
            means.add(value, metrics, weight)
            if self._config.spike_sigma and i == len(parts) - 1:
                spike = self._count.is_spike(means.rank_means()["loss"].item(), self._config.spike_sigma)
            weighted = _poisoned(value, spike) * weight
            weighted.register_hook(lambda _: self._engine._backward_prologue())
            self._engine.backward(weighted)
        return means, spike

    def _step(self) -> Tensor | float | None:
        """The gradient norm of an applied step; None when a gradient was not finite and nothing changed."""
        norm = self._masters.norm_before_step()
        if norm is not None and not bool(torch.isfinite(norm)):
            self._engine.zero_grad()
            return None
        self._engine.step()
        if not self._engine.was_step_applied():
            return None
        return norm if norm is not None else self._engine.get_global_grad_norm()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        if self._average is None:
            yield self.module
            return
        kept = [flat.detach().clone() for flat in self._masters.flats]
        self._show(self._average.tensors)
        try:
            yield self.module
        finally:
            self._show(kept)

    @torch.no_grad()
    def _show(self, values: Sequence[Tensor]) -> None:
        """Let the module compute with `values` in place of the masters."""
        for flat, value in zip(self._masters.flats, values, strict=True):
            flat.copy_(value)
        self._masters.publish()

    def weights(self) -> dict[str, Tensor]:
        """The average (the masters, where none is kept) and the frozen parameters and buffers, float32, on the CPU."""
        kind = "average" if self._average is not None else "master"
        shapes = {name: _shape(p) for name, p in self.module.named_parameters()}
        whole = {f.name: self._gather(f, kind).view(shapes[f.name]) for f in self._fragments()}
        with self._masters.gathered(False):
            return whole_state(self.module, whole)

    @torch.no_grad()
    def _gather(self, fragment: Fragment, kind: str) -> Tensor:
        if not self._masters.partitioned:
            return fragment.tensors[kind].detach()
        whole = torch.zeros(fragment.numel, device=self._world.device)
        whole[fragment.start : fragment.start + fragment.size] = fragment.tensors[kind]
        dist.all_reduce(whole)
        return whole

    def save(self, folder: Path) -> None:
        """Every rank writes what it owns; no rank gathers anything."""
        with self._masters.gathered(False):
            if self._writes:
                self._file().save(folder)

    def make_room(self) -> None:
        with self._masters.gathered(False):
            if self._writes:
                self._memory.make(self._file().tensors)

    def snapshot(self) -> Snapshot:
        with self._masters.gathered(False):
            return self._file().copied(self._memory) if self._writes else Nothing()

    @property
    def _writes(self) -> bool:
        return self._world.rank == 0 or self._masters.partitioned

    def _file(self) -> RankFile:
        whole = untrained(self.module, self._masters.names) if self._world.rank == 0 else {}
        owned = [f for f in self._fragments() if f.size]
        return rank_file(self._world.rank, owned, whole, dataclasses.asdict(self._count))

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """What any learner saved, at any world size and ZeRO stage. ValueError where the parameters differ."""
        reader = Reader(folder)
        fragments = self._fragments()
        reader.check({f.name: f.numel for f in fragments})
        reader.fill(fragments)
        with self._masters.gathered(True):
            for name, tensor in untrained(self.module, self._masters.names).items():
                tensor.copy_(reader.extra(name))
        self._count = StepCount(**reader.facts)
        for flat in self._masters.flats:
            self._optimizer.state[flat]["step"].fill_(self._count.applied)
        self._masters.publish()

    def _fragments(self) -> list[Fragment]:
        """What this rank owns of every parameter; of some, nothing."""
        fragments = []
        for place in self._masters.places:
            flat = self._masters.flats[place.flat]
            tensors = {"master": flat.detach(), **moments(self._optimizer, flat)}
            if self._average is not None:
                tensors["average"] = self._average.tensors[place.flat]
            tensors |= {kind: kept[place.flat] for kind, kept in self._powers.tensors.items()}
            owned = {kind: t.reshape(-1).narrow(0, place.offset, place.size) for kind, t in tensors.items()}
            fragments.append(Fragment(place.name, place.numel, place.start, owned))
        return fragments

    def _matrices(self, hidden: set[str]) -> Iterator[Matrix]:
        """Where this rank keeps its parts of the parameters named in `hidden`."""
        shapes = {name: _shape(p) for name, p in self.module.named_parameters()}
        for place in self._masters.places:
            if place.name in hidden:
                flat = self._masters.flats[place.flat]
                yield Matrix(flat, place.offset, place.start, place.size, matrix_shape(shapes[place.name]))


def _shape(parameter: Any) -> torch.Size:
    """The whole shape, also of a parameter that ZeRO 3 has partitioned."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _poisoned(loss: Tensor, spike: bool) -> Tensor:
    """`loss`, with NaN for a gradient where it is not finite or a spike: the check of gradients finds it on every rank.

    The only way that all of DeepSpeed's optimizers share of leaving a step out with nothing kept of its gradients.
    """
    return loss * torch.where(torch.isfinite(loss.detach()) & (not spike), 1.0, float("nan"))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what DeepSpeed prints of its memory, and without the half dozen garbage collections before it prints."""
    gc.freeze()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        gc.unfreeze()


def _import_deepspeed(world: World) -> Any:
    """DeepSpeed, told its device and kept quiet. Imported here: its import chooses a device and takes seconds."""
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Of collectives that it calls under the names that torch gave up; one warning for every call.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Else it compiles a shared-memory collective in every new process and prints about it; gloo does the work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
