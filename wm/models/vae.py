"""Video tokenizer: frames to latents and back, by a convolutional variational autoencoder, one frame at a time.

A screen changes with every input event, so a frame keeps a latent of its own (temporal stride 1). Everything else reads
`stride` and `latent_channels` from here; nothing assumes them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from wm.config import config
from wm.nn.convolution import ChannelNorm, Fold, ResidualBlock, Unfold

FIRST_LOGVAR = -6.0


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over raw latents, both (B, T, C, h, w) (Kingma & Welling 2014, equation 9)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """Divergence from a standard normal in nats per latent, a scalar (Kingma & Welling 2014, appendix B)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


def encoder_layers(widths: tuple[int, ...], depth: int, patch: int, kernel: int, out_channels: int) -> nn.Sequential:
    """(B, 3, H, W) -> (B, out_channels, H / stride, W / stride): fold, then residual blocks and halvings."""
    layers: list[nn.Module] = [Fold(patch), nn.Conv2d(3 * patch * patch, widths[0], kernel, padding=kernel // 2)]
    for width, wider in zip(widths, (*widths[1:], None), strict=True):
        layers += [ResidualBlock(width, kernel) for _ in range(depth)]
        if wider is not None:
            layers += [Fold(2), nn.Conv2d(4 * width, wider, 1)]
    layers += [ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out_channels, 1)]
    return nn.Sequential(*layers)


def decoder_layers(widths: tuple[int, ...], depth: int, patch: int, in_channels: int) -> nn.Sequential:
    """(B, in_channels, h, w) -> (B, 3, h * stride, w * stride): residual blocks and doublings, then unfold."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1)]
    for width, narrower in zip(reversed(widths), (*reversed(widths[:-1]), None), strict=True):
        layers += [ResidualBlock(width) for _ in range(depth)]
        if narrower is not None:
            layers += [nn.Conv2d(width, 4 * narrower, 1), Unfold(2)]
    layers += [ChannelNorm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 3 * patch * patch, 3, padding=1)]
    return nn.Sequential(*layers, Unfold(patch))


@config
class VideoVAEConfig:
    latent_channels: int = 16
    patch: int = 4  # pixels folded into channels before the first convolution, a side
    widths: tuple[int, ...] = (96, 192)  # one per resolution; each after the first halves it
    encoder_depth: int = 1  # residual blocks per resolution
    decoder_depth: int = 1
    # 1: a latent sees its own pixels and no others, so that where the screen stays, its latents stay exactly.
    encoder_kernel: Literal[1, 3] = 3

    @property
    def stride(self) -> int:
        """Pixels a latent covers, a side."""
        return int(self.patch * 2 ** (len(self.widths) - 1))

    def build(self) -> "VideoVAE":
        return VideoVAE(self)


class VideoVAE(nn.Module):
    """Video (B, T, 3, H, W) in [-1, 1] to raw latents (B, T, C, H / stride, W / stride) and back."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        self.latent_channels = config.latent_channels
        self.encoder = encoder_layers(
            config.widths, config.encoder_depth, config.patch, config.encoder_kernel, 2 * config.latent_channels
        )
        self.decoder = decoder_layers(config.widths, config.decoder_depth, config.patch, config.latent_channels)

    def encode(self, video: Tensor) -> Posterior:
        """The posterior of each frame; ValueError where the frame is not a whole number of latents."""
        height, width = video.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"frames of {height}x{width} pixels do not divide into latents of {self.stride}x{self.stride}: "
                f"crop or pad them to a multiple of {self.stride}"
            )
        mean, logvar = self._each_frame(self.encoder, video).chunk(2, dim=2)
        # exp() of an unbounded logvar overflows in the first steps of training.
        return Posterior(mean, logvar.clamp(-30.0, 10.0))

    def decode(self, latents: Tensor) -> Tensor:
        """The frames that raw `latents` stand for, nominally in [-1, 1] and not clamped."""
        return self._each_frame(self.decoder, latents)

    def forward(self, video: Tensor, noise: Tensor, posterior: Posterior | None = None) -> tuple[Tensor, Posterior]:
        """The reconstruction from a sampled latent, and the posterior it was sampled from: the given one or its own."""
        posterior = posterior or self.encode(video)
        return self.decode(posterior.sample(noise)), posterior

    def _each_frame(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        x = x.to(next(layers.parameters()).dtype)
        frames = rearrange(x, "b t c h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        return rearrange(layers(frames), "(b t) c h w -> b t c h w", b=x.shape[0])


@dataclass(frozen=True)
class LatentScale:
    """Raw latents as stored to x with mean 0 and deviation 1 per channel, and back; float32 whatever comes in."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalised(self, latents: Tensor) -> Tensor:
        return (latents - self._over(self.mean, latents)) / self._over(self.std, latents)

    def raw(self, x: Tensor) -> Tensor:
        return x * self._over(self.std, x) + self._over(self.mean, x)

    def _over(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device).view(-1, 1, 1)


def to_unit_range(video: Tensor) -> Tensor:
    """uint8 pixels as float32 in [-1, 1]."""
    return video.float() / 127.5 - 1.0


def to_pixels(video: Tensor) -> Tensor:
    """Frames nominally in [-1, 1] as uint8 pixels, rounded and clamped."""
    return ((video.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
