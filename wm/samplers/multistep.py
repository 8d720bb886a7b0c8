"""Samplers that remember: one call a step, and a higher order from the clean frames that earlier calls told.

In log-SNR, lambda = log(a / b), the state moves exactly by

    x_s = b(s) / b(t) x_t + a(s) (1 - e^-h) D,    h = lambda_s - lambda_t,

where D is the mean of the clean frame between t and s under the weight e^lambda (Lu et al. 2022, arXiv:2211.01095, prop. 4.1).
That is `Flow.step` with D and the noise that x_t then holds; the samplers differ only in how they estimate D: by the mean of
a polynomial in lambda through the clean frames they know.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wm.config import config
from wm.flow import Flow, Predict
from wm.samplers.steps import Fresh, steps


class Known(NamedTuple):
    log_snr: float
    clean: Tensor  # what the model said there


@config
class DPMSolver:
    kind: Literal["dpm_solver"] = "dpm_solver"

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return dpm_solver(flow, predict, x, times)


def dpm_solver(flow: Flow, predict: Predict, x: Tensor, times: Tensor) -> Tensor:
    """DPM-Solver++(2M): second order (Lu et al. 2022, arXiv:2211.01095, alg. 2); the step to 0 is Euler's."""
    return _multistep(flow, predict, x, times, order=2, corrects=False)


@config
class UniPC:
    kind: Literal["unipc"] = "unipc"
    order: int = 2  # of the predictor; the corrector is one higher. 2 is advised with guidance, 3 without

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise ValueError(f"order is {self.order}; unipc has orders 1 to 4")

    def sample(self, flow: Flow, predict: Predict, x: Tensor, times: Tensor, fresh: Fresh) -> Tensor:
        return unipc(flow, predict, x, times, self.order)


def unipc(flow: Flow, predict: Predict, x: Tensor, times: Tensor, order: int = 2) -> Tensor:
    """Predict, ask, correct with the answer at no further call (Zhao et al. 2023, arXiv:2302.04867, alg. 1, B2(h)).

    The order falls towards a grid's end at 0, where lambda is infinite: 2 in the last step but one, 1 in the last.
    """
    return _multistep(flow, predict, x, times, order, corrects=True)


def _multistep(flow: Flow, predict: Predict, x: Tensor, times: Tensor, order: int, corrects: bool) -> Tensor:
    known: list[Known] = []  # newest last
    walk = list(steps(flow, x, times))
    used: list[Known] = []  # by the step before
    start, before = x, walk[0]
    for step in walk:
        clean = flow.clean(x, predict(x, step.t), step.t)
        log_snr, next_log_snr = _log_snr(flow, step.level), _log_snr(flow, step.next_level)
        if corrects and step.number > 0:
            mean = _mean_clean(known[-1], [*used, Known(log_snr, clean)], log_snr)
            x = _moved(flow, start, mean, before.t, step.t)
        known = [*known, Known(log_snr, clean)][-order:]
        left = len(walk) - step.number if walk[-1].ends else order
        # At an infinite lambda, pure noise without any data in it, nothing was known: it is no point of a polynomial.
        used = [k for k in known[:-1] if math.isfinite(k.log_snr)][::-1][: min(order, left) - 1]
        start, before = x, step
        x = _moved(flow, x, _mean_clean(known[-1], used, next_log_snr), step.t, step.s)
    return x


def _moved(flow: Flow, x: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return flow.step(clean, flow.held_noise(x, clean, t), s)


def _log_snr(flow: Flow, level: float) -> float:
    return float(flow.log_snr(torch.tensor(level, dtype=torch.float64)))


def _mean_clean(now: Known, others: Sequence[Known], end: float) -> Tensor:
    """The mean of the polynomial through `now` and `others` from now.log_snr to `end`, under the weight e^lambda."""
    span = end - now.log_snr
    # Where a step spans infinitely much, only its own end can be among the others.
    places = [1.0 if other.log_snr == end else (other.log_snr - now.log_snr) / span for other in others]
    mean = now.clean
    for weight, other in zip(_weights(places, span), others, strict=True):
        mean = mean + weight * (other.clean - now.clean)
    return mean


def _weights(places: Sequence[float], span: float) -> list[float]:
    """w with sum w_k p(places_k) = mean of p over [0, 1] under e^(span theta), for polynomials p with p(0) = 0."""
    if not places:
        return []
    powers = range(1, len(places) + 1)
    # With one point the mean of theta is taken to be 1/2: of the same order, and how both papers write it.
    moments = [0.5] if len(places) == 1 else [_moment(n, span) for n in powers]
    rows = torch.tensor([[place**n for place in places] for n in powers], dtype=torch.float64)
    return torch.linalg.solve(rows, torch.tensor(moments, dtype=torch.float64)).tolist()


def _moment(n: int, span: float) -> float:
    """The mean of theta^n over [0, 1] under the weight e^(span theta), by parts from n = 0."""
    whole = -math.expm1(-span) / span  # the integral of e^(span (theta - 1))
    part = whole
    for power in range(1, n + 1):
        part = (1 - power * part) / span
    return part / whole
