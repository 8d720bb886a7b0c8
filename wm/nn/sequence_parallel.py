"""Long clips over several processes: each has some of the frames, and for attention all frames of some of the heads.

Ulysses (Jacobs et al. 2023, arXiv:2309.14509, section 3.1): an all-to-all before attention and one after it. Every process
is given the whole clip, so that noise, levels and loss are those of one process, and computes the network on its own frames.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SequenceGroup:
    """The processes that share clips, in order: process r has the r-th part of the frames."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def __deepcopy__(self, memo: Any) -> "SequenceGroup":
        return self  # a copy of a network speaks to the same processes

    def own(self, x: Tensor, dim: int = 1) -> Tensor:
        """This process's part of `x`. ValueError where it does not divide."""
        if x.shape[dim] % self.size:
            raise ValueError(
                f"clips of {x.shape[dim]} frames do not divide over {self.size} processes: choose a multiple of {self.size}"
            )
        return x.chunk(self.size, dim)[self.rank]

    def exchanged(self, x: Tensor, scatter: int, gather: int) -> Tensor:
        """`x` with axis `scatter` cut into a part a process, and the parts of axis `gather` of all processes put together."""
        if x.shape[scatter] % self.size:
            raise ValueError(
                f"{x.shape[scatter]} heads or places do not divide over {self.size} processes that share clips: choose a "
                f"multiple of {self.size}"
            )
        exchanged: Tensor = _Exchange.apply(x, scatter, gather, self.group, self.size)
        return exchanged

    def gathered(self, x: Tensor) -> Tensor:
        """All frames of `x` (B, frames of this process, ...), for a loss that every process computes whole.

        A gradient that is the mean over processes is then that of the loss: backward multiplies by their number.
        """
        gathered: Tensor = _Gather.apply(x, self.group, self.size, self.rank)
        return gathered


class _Exchange(torch.autograd.Function):
    """An all-to-all; its adjoint is the one that takes everything back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: int, gather: int, group: dist.ProcessGroup, size: int) -> Tensor:
        ctx.back = gather, scatter, group, size
        sent = torch.stack(x.chunk(size, scatter)).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return torch.cat(list(received), gather)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Exchange.apply(gradient, *ctx.back), None, None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, size: int, rank: int) -> Tensor:
        ctx.size, ctx.rank = size, rank
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size)]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient.chunk(ctx.size, 1)[ctx.rank] * ctx.size, None, None, None
