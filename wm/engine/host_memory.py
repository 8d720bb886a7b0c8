"""Host memory that snapshots are copied into, kept from one snapshot to the next.

Fresh pages cost several times what the copy into them does; on CUDA the memory is pinned, so that copies run at the full
width of the bus. It is as large as what is saved, and there is one of it, for one snapshot at a time.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import torch
from torch import Tensor


class _Room(NamedTuple):
    """What a tensor's copy needs."""

    shape: torch.Size
    dtype: torch.dtype
    pinned: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        return cls(tensor.shape, tensor.dtype, tensor.is_cuda)

    def empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, pin_memory=self.pinned)


class HostMemory:
    """Room for one snapshot, made at the first where nobody made it before."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._making: Future[None] | None = None

    def make(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin to make the room for `tensors` beside the caller, whom the first copy then keeps waiting as briefly as the next."""
        rooms = {name: _Room.of(tensor) for name, tensor in tensors.items()}
        thread = ThreadPoolExecutor(1, "host-memory")
        self._making = thread.submit(self._make, rooms)
        thread.shutdown(wait=False)

    @torch.no_grad()
    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of `tensors` when the call returns, on the CPU; good until the next call."""
        if self._making is not None:
            making, self._making = self._making, None
            making.result()
        for name, tensor in tensors.items():
            self._room(name, tensor).copy_(tensor.detach(), non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return {name: self._kept[name] for name in tensors}

    def _room(self, name: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = self._kept[name] = _Room.of(tensor).empty()
        return kept

    def _make(self, rooms: Mapping[str, _Room]) -> None:
        for name, room in rooms.items():
            self._kept[name] = room.empty().zero_()  # a page is made when it is first written
