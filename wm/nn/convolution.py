"""Convolutional layers that models share, on channels-last tensors: norm, residual block, folding of pixels into channels."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


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


class ResidualBlock(nn.Module):
    """(B, C, H, W) -> the same: a convolution to twice the width and back (fused MBConv, Tan & Le 2021).

    One wide nonlinearity learned screens faster than two 3x3 convolutions of the same cost.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv2d(channels, 2 * channels, kernel, padding=kernel // 2),
            nn.SiLU(),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


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
