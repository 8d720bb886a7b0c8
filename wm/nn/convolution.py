"""Convolutional layers that models share, on channels-last tensors: norm, residual block, folding of pixels into channels."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wm.nn.layers import zero_initialised


class ChannelNorm(nn.Module):
    """Each position of (B, C, H, W) normalised over its channels: a frame's edge never dims its far corner.

    On channels-last tensors this is a layer norm over contiguous rows; a group norm costs five times as much on a CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        return F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias).permute(0, 3, 1, 2)


class FiLM(nn.Module):
    """(B, C, H, W) scaled and shifted, each channel by its own of a state (B, D) (Perez et al. 2018, arXiv:1709.07871)."""

    def __init__(self, channels: int, state_size: int) -> None:
        super().__init__()
        self.linear = zero_initialised(nn.Linear(state_size, 2 * channels))

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        scale, shift = self.linear(state)[..., None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class ResidualBlock(nn.Module):
    """(B, C, H, W), and a state (B, D) where it has a size -> the same: a convolution to twice the width and back.

    Fused MBConv (Tan & Le 2021). One wide nonlinearity learned screens faster than two 3x3 convolutions of the same cost.
    """

    def __init__(self, channels: int, kernel: int = 3, state_size: int = 0) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.film = FiLM(channels, state_size) if state_size else None
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, kernel, padding=kernel // 2),
            nn.SiLU(),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if self.film is not None:
            assert state is not None, "a block with a state size is given a state"
            y = self.film(y, state)
        return x + self.layers(y)


class Fold(nn.Module):
    """(B, C, H, W) -> (B, size^2 C, H / size, W / size), kept channels-last, which torch's PixelUnshuffle does not."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows = rearrange(x, "b c (h p) (w q) -> b h w (p q c)", p=self.size, q=self.size)
        return rows.permute(0, 3, 1, 2)


class Unfold(nn.Module):
    """The inverse of Fold."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows = rearrange(x, "b (p q c) h w -> b (h p) (w q) c", p=self.size, q=self.size)
        return rows.permute(0, 3, 1, 2)
