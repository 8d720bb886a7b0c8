"""Host memory that snapshots are copied into, kept from one snapshot to the next.

Fresh pages cost several times what the copy into them does; on CUDA the memory is pinned, so that copies run at the full
width of the bus. It is as large as what is saved, and there is one of it, for one snapshot at a time.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class HostMemory:
    """Room for one snapshot, made at the first."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of `tensors` when the call returns, on the CPU; good until the next call."""
        for name, tensor in tensors.items():
            self._room(name, tensor).copy_(tensor.detach(), non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return {name: self._kept[name] for name in tensors}

    def _room(self, name: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._kept[name] = kept
        return kept
