"""Where DeepSpeed keeps the float32 weights that a rank owns, for each of the optimizers that it makes.

By ZeRO stage and precision: 0 float32 AdamW itself, 0 bfloat16 FP16_UnfusedOptimizer, 1 bfloat16 BF16_Optimizer,
1 float32 and 2 DeepSpeedZeroOptimizer, 3 DeepSpeedZeroOptimizer_Stage3. Their attributes are private; the version that
this was read in is the one of the constraints file, and tests/test_zero.py holds every stage to it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wm.engine.world import World


@dataclass(frozen=True)
class Place:
    """What this rank owns of one parameter: elements [start, start + size), at `offset` of the flat numbered `flat`."""

    name: str
    numel: int  # of the whole parameter
    flat: int
    offset: int
    start: int
    size: int


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Masters:
    """The float32 weights that this rank owns, and what differs between DeepSpeed's optimizers in using them."""

    flats: Sequence[Tensor]  # what AdamW steps on
    places: Sequence[Place]  # one for every trained parameter; of some a rank owns nothing
    partitioned: bool  # False where every rank holds all
    reduced_by_engine: bool  # gradients are averaged over ranks by the engine, not by the optimizer
    publish: Callable[[], None] = _nothing  # show the masters to the module, on all ranks
    before_forward: Callable[[], None] = _nothing
    norm_before_step: Callable[[], Tensor | None] = _nothing  # where DeepSpeed does not check gradients itself
    gathered: Callable[[bool], AbstractContextManager[Any]] = nullcontext  # frozen parameters are whole; True: to write

    @property
    def names(self) -> set[str]:
        return {place.name for place in self.places}


def masters_of(engine: Any, names: Mapping[int, str], world: World, deepspeed: Any) -> Masters:
    """The masters under `engine`; `names` are those of the trained parameters by id."""
    kind = type(engine.optimizer).__name__
    if engine.optimizer is engine.basic_optimizer:
        return _of_plain(engine, names)
    if kind == "FP16_UnfusedOptimizer":
        return _of_unfused(engine.optimizer, names)
    if kind in ("BF16_Optimizer", "DeepSpeedZeroOptimizer"):
        return _of_stages_1_and_2(engine, names)
    if kind == "DeepSpeedZeroOptimizer_Stage3":
        return _of_stage_3(engine, names, world, deepspeed)
    raise RuntimeError(f"DeepSpeed {deepspeed.__version__} made a {kind}, which is not known here; see constraints.txt")


def _of_plain(engine: Any, names: Mapping[int, str]) -> Masters:
    parameters = [p for group in engine.optimizer.param_groups for p in group["params"]]

    def norm() -> Tensor:
        for parameter in parameters:
            if parameter.grad is None:  # no loss reached it; the other optimizers step on zeros then
                parameter.grad = torch.zeros_like(parameter)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    places = [_whole(names[id(p)], p, i) for i, p in enumerate(parameters)]
    return Masters(flats=parameters, places=places, partitioned=False, reduced_by_engine=True, norm_before_step=norm)


def _of_unfused(optimizer: Any, names: Mapping[int, str]) -> Masters:
    low = [p for group in optimizer.fp16_groups for p in group]
    flats = [p for group in optimizer.fp32_groups for p in group]

    def publish() -> None:
        for parameter, master in zip(low, flats, strict=True):
            parameter.data.copy_(master.data)

    places = [_whole(names[id(p)], p, i) for i, p in enumerate(low)]
    return Masters(flats=flats, places=places, partitioned=False, reduced_by_engine=True, publish=publish)


def _of_stages_1_and_2(engine: Any, names: Mapping[int, str]) -> Masters:
    optimizer = engine.optimizer
    lows = optimizer.bf16_groups if type(optimizer).__name__ == "BF16_Optimizer" else optimizer.bit16_groups
    flat_of = {id(p): i for i, group in enumerate(lows) for p in group}
    return Masters(
        flats=[group["params"][0] for group in optimizer.optimizer.param_groups],
        places=[_linked(names[id(p)], p, flat_of[id(p)]) for p in engine.module.parameters() if id(p) in names],
        partitioned=True,
        reduced_by_engine=type(optimizer).__name__ == "BF16_Optimizer",
        publish=optimizer.update_lp_params,
        before_forward=optimizer.clear_backward_seen_flag,
    )


def _of_stage_3(engine: Any, names: Mapping[int, str], world: World, deepspeed: Any) -> Masters:
    optimizer = engine.optimizer
    frozen = [p for p in engine.module.parameters() if id(p) not in names]

    def place(name: str, parameter: Any) -> Place:
        flat, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = min(parameter.ds_numel, world.rank * padded)
        return Place(name, parameter.ds_numel, flat, offset, start, min(padded, parameter.ds_numel - start))

    def publish() -> None:
        optimizer._partition_all_parameters()
        for i in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(i)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def gathered(write: bool) -> AbstractContextManager[Any]:
        # Without modifier_rank what is written in the context would be thrown away.
        context = deepspeed.zero.GatheredParameters(frozen, modifier_rank=0 if write else None)
        return context if frozen else nullcontext()

    return Masters(
        flats=optimizer.fp32_partitioned_groups_flat,
        places=[place(names[id(p)], p) for p in engine.module.parameters() if id(p) in names],
        partitioned=True,
        reduced_by_engine=False,
        publish=publish,
        before_forward=optimizer.clear_backward_seen_flag,
        gathered=gathered,
    )


def _whole(name: str, parameter: nn.Parameter, flat: int) -> Place:
    return Place(name, parameter.numel(), flat, 0, 0, parameter.numel())


def _linked(name: str, parameter: Any, flat: int) -> Place:
    """Where the optimizers of stages 1 and 2 keep what this rank owns of a parameter."""
    link = parameter._hp_mapping
    if link is None:
        return Place(name, parameter.numel(), flat, 0, 0, 0)
    address = link.get_hp_fragment_address()
    start = link.lp_fragment_address.start
    return Place(name, parameter.numel(), flat, address.start, start, address.numel)
