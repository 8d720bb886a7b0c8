"""Where an error counts for more: on edges, which text, lines and the cursor are made of, and where the screen changed."""

import torch.nn.functional as F
from torch import Tensor


def importance(video: Tensor, edge_weight: float, change_weight: float) -> Tensor:
    """How much each pixel of (B, T, 3, H, W) in [-1, 1] counts, (B, T, 1, H, W): 1, and more on edges and changes."""
    counts = 1.0 + edge_weight * edges(video)
    return counts + change_weight * changes(video) if change_weight else counts


def edges(video: Tensor) -> Tensor:
    """How strongly each pixel of (B, T, C, H, W) differs from its neighbours, (B, T, 1, H, W) in [0, 1]."""
    right = F.pad((video[..., :, 1:] - video[..., :, :-1]).abs().amax(2, keepdim=True), (0, 1))
    below = F.pad((video[..., 1:, :] - video[..., :-1, :]).abs().amax(2, keepdim=True), (0, 0, 0, 1))
    across, down = right + F.pad(right[..., :, :-1], (1, 0)), below + F.pad(below[..., :-1, :], (0, 0, 1, 0))
    return (across + down).clamp(max=1.0)


def changes(video: Tensor) -> Tensor:
    """How strongly each pixel of (B, T, C, H, W) differs from itself a frame before, (B, T, 1, H, W) in [0, 1]; first 0."""
    steps = (video[:, 1:] - video[:, :-1]).abs().amax(2, keepdim=True).clamp(max=1.0)
    return F.pad(steps, (0, 0, 0, 0, 0, 0, 1, 0))
