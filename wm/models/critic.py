"""Patch critic: says of each patch of a frame whether it is real or decoded (Isola et al. 2017, section 3.2.2)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from wm.config import config
from wm.nn.convolution import Fold, ResidualBlock


@config
class PatchCriticConfig:
    patch: int = 4  # pixels folded into channels first, a side
    width: int = 64
    depth: int = 2  # residual blocks

    def build(self) -> "PatchCritic":
        return PatchCritic(self)


class PatchCritic(nn.Module):
    """Video (B, T, 3, H, W) in [-1, 1] -> logits (B, T, H / patch, W / patch), high where it looks real."""

    def __init__(self, config: PatchCriticConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Fold(config.patch),
            nn.Conv2d(3 * config.patch**2, config.width, 3, padding=1),
            *(ResidualBlock(config.width) for _ in range(config.depth)),
            nn.SiLU(),
            nn.Conv2d(config.width, 1, 1),
        )

    def forward(self, video: Tensor) -> Tensor:
        video = video.to(next(self.parameters()).dtype)
        frames = rearrange(video, "b t c h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        return rearrange(self.layers(frames), "(b t) 1 h w -> b t h w", b=video.shape[0])
