"""The mathematics of noise: paths, predictions, one solve, one step, and the draws of levels and noise.

t = 0 is data, t = 1 is noise. A path is `x_t = a(t) x + b(t) noise`, a prediction is `y = c(t) x + d(t) noise`; both
together are a 2x2 system, and everything that trains or samples goes through its solution. No other file writes these
formulas. `t` is (B, T), one level per frame; latents are (B, T, C, H, W). Coefficients are computed in the dtype of `t`
(float32 in use), so bfloat16 latents come back in float32.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from wm.config import Kind, config

# Predict(x_t, t) -> y: a model with its condition bound. x_t (B, T, C, H, W), t (B, T), y like x_t.
Predict = Callable[[Tensor, Tensor], Tensor]

# How far levels stay from an end where the system of the chosen prediction is singular.
LEVEL_MARGIN = 1e-3
# |determinant| below which the system counts as singular: float32 would return mostly rounding error.
SMALLEST_DETERMINANT = 1e-5


class Path(Protocol):
    """x_t = a(t) x + b(t) noise with a(0) = 1, b(0) = 0; da and db are the derivatives by t."""

    def a(self, t: Tensor) -> Tensor: ...
    def b(self, t: Tensor) -> Tensor: ...
    def da(self, t: Tensor) -> Tensor: ...
    def db(self, t: Tensor) -> Tensor: ...


class Rectified:
    """Straight lines from data to noise (Liu et al. 2022, arXiv:2209.03003, eq. 1)."""

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def b(self, t: Tensor) -> Tensor:
        return t

    def da(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def db(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class VariancePreservingCosine:
    """a = cos(pi t / 2), b = sin(pi t / 2) (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, without offset)."""

    def a(self, t: Tensor) -> Tensor:
        # The sine of the complement: the cosine of a rounded pi / 2 would be -4e-8 instead of 0 at t = 1.
        return torch.sin((1 - t) * (math.pi / 2))

    def b(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def da(self, t: Tensor) -> Tensor:
        return self.b(t) * (-math.pi / 2)

    def db(self, t: Tensor) -> Tensor:
        return self.a(t) * (math.pi / 2)


class VariancePreservingLinear:
    """DDPM's linear schedule in continuous time: beta from 0.1 to 20 (Song et al. 2021, arXiv:2011.13456, eq. 33).

    b grows like sqrt(t), so its derivative is infinite at t = 0. da and db are held at their values at t = 1e-5 below
    that level (the cut that Song et al. use), which keeps the velocity finite and its system solvable down to t = 0.
    """

    beta_min = 0.1
    beta_max = 20.0
    earliest = 1e-5

    def _half_integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min / 2 + t * (self.beta_max - self.beta_min) / 4)

    def a(self, t: Tensor) -> Tensor:
        return torch.exp(-self._half_integral(t))

    def b(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-2 * self._half_integral(t)))

    def da(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.earliest)
        return -self.a(t) * (self.beta_min + t * (self.beta_max - self.beta_min)) / 2

    def db(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.earliest)
        return -self.da(t) * self.a(t) / self.b(t)


class VarianceExploding:
    """x + b noise, b growing geometrically from 0 to 80, with EDM's range (Karras et al. 2022, arXiv:2206.00364).

    b = s ((1 + 80/s)^t - 1) with s = 0.002: Song's geometric schedule made to start at 0, so t = 0 is data here too.
    a(1) is 1: a sample starts from b(1) noise, not from noise. Deviations of the data should be near 1.
    """

    sigma_min = 0.002
    sigma_max = 80.0

    @property
    def _growth(self) -> float:
        return math.log1p(self.sigma_max / self.sigma_min)

    def a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def b(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(t * self._growth)

    def da(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def db(self, t: Tensor) -> Tensor:
        return self.sigma_min * self._growth * torch.exp(t * self._growth)


PATHS: dict[str, Callable[[], Path]] = {
    "rectified": Rectified,
    "vp_linear": VariancePreservingLinear,
    "vp_cosine": VariancePreservingCosine,
    "ve": VarianceExploding,
}
Prediction = Literal["velocity", "x", "noise", "v"]


def _row(path: Path, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
    """(c, d) of y = c x + d noise. Velocity and v can be solved at every level, the other two not at one end."""
    match prediction:
        case "velocity":  # dx_t/dt: noise - x on the rectified path
            return path.da(t), path.db(t)
        case "v":  # a noise - b x (Salimans & Ho 2022, arXiv:2202.00512, eq. 10)
            return -path.b(t), path.a(t)
        case "x":  # singular where b = 0, at t = 0: x_t no longer holds the noise
            return torch.ones_like(t), torch.zeros_like(t)
        case "noise":  # singular where a = 0, at t = 1 of rectified and vp_cosine: x_t no longer holds x
            return torch.zeros_like(t), torch.ones_like(t)


@config
class FlowConfig:
    path: Literal["rectified", "vp_linear", "vp_cosine", "ve"] = "rectified"
    prediction: Prediction = "velocity"

    def build(self) -> "Flow":
        return Flow(PATHS[self.path](), self.prediction)


@dataclass(frozen=True)
class Flow:
    """One path with one prediction. Pure functions of tensors; levels (B, T) broadcast over (B, T, C, H, W)."""

    path: Path
    prediction: Prediction

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t: `x` at level `t`."""
        return _over(self.path.a(t), x) * x + _over(self.path.b(t), x) * noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a model of this prediction should say of `noised(x, noise, t)`."""
        c, d = _row(self.path, self.prediction, t)
        return _over(c, x) * x + _over(d, x) * noise

    def solve(self, x_t: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(clean, noise) with noised(clean, noise, t) = x_t and target(clean, noise, t) = y.

        ValueError where that has no unique answer: x-prediction at t = 0, noise-prediction where a = 0. Levels that
        went through `usable` never raise.
        """
        a, b = self.path.a(t), self.path.b(t)
        c, d = _row(self.path, self.prediction, t)
        determinant = a * d - b * c
        self._refuse_singular(determinant, t)
        p, q, r, s = (_over(k / determinant, x_t) for k in (d, b, a, c))
        return p * x_t - q * y, r * y - s * x_t

    def clean(self, x_t: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """The clean half of `solve`: the consistency function once y = predict(x_t, t).

        It is the identity at t = 0 for every prediction. x-prediction needs no solution for it, so only
        noise-prediction raises, where a = 0.
        """
        if self.prediction == "x":
            return torch.where(_over(self.path.b(t) == 0, x_t), x_t, y)
        return self.solve(x_t, y, t)[0]

    def step(self, clean: Tensor, noise: Tensor, s: Tensor) -> Tensor:
        """The state at level `s`: Euler's step on the rectified path, DDIM's on the variance preserving ones.

        Song et al. 2021 (DDIM), arXiv:2010.02502, eq. 12 with sigma = 0.
        """
        return self.noised(clean, noise, s)

    def renewed(self, noise: Tensor, fresh: Tensor, t: Tensor, s: Tensor, eta: float) -> Tensor:
        """`noise` with the part replaced by `fresh` that a step from t down to s forgets; eta 0 none, 1 as DDPM.

        A stepped state a(s) clean + b(s) renewed then has, at eta = 1, the posterior of Ho et al. 2020
        (arXiv:2006.11239, eq. 6-7), written for any path by the ratio of the signal-to-noise ratios (DDIM eq. 16).
        """
        ratio = (self.path.a(t) * self.path.b(s)) / (self.path.a(s) * self.path.b(t))
        part = eta * torch.sqrt((1 - ratio**2).clamp(min=0))
        return _over(torch.sqrt(1 - part**2), noise) * noise + _over(part, noise) * fresh

    def usable(self, t: Tensor) -> Tensor:
        """`t` moved off the end where `solve` is singular, by LEVEL_MARGIN; unchanged for velocity and v."""
        if self.prediction == "x":
            return t.clamp(min=LEVEL_MARGIN)
        if self.prediction == "noise" and float(self.path.a(torch.ones(()))) == 0:
            return t.clamp(max=1 - LEVEL_MARGIN)
        return t

    def _refuse_singular(self, determinant: Tensor, t: Tensor) -> None:
        # Velocity and v are never singular; not asking spares them a wait for the device.
        if self.prediction in ("velocity", "v"):
            return
        bad = determinant.abs() < SMALLEST_DETERMINANT
        if bool(bad.any()):
            end = "t = 0" if self.prediction == "x" else "t = 1"
            raise ValueError(
                f"{self.prediction}-prediction cannot be solved at level {float(t[bad][0]):.3g} of "
                f"{type(self.path).__name__}: stay away from {end} (Flow.usable), or predict velocity or v"
            )


def _over(levels: Tensor, x: Tensor) -> Tensor:
    """(B, T) as (B, T, 1, 1, 1), to meet latents."""
    return levels.reshape(levels.shape + (1,) * (x.ndim - levels.ndim))


def shifted(t: Tensor, shift: float) -> Tensor:
    """Levels pushed towards noise for shift > 1; 0 and 1 stay (Esser et al. 2024, SD3, arXiv:2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def time_grid(num_steps: int, shift: float = 1.0) -> Tensor:
    """(num_steps + 1,) float32 levels falling from exactly 1 to exactly 0."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a time grid needs at least 1")
    return shifted(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), shift).float()


def draw_noise(
    shape: Sequence[int],  # of one sample: (T, C, H, W)
    seed: int,
    step: int,
    index: Tensor,  # (B,) positions in the global stream
    device: torch.device | str = "cpu",
    stream: str = "noise",  # draws of one step with different streams are independent
) -> Tensor:
    """(B, *shape) float32 standard normal. Sample i is the same whatever batch, rank or device it is drawn for."""
    return _draw(Tensor.normal_, shape, (seed, step), index, stream).to(device)


def draw_uniform(shape: Sequence[int], seed: int, step: int, index: Tensor, stream: str = "uniform") -> Tensor:
    """(B, *shape) float32 uniform in [0, 1) on the CPU, keyed as `draw_noise`: for levels, dropout of conditions."""
    return _draw(Tensor.uniform_, shape, (seed, step), index, stream)


def _draw(
    fill: Callable[..., Tensor], shape: Sequence[int], key: tuple[int, int], index: Tensor, stream: str
) -> Tensor:
    """One generator per sample, from a hash of its key: neighbouring seeds would give related Mersenne twisters.

    torch's CPU generator keeps 32 bits of a seed: 100,000 draws share about one pair, which harms nothing.
    """
    out = torch.empty(len(index), *shape)
    for row, i in zip(out, index.tolist(), strict=True):
        digest = hashlib.blake2b(f"{stream}/{key[0]}/{key[1]}/{i}".encode(), digest_size=4).digest()
        fill(row, generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))
    return out


@config
class UniformLevels:
    kind: Literal["uniform"] = "uniform"
    per_frame: bool = True  # False: all frames of a clip share one level

    def levels(self, u: Tensor) -> Tensor:
        return u[0]


@config
class LogitNormalLevels:
    """sigmoid(mean + std normal) (Esser et al. 2024, arXiv:2403.03206, eq. 19)."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    per_frame: bool = True

    def __post_init__(self) -> None:
        _positive("std", self.std)

    def levels(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u[0]))


@config
class ShiftedLevels:
    kind: Literal["shifted"] = "shifted"
    shift: float = 1.0
    per_frame: bool = True

    def __post_init__(self) -> None:
        _positive("shift", self.shift)

    def levels(self, u: Tensor) -> Tensor:
        return shifted(u[0], self.shift)


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
        for name in ("pure_noise_clips", "pure_noise_frames"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")

    def levels(self, u: Tensor) -> Tensor:
        pure = (u[1] < self.pure_noise_frames) | (u[2, :, :1] < self.pure_noise_clips)
        return torch.where(pure, 1.0, shifted(1 - u[0], self.shift))


LevelsConfig = Annotated[UniformLevels | LogitNormalLevels | ShiftedLevels | RolloutLevels, Kind]


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} is {value}; it must be above 0")


def draw_levels(config: LevelsConfig, seed: int, step: int, index: Tensor, frames: int) -> Tensor:
    """(B, frames) float32 levels in [0, 1] on the CPU, keyed as `draw_noise`."""
    u = draw_uniform((3, frames if config.per_frame else 1), seed, step, index, "levels")
    return config.levels(u.transpose(0, 1)).expand(-1, frames).contiguous()


def draw_neighbours(times: Tensor, seed: int, step: int, index: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """(t, s), each (B, frames): a random level of a falling grid with its lower neighbour, for consistency."""
    u = draw_uniform((frames,), seed, step, index, "levels")
    which = (u * (len(times) - 1)).long()
    return times[which], times[which + 1]
