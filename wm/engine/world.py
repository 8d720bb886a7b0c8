"""Who am I among the training processes: rank, device, and the few collectives that the engine speaks.

With one process every collective is the identity, so no caller branches on the world size.
"""

import dataclasses
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process's place. Every method is a collective: call it on every rank or on none."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: dist.ProcessGroup | None = None  # None: the process's own

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> Self:
        """One process alone, whatever the environment says."""
        return cls(device=torch.device(device))

    @classmethod
    def from_environment(cls, device: torch.device | str | None = None, timeout_seconds: float = 1800.0) -> Self:
        """The place that an initialised process group or RANK, WORLD_SIZE and LOCAL_RANK give; alone where neither is.

        A process group is made when the environment names more than one process and none exists. `device` defaults to
        this process's CUDA device where there is one, else the CPU.
        """
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        place = _device(local_rank) if device is None else torch.device(device)
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            init_process_group(place, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timeout_seconds)
        if not dist.is_initialized():
            return cls(device=place)
        return cls(dist.get_rank(), dist.get_world_size(), local_rank, place)

    def apart(self, timeout_seconds: float) -> "World":
        """The same ranks with collectives of their own, on the CPU: for a thread beside the one that trains."""
        if self.world_size == 1:
            return self
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        return dataclasses.replace(self, device=torch.device("cpu"), group=group)

    def neighbours(self, size: int) -> "dist.ProcessGroup":
        """The group of `size` ranks in a row that this one belongs to. ValueError where they do not divide."""
        if self.world_size % size:
            raise ValueError(f"{self.world_size} ranks do not divide into groups of {size}: give a multiple of {size}")
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, self.world_size, size)]
        return groups[self.rank // size]

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        if self.world_size > 1:
            dist.barrier(group=self.group)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather_objects(self, value: T) -> list[T]:
        """The values of all ranks, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of equally shaped tensors, in a new tensor."""
        if self.world_size == 1:
            return value.clone()
        total = value.clone()
        dist.all_reduce(total, group=self.group)
        return total.div_(self.world_size)

    def any(self, flag: bool) -> bool:
        """True on every rank when it is on one: how a decision that changes which collectives run is taken."""
        if self.world_size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(count, group=self.group)
        return bool(count.item() > 0)

    def mean_metrics(self, metrics: Mapping[str, float | Tensor]) -> dict[str, float]:
        """Rank means as floats, by one collective and one copy to the host. Every rank must have the same names."""
        values = [torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in metrics.values()]
        if not values:
            return {}
        return dict(zip(metrics, self.all_reduce_mean(torch.stack(values)).tolist(), strict=True))


def init_process_group(device: torch.device, rank: int, world_size: int, timeout_seconds: float = 1800.0) -> None:
    """A process group over gloo on the CPU and NCCL on CUDA.

    One process alone meets itself on a free loopback port; more meet at MASTER_ADDR and MASTER_PORT.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    method = f"tcp://127.0.0.1:{_free_port()}" if world_size == 1 else "env://"
    timeout = timedelta(seconds=timeout_seconds)
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=world_size, timeout=timeout)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher that gives each process one visible device leaves LOCAL_RANK above the count.
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
