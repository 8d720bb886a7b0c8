"""At which noise levels a step trains: distributions of t (B, T), keyed by sample.

A level a frame makes the cases one model: all frames at one level (text to video), each at its own (diffusion forcing,
Chen et al. 2024, arXiv:2407.01392), rising along the clip (rolling diffusion), or after frames that stay clean.
"""

import math
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from wm.config import Kind, config
from wm.flow import Flow, draw_uniform, shifted


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be above 0")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1]")


@config
class RootShift:
    """sqrt(tokens / base): as many more tokens show an image through more noise (SD3, arXiv:2403.03206, eq. 23)."""

    kind: Literal["root"] = "root"
    base: int  # tokens at which nothing is shifted

    def __post_init__(self) -> None:
        _positive("base", self.base)

    def shift(self, tokens: int) -> float:
        return math.sqrt(tokens / self.base)


@config
class ExponentialShift:
    """exp(mu), mu on a line through two sizes: what Flux samples with, and these are its numbers."""

    kind: Literal["exponential"] = "exponential"
    base: int = 256  # tokens
    base_mu: float = 0.5
    large: int = 4096  # tokens
    large_mu: float = 1.15

    def __post_init__(self) -> None:
        if not 0 < self.base < self.large:
            raise ValueError(f"base {self.base} and large {self.large} must be two sizes, the larger one second")

    def shift(self, tokens: int) -> float:
        slope = (self.large_mu - self.base_mu) / (self.large - self.base)
        return math.exp(self.base_mu + slope * (tokens - self.base))


SizeShift = Annotated[RootShift | ExponentialShift, Kind]


class ClipFacts(NamedTuple):
    """What some distributions ask of the clips that they are drawn for."""

    flow: Flow | None  # whose levels they become: noise ratios need its path
    tokens: int | None  # of a clip, frames x rows x columns of latents: for a shift by size


def total_shift(shift: float, size_shift: SizeShift | None, tokens: int | None) -> float:
    """`shift` times that of a clip of `tokens`."""
    if size_shift is None:
        return shift
    if tokens is None:
        raise ValueError(f"a shift by size ({size_shift.kind}) needs to be told how many tokens a clip has")
    return shift * size_shift.shift(tokens)


@config
class UniformLevels:
    kind: Literal["uniform"] = "uniform"
    per_frame: bool = True  # False: all frames of a clip share one level

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        return u[0]


@config
class LogitNormalLevels:
    """sigmoid(mean + std normal) (Esser et al. 2024, arXiv:2403.03206, eq. 19), then shifted."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    size_shift: SizeShift | None = None
    per_frame: bool = True

    def __post_init__(self) -> None:
        _positive("std", self.std)
        _positive("shift", self.shift)

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        t = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u[0]))
        return shifted(t, total_shift(self.shift, self.size_shift, clip.tokens))


@config
class ModeLevels:
    """1 - u - scale (cos(pi u / 2)^2 - 1 + u), then shifted: never without density at the ends (SD3, eq. 20)."""

    kind: Literal["mode"] = "mode"
    scale: float = 1.29
    shift: float = 1.0
    size_shift: SizeShift | None = None
    per_frame: bool = True

    def __post_init__(self) -> None:
        _positive("shift", self.shift)
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale is {self.scale}; it must lie in [-1, 1.75], where levels fall with u")

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        up = 1 - u[0]
        t = (up - self.scale * (torch.cos(u[0] * (math.pi / 2)) ** 2 - up)).clamp(0, 1)
        return shifted(t, total_shift(self.shift, self.size_shift, clip.tokens))


@config
class LogNormalLevels:
    """Noise ratios exp(mean + std normal), EDM's (Karras et al. 2022, arXiv:2206.00364, table 1), as levels of the path.

    On the rectified path these are `LogitNormalLevels`; ratios beyond the path's end become t = 1.
    """

    kind: Literal["log_normal"] = "log_normal"
    mean: float = -1.2
    std: float = 1.2
    per_frame: bool = True

    def __post_init__(self) -> None:
        _positive("std", self.std)

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        if clip.flow is None:
            raise ValueError("log_normal levels are noise ratios: draw_levels needs the flow whose levels they become")
        ratio = torch.exp(self.mean + self.std * torch.special.ndtri(u[0]))
        return clip.flow.path.level_of(ratio).clamp(max=1)


@config
class ShiftedLevels:
    kind: Literal["shifted"] = "shifted"
    shift: float = 1.0
    size_shift: SizeShift | None = None
    per_frame: bool = True

    def __post_init__(self) -> None:
        _positive("shift", self.shift)

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        return shifted(u[0], total_shift(self.shift, self.size_shift, clip.tokens))


@config
class RollingLevels:
    """(frame + u) / frames: levels that rise along the clip, one u a clip (Ruhe et al. 2024, arXiv:2402.09470, sec. 3).

    A share of the clips begins a rollout instead: min(frame / frames + u, 1), from pure noise everywhere to a ramp.
    """

    kind: Literal["rolling"] = "rolling"
    beginning_clips: float = 0.1
    per_frame: Literal[True] = True

    def __post_init__(self) -> None:
        _share("beginning_clips", self.beginning_clips)

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        frames = u.shape[-1]
        ramp = torch.arange(frames, dtype=u.dtype) / frames
        begins = u[1, :, :1] < self.beginning_clips
        return torch.where(begins, (ramp + u[0, :, :1]).clamp(max=1), ramp + u[0, :, :1] / frames)


@config
class CleanStartLevels:
    """The first frames of a clip at level 0, from 1 to `most` of them, the others at one level: go on from given frames.

    `frames_to_learn` leaves the clean ones out of the loss.
    """

    kind: Literal["clean_start"] = "clean_start"
    most: int  # clean frames; at least one frame of a clip is always noised
    least: int = 1
    one_level: bool = True  # False: each of the others has its own
    per_frame: Literal[True] = True

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"clean frames from {self.least} to {self.most}: give 0 <= least <= most")

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        frames = u.shape[-1]
        if self.most >= frames:
            raise ValueError(f"up to {self.most} clean frames in clips of {frames}: none would be left to learn")
        clean = self.least + (u[1, :, :1] * (self.most - self.least + 1)).long()
        others = u[0, :, :1] if self.one_level else u[0]
        # From (0, 1], so that level 0 tells which frames are clean.
        return torch.where(torch.arange(frames) < clean, 0.0, 1 - others)


@config
class RolloutLevels:
    """As a rollout asks: the past went through the model as pure noise, a frame begins there and then comes down.

    All frames of some clips are pure noise; in the others each frame on its own is, or has any level.
    """

    kind: Literal["rollout"] = "rollout"
    pure_noise_clips: float = 0.5  # share of clips
    pure_noise_frames: float = 0.6  # share of the frames in the other clips
    shift: float = 1.0  # of the levels of the other frames, which lie in (0, 1]
    per_frame: Literal[True] = True

    def __post_init__(self) -> None:
        _positive("shift", self.shift)
        _share("pure_noise_clips", self.pure_noise_clips)
        _share("pure_noise_frames", self.pure_noise_frames)

    def levels(self, u: Tensor, clip: ClipFacts) -> Tensor:
        pure = (u[1] < self.pure_noise_frames) | (u[2, :, :1] < self.pure_noise_clips)
        return torch.where(pure, 1.0, shifted(1 - u[0], self.shift))


LevelsConfig = Annotated[
    UniformLevels
    | LogitNormalLevels
    | ModeLevels
    | LogNormalLevels
    | ShiftedLevels
    | RollingLevels
    | CleanStartLevels
    | RolloutLevels,
    Kind,
]


def draw_levels(
    config: LevelsConfig,
    seed: int,
    step: int,
    index: Tensor,  # (B,) positions in the global stream
    frames: int,
    flow: Flow | None = None,  # for log_normal
    tokens: int | None = None,  # of a clip, for a shift by size
) -> Tensor:
    """(B, frames) float32 levels in [0, 1] on the CPU, keyed as `draw_noise`."""
    u = draw_uniform((3, frames if config.per_frame else 1), seed, step, index, "levels")
    return config.levels(u.transpose(0, 1), ClipFacts(flow, tokens)).expand(-1, frames).contiguous()


def frames_to_learn(t: Tensor) -> Tensor:
    """(B, T, 1, 1, 1): 1, and 0 where a frame is clean, which a model is shown and has nothing to say of."""
    return (t > 0).float()[..., None, None, None]


def draw_neighbours(times: Tensor, seed: int, step: int, index: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """(t, s), each (B, frames): a random level of a falling grid with its lower neighbour, for consistency."""
    u = draw_uniform((frames,), seed, step, index, "levels")
    which = (u * (len(times) - 1)).long()
    return times[which], times[which + 1]
