"""Layers along the frames of a clip that never look ahead, and what they remember where a clip comes in pieces.

Before its first frame a clip is taken to have stood still. So an image is a clip of one frame, and a clip that stands
still is encoded like that image in every frame.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from wm.nn.convolution import ChannelNorm


class FrameCache:
    """What the layers of one network still hold of the frames before; empty at the beginning of a clip."""

    def __init__(self) -> None:
        self._held: dict[nn.Module, Tensor] = {}
        self.num_frames = 0  # that the network was given so far

    def joined(self, layer: nn.Module, x: Tensor, copies: int) -> Tensor:
        """`x` (B, T, ...) after what `layer` holds: at the beginning, `copies` of the first frame."""
        held = self._held.get(layer)
        return torch.cat([x[:, :1].expand(-1, copies, *x.shape[2:]) if held is None else held, x], dim=1)

    def hold(self, layer: nn.Module, x: Tensor, num_frames: int) -> None:
        """Keep the last `num_frames` of `x`, as a copy: a view would keep all of it alive."""
        self._held[layer] = x[:, x.shape[1] - num_frames :].clone()

    def knows(self, layer: nn.Module) -> bool:
        return layer in self._held


class FrameMix(nn.Module):
    """(B, T, C, H, W) -> the same: each position, with itself in the frames before, through a small residual network.

    A causal convolution over `kernel` frames (van den Oord et al. 2016, arXiv:1609.03499, section 2.1), written as a
    product with the frames side by side: it runs on channels-last frames as fast as any 1x1 convolution.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.norm = ChannelNorm(channels)
        self.layers = nn.Sequential(
            nn.Conv2d(kernel * channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        if x.shape[1] == 0:
            return x
        normed = cache.joined(self, of_frames(self.norm, x), self.kernel - 1)
        cache.hold(self, normed, self.kernel - 1)
        beside = torch.cat([normed[:, i : i + x.shape[1]] for i in range(self.kernel)], dim=2)
        return x + of_frames(self.layers, beside)


class FoldFrames(nn.Module):
    """(B, T, C, H, W) -> (B, n, size C, H, W): the first frame alone, then `size` frames side by side.

    Frames that do not fill a fold yet are held in the cache until those that do come.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        whole = cache.joined(self, x, self.size - 1)
        rest = whole.shape[1] % self.size
        cache.hold(self, whole, rest)
        return rearrange(whole[:, : whole.shape[1] - rest], "b (n s) c h w -> b n (s c) h w", s=self.size)


class UnfoldFrames(nn.Module):
    """The inverse of FoldFrames: (B, n, size C, H, W) -> (B, T, C, H, W); a clip's first fold is one frame."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        if x.shape[1] == 0:
            return x[:, :, : x.shape[2] // self.size]
        frames = rearrange(x, "b n (s c) h w -> b (n s) c h w", s=self.size)
        first = 0 if cache.knows(self) else self.size - 1
        cache.hold(self, frames, 0)  # all that is to be remembered is that the clip has begun
        return frames[:, first:]


class FrameSequential(nn.Sequential):
    """(B, T, C, H, W) -> the same axes: layers of frames and layers along frames, one after the other."""

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        """Without a cache `x` is a whole clip; with one it goes on where the cache was left."""
        cache = FrameCache() if cache is None else cache
        for layer in self:
            along = isinstance(layer, FrameMix | FoldFrames | UnfoldFrames)
            x = layer(x, cache) if along else of_frames(layer, x)
        return x


def of_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer`, which takes images (N, C, H, W), on every frame of `x` (B, T, C, H, W)."""
    batch = x.shape[0]
    frames = rearrange(x, "b t c h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
    made = layer(frames)
    return made.unflatten(0, (batch, made.shape[0] // batch))
