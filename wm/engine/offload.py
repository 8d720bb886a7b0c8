"""Tensors that only an optimizer's step needs, kept off the device meanwhile: in host memory, or in files mapped into it.

A step brings them back piece by piece, computes what it would have computed, and puts them away: the same numbers, for two
more copies of each (ZeRO-Offload, Ren et al. 2021, arXiv:2101.06840, steps on the host instead; the files are what
ZeRO-Infinity's are for, Rajbhandari et al. 2021, arXiv:2104.07857, read by the kernel as their pages are touched).
"""

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

PIECE = (
    1 << 24
)  # elements that are on the device at a time; whole vectors of any processor, or a piece's tail rounds otherwise


class Shelf:
    """Host memory, pinned where the tensors come from a GPU; with a folder, files there."""

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None

    @torch.no_grad()
    def keep(self, tensor: Tensor) -> Tensor:
        """`tensor`'s values on the shelf, for as long as the result lives. OSError where the disk has no room."""
        if self._folder and tensor.numel():
            return _mapped(tensor.shape, tensor.dtype, self._folder).copy_(tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda).copy_(tensor)

    def pieces(self, near: Sequence[Tensor], far: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Views of `near` and, on their device, copies of `far` from the shelf; what the copies hold then is put back.

        All have the same number of elements.
        """
        for start in range(0, near[0].numel(), PIECE):
            views = [tensor.detach().view(-1)[start : start + PIECE] for tensor in near]
            kept = [tensor.view(-1)[start : start + PIECE] for tensor in far]
            brought = [tensor.to(near[0].device, non_blocking=True, copy=True) for tensor in kept]
            yield views, brought
            for place, tensor in zip(kept, brought, strict=True):
                place.copy_(tensor)


def kept_on(shelf: Shelf | None, tensor: Tensor) -> Tensor:
    """`tensor` on `shelf`, or as it is where there is none."""
    return tensor if shelf is None else shelf.keep(tensor)


def _mapped(shape: torch.Size, dtype: torch.dtype, folder: Path) -> Tensor:
    """Memory that is a file in `folder`, which has no name and is gone when nobody uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    size = shape.numel() * dtype.itemsize
    with tempfile.NamedTemporaryFile(dir=folder, prefix="wm-offload-") as file:
        try:
            # Now, or a full disk would kill the process when a page is written.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            code = error.errno or errno.EIO
            needed = f"{os.strerror(code)} for {size / 1e9:.3g} GB of moments; give offload_folder a larger disk"
            raise OSError(code, needed, str(folder)) from error
        return torch.from_file(file.name, shared=True, size=shape.numel(), dtype=dtype).view(shape)
