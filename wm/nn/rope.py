"""Rotary positions for frames and for rows and columns (Su et al. 2021, arXiv:2104.09864, eq. 34; axial for images as
in Heo et al. 2024, arXiv:2403.13298).

A table (N, head_dim) holds, for each token, the cosines of its head_dim / 2 angles and then their sines, in float32.
Number i of a head is turned together with number i + head_dim / 2. Scores of turned queries and keys depend only on
differences of positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# The slowest pair turns once in about 2 pi BASE positions: windows are tens of frames, grids tens of tokens wide.
BASE = 100.0


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """`x` (..., N, head_dim) turned by `table` (N, head_dim); the dtype of `x`, which the table is cast to."""
    if x.shape[-2:] != table.shape:
        raise ValueError(f"queries or keys end in {tuple(x.shape[-2:])}, their table of angles is {tuple(table.shape)}")
    cosine, sine = table.to(x.dtype).chunk(2, dim=-1)
    turned: Tensor = _Turn.apply(x, cosine, sine)
    return turned


class _Turn(torch.autograd.Function):
    """(left, right) -> (left cos - right sin, right cos + left sin), left and right being the halves of the last axis.

    A function of its own because its backward is the turn the other way: a third less work than what autograd derives,
    and nothing of the size of x is kept.
    """

    @staticmethod
    def forward(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        left, right = x.chunk(2, dim=-1)
        to_left, to_right = turned.chunk(2, dim=-1)
        torch.mul(left, cosine, out=to_left).addcmul_(right, sine, value=-1)
        torch.mul(right, cosine, out=to_right).addcmul_(left, sine)
        return turned

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _Turn.apply(gradient, cosine, -sine), None, None


def angle_table(positions: Sequence[Tensor], head_dim: int, base: float = BASE) -> Tensor:
    """(N, head_dim) float32 table of N tokens with one position (N,) per axis; each axis turns an equal share of pairs.

    Pair j of an axis with m pairs turns by position * base^(-j / m).
    """
    if head_dim % (2 * len(positions)):
        raise ValueError(f"head_dim {head_dim} is not a multiple of {2 * len(positions)}: a pair for each of the axes")
    pairs = head_dim // (2 * len(positions))
    # float64 until the cosine: frame 100,000 of a long rollout has no digits left in float32.
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64, device=positions[0].device) / pairs)
    angles = torch.cat([axis.double().unsqueeze(-1) * frequencies for axis in positions], dim=-1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


def frame_angles(num_frames: int, head_dim: int, device: torch.device | str = "cpu", first: int = 0) -> Tensor:
    """Table (num_frames, head_dim) of the frames first, first + 1, ..."""
    return angle_table([torch.arange(first, first + num_frames, device=device)], head_dim)


def grid_angles(num_rows: int, num_columns: int, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Table (num_rows * num_columns, head_dim) of (row, column), a row after another."""
    tokens = torch.arange(num_rows * num_columns, device=device)
    return angle_table([tokens // num_columns, tokens % num_columns], head_dim)


def grid_cosines(rows: int, columns: int, num_waves: int, device: torch.device | str = "cpu") -> Tensor:
    """(2 num_waves, rows, columns): 1 to `num_waves` half turns along each axis, float32; absolute, unlike the tables above."""
    half_turns = torch.pi * torch.arange(1, num_waves + 1, device=device).unsqueeze(1)
    y = torch.cos(half_turns * (torch.arange(rows, device=device) + 0.5) / rows)
    x = torch.cos(half_turns * (torch.arange(columns, device=device) + 0.5) / columns)
    return torch.cat([y.unsqueeze(2).expand(-1, -1, columns), x.unsqueeze(1).expand(-1, rows, -1)])


def numbered_angles(numbers: Sequence[int], head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Table (len(numbers), head_dim) of the frames with these numbers."""
    return angle_table([torch.tensor(numbers, device=device)], head_dim)


def clip_angles(
    numbers: Sequence[int],  # of frames
    rows: int,
    columns: int,
    words: int,  # tokens behind those of each frame, at row 0 and column 0
    head_dim: int,
    frame_pairs: int,  # of the head_dim / 2 pairs, how many the frame turns; rows and columns share the others
    device: torch.device | str = "cpu",
) -> Tensor:
    """Table (frames (rows columns + words), head_dim) of (frame, row, column), a frame after another."""
    if (head_dim // 2 - frame_pairs) % 2:
        raise ValueError(f"head_dim {head_dim} has no even number of pairs beside {frame_pairs} for frames")
    across = grid_angles(rows, columns, head_dim - 2 * frame_pairs, device)
    cosine, sine = (
        _with_words(half, words, value) for half, value in zip(across.chunk(2, -1), (1.0, 0.0), strict=True)
    )
    if not frame_pairs:
        return torch.cat([cosine, sine], -1).repeat(len(numbers), 1)
    in_time = numbered_angles(numbers, 2 * frame_pairs, device).repeat_interleave(len(cosine), 0).chunk(2, -1)
    parts = [torch.cat([time, x.repeat(len(numbers), 1)], -1) for time, x in zip(in_time, (cosine, sine), strict=True)]
    return torch.cat(parts, -1)


def _with_words(half: Tensor, words: int, value: float) -> Tensor:
    return torch.cat([half, half.new_full((words, half.shape[1]), value)])
