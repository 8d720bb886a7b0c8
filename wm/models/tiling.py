"""Frames too large for the memory, tile by tile: a tokenizer with the face of the one that it wraps.

Neighbouring tiles overlap. Of the overlap the outermost quarter, where a tile misses what its neighbour sees, is left out,
and the half in between passes from one tile to the other. What comes back equals the whole frame wherever no tile that is
used there ends within the network's reach; everywhere, where the reach is at most a quarter of the overlap.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from wm.config import config
from wm.models.vae import Posterior, VideoVAE
from wm.nn.causal import FrameCache


@config
class TilingConfig:
    tile: int = 512  # pixels, a side
    overlap: int = 128  # pixels that neighbours share
    frames: int = 8  # that go through the network at once; latents, where it decodes

    def build(self, vae: VideoVAE) -> "TiledVAE":
        return TiledVAE(self, vae)


class TiledVAE:
    """`encode` and `decode` of a VideoVAE; what is held at once, besides the result, does not grow with frame or clip."""

    def __init__(self, config: TilingConfig, vae: VideoVAE) -> None:
        stride = vae.stride
        if config.tile % stride or config.overlap % stride or not 0 <= config.overlap < config.tile:
            raise ValueError(
                f"tiles of {config.tile} pixels with {config.overlap} shared: both must be multiples of {stride}, "
                "which a latent covers, and the tile the larger"
            )
        self.config, self.vae = config, vae
        self.stride, self.temporal_stride, self.latent_channels = stride, vae.temporal_stride, vae.latent_channels

    def encode(self, video: Tensor) -> Posterior:
        """The posterior of a whole clip (B, T, 3, H, W); ValueError as with the tokenizer itself."""
        height, width = video.shape[-2:]
        if height % self.stride or width % self.stride or not video.shape[1]:
            return self.vae.encode(video)  # which says why not
        mean, logvar = self._tiled(video, self._encoded, self.stride, 1).chunk(2, dim=2)
        return Posterior(mean, logvar)

    def decode(self, latents: Tensor) -> Tensor:
        """The frames of all latents of a clip, (B, n, C, h, w)."""
        return self._tiled(latents, self._decoded, 1, self.stride)

    def _encoded(self, video: Tensor) -> Tensor:
        cache, pieces = FrameCache(), video.split(self.config.frames, dim=1)
        found = [self.vae.encode(piece, cache, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)]
        return torch.cat([torch.cat([one.mean, one.logvar], dim=2) for one in found], dim=1)

    def _decoded(self, latents: Tensor) -> Tensor:
        cache = FrameCache()
        return torch.cat([self.vae.decode(piece, cache) for piece in latents.split(self.config.frames, dim=1)], dim=1)

    def _tiled(self, x: Tensor, network: Callable[[Tensor], Tensor], given: int, made: int) -> Tensor:
        """`network` on each tile of `x`, where a latent is `given` pixels wide, joined to what has `made` pixels a latent."""
        rows, columns = x.shape[-2] // given, x.shape[-1] // given
        total, weights = torch.empty(0), torch.zeros(rows * made, columns * made, device=x.device)
        for top, tall, down in self._spans(rows, made):
            for left, wide, across in self._spans(columns, made):
                part = x[..., top * given : (top + tall) * given, left * given : (left + wide) * given]
                tile = network(part)
                weight = torch.outer(down, across).to(tile)
                if not total.numel():
                    total = tile.new_zeros(*tile.shape[:-2], rows * made, columns * made)
                place = (
                    ...,
                    slice(top * made, (top + tall) * made),
                    slice(left * made, (left + wide) * made),
                )
                total[place] += tile * weight
                weights[place] += weight.float()
        return total / weights.to(total)

    def _spans(self, size: int, made: int) -> Iterator[tuple[int, int, Tensor]]:
        """First latent, number of latents and weights (in pixels made) of the tiles along an axis of `size` latents."""
        tile, overlap = self.config.tile // self.stride, self.config.overlap // self.stride
        step, length = tile - overlap, min(tile, size)
        starts = sorted({min(start, size - length) for start in range(0, max(size - overlap, 1), step)})
        for start in starts:
            weight = torch.ones(length * made)
            if start > 0:
                weight *= _ramp(length * made, overlap * made)
            if start + length < size:
                weight *= _ramp(length * made, overlap * made).flip(0)
            yield start, length, weight


def _ramp(length: int, overlap: int) -> Tensor:
    """Weights from an end that has a neighbour: 0 for a quarter of the overlap, then rising to 1 in half of it."""
    if overlap == 0:
        return torch.ones(length)
    depth = torch.arange(length) + 0.5
    return ((depth - overlap / 4) / (overlap / 2)).clamp(0, 1)
