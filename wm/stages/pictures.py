"""Film strips and animations: frames laid out side by side, pixel for pixel; whoever shows them enlarges them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GAP_PX = 2
GAP_LEVEL = 128


def strip(rows: Sequence[Tensor]) -> np.ndarray:
    """Rows of frames (N, 3, H, W) uint8 as one picture (H', W', 3) uint8: row under row, frame beside frame."""
    lines = [_joined(list(row.cpu()), dim=2) for row in rows]
    return _joined(lines, dim=1).permute(1, 2, 0).numpy()


def film(real: Tensor, made: Tensor, columns: int) -> np.ndarray:
    """Frames (N, 3, H, W) in reading order, `columns` a row, each row of real ones above its row of generated ones."""
    missing = -len(real) % columns
    rows = []
    for start in range(0, len(real), columns):
        for video in (real, made):
            blank = torch.full((missing, *video.shape[1:]), GAP_LEVEL, dtype=torch.uint8)
            rows.append(torch.cat([video.cpu(), blank])[start : start + columns])
    return strip(rows)


def save_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def save_animation(path: Path, rows: Sequence[Tensor], fps: float) -> None:
    """An animated WebP with the videos `rows`, each (T, 3, H, W) uint8, side by side at `fps` frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(strip([torch.stack(list(frames))])) for frames in zip(*rows, strict=True)]
    duration_ms = max(20, round(1000 / fps))
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration_ms, loop=0, quality=90, method=1)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """(3, H, W) tensors along `dim` with a grey line between each two."""
    shape = list(parts[0].shape)
    shape[dim] = GAP_PX
    gap = torch.full(shape, GAP_LEVEL, dtype=torch.uint8)
    pieces = [piece for part in parts for piece in (gap, part)][1:]
    return torch.cat(pieces, dim)
