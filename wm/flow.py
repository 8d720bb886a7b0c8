"""The mathematics of noise: predictions on a path (paths.py), one solve, one step, and draws that are keyed by sample.

t = 0 is data, t = 1 is noise. A path is `x_t = a(t) x + b(t) noise`, a prediction is `y = c(t) x + d(t) noise`; both
together are a 2x2 system, and everything that trains or samples goes through its solution. No file but these two writes
such formulas. `t` is (B, T), one level per frame; latents are (B, T, C, H, W). Coefficients are computed in the dtype of `t`
(float32 in use), so bfloat16 latents come back in float32.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wm.config import config
from wm.paths import PATHS, Path, Rectified

# Predict(x_t, t) -> y: a model with its condition bound. x_t (B, T, C, H, W), t (B, T), y like x_t.
Predict = Callable[[Tensor, Tensor], Tensor]

# How far levels stay from an end where the system of the chosen prediction is singular.
LEVEL_MARGIN = 1e-3
# |determinant| below which the system counts as singular: float32 would return mostly rounding error.
SMALLEST_DETERMINANT = 1e-5

Prediction = Literal["velocity", "x", "noise", "v"]


def rectified_guess(x_t: Tensor, t: Tensor) -> Tensor:
    """On the rectified path the linear guess of x, of mean 0 and deviation 1, whose squared error is least: a x_t / (a^2 + b^2).

    Pure noise says nothing of x, and its guess is 0.
    """
    a, b = _over(Rectified().a(t), x_t), _over(Rectified().b(t), x_t)
    return x_t * a / (a.square() + b.square())


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

    def raised(self, x_t: Tensor, fresh: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """`x_t` brought up to the noisier level `s` by `fresh` standard normal noise, for t < 1.

        The path's own transition (Kingma et al. 2021, arXiv:2107.00630, appendix A.1; EDM's line 6 of alg. 2 where a = 1).
        """
        kept = self.path.a(s) / self.path.a(t)
        added = torch.sqrt((self.path.b(s) ** 2 - (kept * self.path.b(t)) ** 2).clamp(min=0))
        return _over(kept, x_t) * x_t + _over(added, x_t) * fresh

    def held_noise(self, x_t: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """The noise that `x_t` holds at level t > 0 if what it was made of is `clean`."""
        return (x_t - _over(self.path.a(t), x_t) * clean) / _over(self.path.b(t), x_t)

    def noise_ratio(self, t: Tensor) -> Tensor:
        """b / a, EDM's sigma: 0 for data, infinite where a = 0. `path.level_of` is its inverse."""
        return self.path.b(t) / self.path.a(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(a / b): half the log of the signal-to-noise ratio, lambda in DPM-Solver; infinite at the ends."""
        return -torch.log(self.noise_ratio(t))

    def clean_error(self, t: Tensor) -> Tensor:
        """By what an error of the prediction at `t` is multiplied to be the error of the clean half of `solve`."""
        if self.prediction == "x":
            return torch.ones_like(t)
        c, d = _row(self.path, self.prediction, t)
        return self.path.b(t) / (self.path.a(t) * d - self.path.b(t) * c)

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
