"""Video tokenizer: frames to latents and back, by a convolutional variational autoencoder that is causal in time.

A screen changes with every input event, so by default a frame keeps a latent of its own and is seen alone. With a temporal
stride s the first latent stands for the first frame and each other one for s frames. Everything else reads `stride`,
`temporal_stride` and `latent_channels` from here; nothing assumes them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wm.config import config
from wm.nn.causal import FoldFrames, FrameCache, FrameMix, FrameSequential, UnfoldFrames
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


@config
class VideoVAEConfig:
    latent_channels: int = 16
    patch: int = 4  # pixels folded into channels before the first convolution, a side
    widths: tuple[int, ...] = (96, 192)  # one per resolution; each after the first halves it
    encoder_depth: int = 1  # residual blocks per resolution
    decoder_depth: int = 1
    decoder_widths: tuple[int, ...] | None = None  # of a decoder that is not as wide as its encoder
    # 1: a latent sees its own pixels and no others, so that where the screen stays, its latents stay exactly.
    encoder_kernel: Literal[1, 3] = 3
    temporal_stride: Literal[1, 2, 4] = 1  # frames that a latent after the first stands for
    temporal_kernel: Literal[1, 2, 3] = 1  # frames that each layer along time sees: its own and those before it

    def __post_init__(self) -> None:
        if self.decoder_widths is not None and len(self.decoder_widths) != len(self.widths):
            raise ValueError(
                f"decoder_widths are {list(self.decoder_widths)} and widths {list(self.widths)}: a decoder has as many "
                "resolutions as its encoder"
            )

    @property
    def stride(self) -> int:
        """Pixels a latent covers, a side."""
        return int(self.patch * 2 ** (len(self.widths) - 1))

    @property
    def foldings(self) -> int:
        """How often two frames are made one."""
        return self.temporal_stride.bit_length() - 1

    def num_latents(self, num_frames: int) -> int:
        """How many latents a clip of `num_frames` has; the last may stand for fewer frames than the others."""
        return min(num_frames, 1) + -(-max(num_frames - 1, 0) // self.temporal_stride)

    def build(self) -> "VideoVAE":
        return VideoVAE(self)


def encoder_layers(config: VideoVAEConfig) -> FrameSequential:
    """(B, T, 3, H, W) -> (B, n, 2 latent_channels, H / stride, W / stride): space is folded first, then time."""
    widths, kernel, deepest = config.widths, config.encoder_kernel, config.widths[-1]
    layers: list[nn.Module] = [
        Fold(config.patch),
        nn.Conv2d(3 * config.patch**2, widths[0], kernel, padding=kernel // 2),
    ]
    for width, wider in zip(widths, (*widths[1:], None), strict=True):
        layers += [ResidualBlock(width, kernel) for _ in range(config.encoder_depth)] + _mixed(config, width)
        if wider is not None:
            layers += [Fold(2), nn.Conv2d(4 * width, wider, 1)]
    for _ in range(config.foldings):
        layers += [FoldFrames(2), nn.Conv2d(2 * deepest, deepest, 1), ResidualBlock(deepest, kernel)]
        layers += _mixed(config, deepest)
    layers += [ChannelNorm(deepest), nn.SiLU(), nn.Conv2d(deepest, 2 * config.latent_channels, 1)]
    return FrameSequential(*layers)


def decoder_layers(config: VideoVAEConfig) -> FrameSequential:
    """(B, n, latent_channels, h, w) -> (B, T, 3, h * stride, w * stride): time is unfolded first, then space."""
    widths = config.decoder_widths or config.widths
    deepest = widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, deepest, 3, padding=1)]
    for _ in range(config.foldings):
        layers += [*_mixed(config, deepest), ResidualBlock(deepest)]
        layers += [nn.Conv2d(deepest, 2 * deepest, 1), UnfoldFrames(2)]
    for width, narrower in zip(reversed(widths), (*reversed(widths[:-1]), None), strict=True):
        layers += [ResidualBlock(width) for _ in range(config.decoder_depth)] + _mixed(config, width)
        if narrower is not None:
            layers += [nn.Conv2d(width, 4 * narrower, 1), Unfold(2)]
    last = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)
    return FrameSequential(*layers, ChannelNorm(widths[0]), nn.SiLU(), last, Unfold(config.patch))


def _mixed(config: VideoVAEConfig, width: int) -> list[nn.Module]:
    return [FrameMix(width, config.temporal_kernel)] if config.temporal_kernel > 1 else []


class VideoVAE(nn.Module):
    """Video (B, T, 3, H, W) in [-1, 1] to raw latents (B, n, C, H / stride, W / stride) and back."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.stride, self.temporal_stride = config.stride, config.temporal_stride
        self.latent_channels = config.latent_channels
        self.encoder, self.decoder = encoder_layers(config), decoder_layers(config)

    @property
    def past_latents(self) -> int:
        """How many latents before a latent have a part in the frames that it stands for."""
        mixes = sum(isinstance(layer, FrameMix) for layer in self.decoder)
        return mixes * (self.config.temporal_kernel - 1)

    def encode(self, video: Tensor, cache: FrameCache | None = None, *, last: bool = True) -> Posterior:
        """The posterior of each latent of a clip of any length; ValueError where a frame is not a whole number of latents.

        With a cache the clip comes in pieces: each call gives the latents that its frames complete, the one with `last`
        what is left too. A last latent that frames are missing to takes the last frame for them.
        """
        height, width = video.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"frames of {height}x{width} pixels do not divide into latents of {self.stride}x{self.stride}: "
                f"crop or pad them to a multiple of {self.stride}"
            )
        if video.shape[1] == 0:
            raise ValueError("a clip of no frames has no latents: give at least one frame")
        cache = FrameCache() if cache is None else cache
        cache.num_frames += video.shape[1]
        missing = (1 - cache.num_frames) % self.temporal_stride if last else 0
        if missing:
            video = torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        mean, logvar = self._through(self.encoder, video, cache).chunk(2, dim=2)
        # exp() of an unbounded logvar overflows in the first steps of training.
        return Posterior(mean, logvar.clamp(-30.0, 10.0))

    def decode(self, latents: Tensor, cache: FrameCache | None = None) -> Tensor:
        """The frames that raw `latents` stand for, nominally in [-1, 1] and not clamped.

        One for the first latent of a clip, temporal_stride for each other one: of a clip whose length is not of that form,
        take as many as it has. With a cache the clip comes in pieces.
        """
        return self._through(self.decoder, latents, cache)

    def forward(self, video: Tensor, noise: Tensor, posterior: Posterior | None = None) -> tuple[Tensor, Posterior]:
        """The reconstruction from a sampled latent, and the posterior it was sampled from: the given one or its own."""
        posterior = posterior or self.encode(video)
        return self.decode(posterior.sample(noise))[:, : video.shape[1]], posterior

    def _through(self, layers: FrameSequential, x: Tensor, cache: FrameCache | None) -> Tensor:
        made: Tensor = layers(x.to(next(layers.parameters()).dtype), cache)
        return made


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
