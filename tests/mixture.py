"""A Gaussian mixture of which everything is known: the best prediction at every level, densities, where the ODE leads.

Every element of a clip is drawn on its own from sum_k weights_k normal(means_k, deviations_k), so x_t of path (a, b) is
from sum_k weights_k normal(a means_k, sqrt(a^2 deviations_k^2 + b^2)).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wm.config import from_dict
from wm.flow import Flow, FlowConfig, Predict

PATHS = ("rectified", "vp_linear", "vp_cosine", "ve")
PREDICTIONS = ("velocity", "x", "noise", "v")


def make(path: str, prediction: str = "velocity") -> Flow:
    return from_dict(FlowConfig, {"path": path, "prediction": prediction}).build()


def normal(seed: int, shape: tuple[int, ...] = (2, 3, 4, 6, 10)) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def over(levels: Tensor) -> Tensor:
    return levels[..., None, None, None]


@dataclass(frozen=True)
class Mixture:
    weights: tuple[float, ...] = (0.35, 0.45, 0.2)
    means: tuple[float, ...] = (-1.1, 0.5, 1.6)
    deviations: tuple[float, ...] = (0.35, 0.5, 0.3)

    def log_parts(self, x_t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """log(weight_k) + the log density of component k at x_t, (..., K)."""
        weights, means, deviations = (torch.tensor(v, dtype=x_t.dtype) for v in self._lists())
        variance = (a**2)[..., None] * deviations**2 + (b**2)[..., None]
        squares = (x_t[..., None] - a[..., None] * means) ** 2 / variance
        return weights.log() - (squares + variance.log() + math.log(2 * math.pi)) / 2

    def log_density(self, x_t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.logsumexp(self.log_parts(x_t, a, b), -1)

    def predict(self, flow: Flow) -> Predict:
        """The best prediction, E[target | x_t], from each component's and the odds of the components."""

        def best(x_t: Tensor, t: Tensor) -> Tensor:
            a, b = (over(k) for k in (flow.path.a(t), flow.path.b(t)))
            odds = torch.softmax(self.log_parts(x_t, a, b), -1)
            _, means, deviations = (torch.tensor(v, dtype=x_t.dtype) for v in self._lists())
            a_k, b_k = a[..., None], b[..., None]
            centred = (x_t[..., None] - a_k * means) / (a_k**2 * deviations**2 + b_k**2)
            clean = (odds * (means + a_k * deviations**2 * centred)).sum(-1)
            noise = (odds * b_k * centred).sum(-1)
            return flow.target(clean, noise, t)

        return best

    def cumulative(self, x: Tensor, a: float, b: float) -> Tensor:
        parts = [
            w * (1 + torch.erf((x - a * m) / math.sqrt(2 * (a**2 * d**2 + b**2)))) / 2
            for w, m, d in zip(*self._lists(), strict=True)
        ]
        return sum(parts[1:], parts[0])

    def flowed(self, flow: Flow, x_t: Tensor, t: float, s: float = 0.0) -> Tensor:
        """Where the probability-flow ODE takes x_t from t to s: in one dimension quantiles stay quantiles (bisection)."""
        (a, b), (a_s, b_s) = (coefficients(flow, level) for level in (t, s))
        wanted = self.cumulative(x_t, a, b)
        reach = max(abs(m) + 12 * d for m, d in zip(self.means, self.deviations, strict=True)) * a_s + 12 * b_s
        low, high = torch.full_like(x_t, -reach), torch.full_like(x_t, reach)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cumulative(middle, a_s, b_s) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _lists(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        return self.weights, self.means, self.deviations


def coefficients(flow: Flow, level: float) -> tuple[float, float]:
    t = torch.tensor(level, dtype=torch.float64)
    return float(flow.path.a(t)), float(flow.path.b(t))


def distance(made: Tensor, mixture: Mixture) -> float:
    """Wasserstein's first distance between samples and the mixture, over the samples' sorted quantiles."""
    ordered = made.flatten().sort().values
    ends = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    exact = mixture.cumulative(ends, 1.0, 0.0)
    below = torch.searchsorted(ordered, ends, right=True) / len(ordered)
    return float((below - exact).abs().sum() * (ends[1] - ends[0]))
