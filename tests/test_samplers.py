"""Samplers on a field with a known solution (Gaussian data), and against slow references."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wm.config import from_dict
from wm.flow import Flow, FlowConfig, Predict, time_grid
from wm.guidance import guided
from wm.samplers import ancestral, consistency, euler, heun

SHAPE = (2, 3, 4, 6, 10)
PATHS = ("rectified", "vp_linear", "vp_cosine", "ve")
PREDICTIONS = ("velocity", "x", "noise", "v")
MEAN, DEVIATION = 0.7, 0.4


def make(path: str, prediction: str = "velocity") -> Flow:
    return from_dict(FlowConfig, {"path": path, "prediction": prediction}).build()


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ab(flow: Flow, t: Tensor) -> tuple[Tensor, Tensor]:
    return flow.path.a(t)[..., None, None, None], flow.path.b(t)[..., None, None, None]


def gaussian(flow: Flow) -> Predict:
    """The best prediction when every element of the data is normal(MEAN, DEVIATION): linear in x_t."""

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        a, b = ab(flow, t)
        centred = (x_t - a * MEAN) / (a**2 * DEVIATION**2 + b**2)
        return flow.target(MEAN + a * DEVIATION**2 * centred, b * centred, t)

    return predict


def flowed(flow: Flow, x_t: Tensor, t: float, s: float = 0.0) -> Tensor:
    """Where the probability-flow ODE takes x_t: quantiles of the marginal stay quantiles."""
    (a, b), (a_s, b_s) = (ab(flow, torch.full(x_t.shape[:2], k, dtype=x_t.dtype)) for k in (t, s))
    scale = torch.sqrt((a_s**2 * DEVIATION**2 + b_s**2) / (a**2 * DEVIATION**2 + b**2))
    return a_s * MEAN + scale * (x_t - a * MEAN)


def start(flow: Flow, seed: int = 0) -> Tensor:
    return normal(seed) * flow.path.b(torch.ones((), dtype=torch.float64))


def error_after(sampler: Callable[..., Tensor], flow: Flow, num_steps: int, end: float) -> float:
    x, times = start(flow), torch.linspace(1, end, num_steps + 1, dtype=torch.float64)
    made = sampler(flow, gaussian(flow), x, times)
    return float((made - flowed(flow, x, 1.0, end)).abs().max())


@pytest.mark.parametrize("path", PATHS)
def test_euler_converges_as_step_and_heun_as_step_squared(path: str) -> None:
    flow = make(path)
    # b of vp_linear starts like sqrt(t): equal steps of t in its last stretch are no small steps of noise.
    end = 0.1 if path == "vp_linear" else 0.0
    for sampler, order in ((euler, 1), (heun, 2)):
        coarse, fine = (error_after(sampler, flow, n, end) for n in (64, 128))
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25), f"{path} {sampler.__name__}"
    assert error_after(heun, flow, 64, end) < error_after(euler, flow, 128, end)


@pytest.mark.parametrize("path", PATHS)
def test_predictions_of_one_field_give_one_sample(path: str) -> None:
    times = torch.tensor([0.9, 0.7, 0.35, 0.1], dtype=torch.float64)
    for sampler in (euler, heun):
        made = []
        for prediction in PREDICTIONS:
            flow = make(path, prediction)
            made.append(sampler(flow, gaussian(flow), normal(0), times))
        for other in made[1:]:
            torch.testing.assert_close(other, made[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("path", "prediction"), list(itertools.product(PATHS, PREDICTIONS)))
def test_every_pair_samples_from_1_to_0_in_float32(path: str, prediction: str) -> None:
    flow = make(path, prediction)
    x = start(flow).float()
    exact = flowed(flow, x, 1.0)
    for sampler, tolerance in ((euler, 0.05), (heun, 0.02)):
        made = sampler(flow, gaussian(flow), x, time_grid(100))
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", PATHS)
def test_ancestral_with_eta_0_is_euler(path: str) -> None:
    flow, times = make(path), time_grid(5).double()
    made = ancestral(flow, gaussian(flow), start(flow), times, 0.0, lambda i: normal(100 + i))
    assert torch.equal(made, euler(flow, gaussian(flow), start(flow), times))


def test_ancestral_with_eta_1_is_the_ddpm_posterior() -> None:
    """Ho et al. 2020, eq. 6-7, from the betas of a discrete chain whose levels lie on the vp_linear path."""
    flow = make("vp_linear", "x")
    levels = [0.05, 0.2, 0.45, 0.7, 0.95]
    alpha_bar = [float(flow.path.a(torch.tensor(t, dtype=torch.float64))) ** 2 for t in levels]
    x_t, x_0 = normal(0), normal(1)
    for i in range(1, len(levels)):
        alpha = alpha_bar[i] / alpha_bar[i - 1]
        beta = 1 - alpha
        mean = (
            math.sqrt(alpha_bar[i - 1]) * beta / (1 - alpha_bar[i]) * x_0
            + math.sqrt(alpha) * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * x_t
        )
        variance = (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * beta
        times = torch.tensor([levels[i], levels[i - 1]], dtype=torch.float64)
        ours = ancestral(flow, lambda *_: x_0, x_t, times, 1.0, lambda _: torch.zeros_like(x_t))
        torch.testing.assert_close(ours, mean, rtol=1e-10, atol=1e-10)
        pushed = ancestral(flow, lambda *_: x_0, x_t, times, 1.0, lambda _: torch.ones_like(x_t))
        torch.testing.assert_close((pushed - ours) ** 2, torch.full_like(x_t, variance), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ancestral_makes_the_distribution_of_the_data(eta: float) -> None:
    flow = make("rectified")
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 4, 60, 100, dtype=torch.float64, generator=noise)
    made = ancestral(
        flow, gaussian(flow), x, time_grid(200).double(), eta,
        lambda _: torch.randn(x.shape, dtype=x.dtype, generator=noise),
    )  # fmt: skip
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(made.std()) == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.parametrize(("path", "prediction"), list(itertools.product(PATHS, PREDICTIONS)))
def test_consistency_with_one_step_is_clean(path: str, prediction: str) -> None:
    flow, predict = make(path, prediction), gaussian(make(path, prediction))
    x, level = start(flow), float(flow.usable(torch.ones(1, dtype=torch.float64)))
    t = torch.full(x.shape[:2], level, dtype=torch.float64)

    def refuse(_: int) -> Tensor:
        raise AssertionError("one step needs no fresh noise")

    made = consistency(flow, predict, x, time_grid(1).double(), refuse)
    assert torch.equal(made, flow.clean(x, predict(x, t), t))


def test_consistency_with_the_exact_function_keeps_the_distribution_at_any_number_of_steps() -> None:
    flow = make("rectified")

    def exact(x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity whose clean half is the end of the ODE's trajectory."""
        a, b = ab(flow, t)
        end = flowed(flow, x_t, float(t[0, 0]))
        return flow.target(end, (x_t - a * end) / b, t)

    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 4, 60, 100, dtype=torch.float64, generator=noise)
    for num_steps in (1, 2, 4):
        made = consistency(
            flow, exact, x, time_grid(num_steps).double(), lambda _: torch.randn(x.shape, generator=noise).double()
        )
        assert float(made.mean()) == pytest.approx(MEAN, abs=0.015)
        assert float(made.std()) == pytest.approx(DEVIATION, abs=0.015)


def test_guidance_is_linear_and_exact_at_0_and_1() -> None:
    def conditional(x_t: Tensor, t: Tensor) -> Tensor:
        return 2 * x_t + t[..., None, None, None]

    def null(x_t: Tensor, t: Tensor) -> Tensor:
        return -x_t

    x_t, t = normal(0), torch.full((2, 3), 0.3, dtype=torch.float64)
    assert torch.equal(guided(conditional, null, 1.0)(x_t, t), conditional(x_t, t))
    assert torch.equal(guided(conditional, null, 0.0)(x_t, t), null(x_t, t))
    expected = null(x_t, t) + 2.5 * (conditional(x_t, t) - null(x_t, t))
    torch.testing.assert_close(guided(conditional, null, 2.5)(x_t, t), expected)


def test_a_grid_that_does_not_fall_is_refused() -> None:
    flow = make("rectified")
    with pytest.raises(ValueError, match="must fall"):
        euler(flow, gaussian(flow), start(flow), torch.tensor([1.0, 0.5, 0.5, 0.0]))
