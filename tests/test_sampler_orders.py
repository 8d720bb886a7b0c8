"""Every sampler on every path, held to its order and its distribution on a Gaussian mixture with a known score."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from mixture import PATHS, PREDICTIONS, Mixture, coefficients, distance, make, normal
from torch import Tensor

from wm.config import ConfigError, config, from_dict, to_dict
from wm.flow import Flow, time_grid
from wm.samplers import (
    Ancestral,
    Churned,
    Euler,
    SamplerConfig,
    UniPC,
    ancestral,
    churned,
    dpm_solver,
    euler,
    heun,
    unipc,
)

MIXTURE = Mixture()
SMALL = (1, 2, 1, 5, 12)
HIGH, LOW = 0.95, 0.05  # between them log-SNR is finite on every path
ORDERS: tuple[tuple[str, Callable[..., Tensor], float], ...] = (
    ("euler", euler, 1),
    ("heun", heun, 2),
    ("dpm_solver", dpm_solver, 2),
    ("unipc of order 1", partial(unipc, order=1), 2),
    ("unipc of order 2", partial(unipc, order=2), 3),
    ("unipc of order 3", partial(unipc, order=3), 4),
)


def even_in_log_snr(flow: Flow, num_steps: int) -> Tensor:
    ends = flow.log_snr(torch.tensor([HIGH, LOW], dtype=torch.float64))
    return flow.path.level_of(torch.exp(-torch.linspace(float(ends[0]), float(ends[1]), num_steps + 1).double()))


def even_in_t(flow: Flow, num_steps: int) -> Tensor:
    return torch.linspace(HIGH, LOW, num_steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "sampler", "order"), ORDERS, ids=[name for name, *_ in ORDERS])
def test_the_error_falls_with_the_order(path: str, name: str, sampler: Callable[..., Tensor], order: float) -> None:
    flow = make(path)
    grid = even_in_t if name in ("euler", "heun") else even_in_log_snr
    errors = []
    for num_steps in (48, 96):
        times = grid(flow, num_steps)
        high, low = float(times[0]), float(times[-1])
        x = normal(0, SMALL) * coefficients(flow, high)[1] + coefficients(flow, high)[0] * 0.5
        made = sampler(flow, MIXTURE.predict(flow), x, times)
        errors.append(float((made - MIXTURE.flowed(flow, x, high, low)).abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35), errors


def start(flow: Flow, shape: tuple[int, ...] = SMALL, seed: int = 0) -> Tensor:
    return normal(seed, shape) * coefficients(flow, 1.0)[1]


@pytest.mark.parametrize("path", PATHS)
def test_a_memory_of_clean_frames_is_worth_calls_also_from_pure_noise_to_data(path: str) -> None:
    """From t = 1 to t = 0, where log-SNR is infinite at the ends: better than euler with the same number of calls."""
    flow, times = make(path), time_grid(24).double()
    x = start(flow)
    exact = MIXTURE.flowed(flow, x, 1.0)

    def error(sampler: Callable[..., Tensor]) -> float:
        return float((sampler(flow, MIXTURE.predict(flow), x, times) - exact).abs().mean())

    first = error(euler)
    assert error(dpm_solver) < first / 2
    assert error(unipc) < first / 2
    assert error(partial(unipc, order=3)) < first / 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", [dpm_solver, unipc], ids=["dpm_solver", "unipc"])
def test_predictions_of_one_field_give_one_sample(path: str, sampler: Callable[..., Tensor]) -> None:
    times = torch.tensor([0.9, 0.7, 0.35, 0.1, 0.0], dtype=torch.float64)
    made = [
        sampler(make(path, p), MIXTURE.predict(make(path, p)), start(make(path)), times) for p in PREDICTIONS
    ]  # fmt: skip
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_pair_samples_from_1_to_0_in_float32(path: str, prediction: str) -> None:
    flow = make(path, prediction)
    x = start(flow).float()
    exact = MIXTURE.flowed(flow, x.double(), 1.0).float()
    for sampler in (dpm_solver, unipc):
        made = sampler(flow, MIXTURE.predict(flow), x, time_grid(60))
        assert made.dtype == torch.float32
        assert float((made - exact).abs().mean()) < 0.02


def test_one_step_and_two_steps_of_the_multistep_samplers_are_finite_and_euler_at_first() -> None:
    flow, x = make("rectified"), start(make("rectified"))
    for sampler in (dpm_solver, unipc):
        once = sampler(flow, MIXTURE.predict(flow), x, time_grid(1).double())
        torch.testing.assert_close(once, euler(flow, MIXTURE.predict(flow), x, time_grid(1).double()))
        assert bool(torch.isfinite(sampler(flow, MIXTURE.predict(flow), x, time_grid(2).double())).all())


# So many samples of the mixture itself are 0.01 to 0.025 away from it.
WIDE = (1, 1, 2, 30, 50)


def fresh(seed: int) -> Callable[[int], Tensor]:
    return lambda i: normal(1000 * seed + i, WIDE)


@pytest.mark.parametrize("path", PATHS)
def test_churn_leaves_the_distribution_of_the_data(path: str) -> None:
    flow = make(path)
    settings = Churned(churn=20.0, lowest=0.05, highest=50.0, scale=1.0)
    x, times = start(flow, WIDE), time_grid(32).double()
    made = churned(flow, MIXTURE.predict(flow), x, times, settings, fresh(1))
    assert distance(made, MIXTURE) < 0.05
    still = heun(flow, MIXTURE.predict(flow), x, times)
    assert float((made - still).abs().mean()) > 0.1, (
        "churn must have moved the samples, not only kept their distribution"
    )
    calm = Churned(churn=0.0)
    assert torch.equal(churned(flow, MIXTURE.predict(flow), x, times, calm, fresh(1)), still)


def test_churn_is_algorithm_2_of_edm() -> None:
    """Karras et al. 2022, alg. 2, written in their x and sigma, on the exploding path."""
    flow = make("ve", "x")
    settings = Churned(churn=3.0, lowest=0.3, highest=30.0, scale=1.1)
    sigmas = torch.tensor([60.0, 25.0, 8.0, 2.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    denoise = MIXTURE.predict(flow)

    def at(sigma: Tensor) -> Tensor:
        return flow.path.level_of(sigma).expand(x.shape[:2])

    x = normal(0, SMALL) * 60
    ours = churned(flow, denoise, x, flow.path.level_of(sigmas), settings, lambda i: normal(50 + i, SMALL))
    n = len(sigmas) - 1
    for i in range(n):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        gamma = min(3.0 / n, math.sqrt(2) - 1) if 0.3 <= sigma <= 30.0 else 0.0
        hat = sigma + gamma * sigma
        x_hat = x + torch.sqrt(hat**2 - sigma**2) * 1.1 * normal(50 + i, SMALL)
        d = (x_hat - denoise(x_hat, at(hat))) / hat
        x = x_hat + (sigma_next - hat) * d
        if sigma_next > 0:
            d_next = (x - denoise(x, at(sigma_next))) / sigma_next
            x = x_hat + (sigma_next - hat) * (d + d_next) / 2
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


def test_ancestral_1000_and_ddim_50_make_the_data_and_ancestral_50_does_so_less_well() -> None:
    """Song et al. 2021 (DDIM), table 1: at 50 steps eta = 0 beats eta = 1, at 1000 both are good."""
    flow = make("vp_linear", "noise")
    predict, x = MIXTURE.predict(flow), start(flow, WIDE)
    renewal = fresh(7)

    ddpm_1000 = distance(ancestral(flow, predict, x, time_grid(1000).double(), 1.0, renewal), MIXTURE)
    ddim_50 = distance(euler(flow, predict, x, time_grid(50).double()), MIXTURE)
    ddpm_50 = distance(ancestral(flow, predict, x, time_grid(50).double(), 1.0, renewal), MIXTURE)
    assert ddpm_1000 < 0.03
    assert ddim_50 < 0.05
    assert ddpm_50 > 1.2 * ddim_50, (ddpm_1000, ddim_50, ddpm_50)


def test_ddim_gives_one_sample_for_one_noise_at_any_number_of_steps_and_ancestral_does_not() -> None:
    """Song et al. 2021 (DDIM), section 5.2: the start decides the sample."""
    flow = make("vp_linear", "noise")
    predict, x = MIXTURE.predict(flow), start(flow)
    many, few = (euler(flow, predict, x, time_grid(n).double()) for n in (1000, 50))
    assert float((many - few).abs().mean()) < 0.05
    renewed = ancestral(flow, predict, x, time_grid(1000).double(), 1.0, lambda i: normal(i + 10, SMALL))
    assert float((many - renewed).abs().mean()) > 0.5


@config
class Choice:
    sampler: SamplerConfig = Euler()


KINDS = ("euler", "heun", "ancestral", "churned", "dpm_solver", "unipc", "consistency")


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_names_a_sampler_by_a_word_or_with_its_settings(kind: str) -> None:
    chosen = from_dict(Choice, {"sampler": kind})
    assert chosen == from_dict(Choice, {"sampler": {"kind": kind}})
    assert from_dict(Choice, to_dict(chosen)) == chosen
    flow = make("rectified")
    made = chosen.sampler.sample(
        flow, MIXTURE.predict(flow), start(flow), time_grid(4).double(), lambda i: normal(i, SMALL)
    )  # fmt: skip
    assert made.shape == SMALL


def test_a_sampler_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"^sampler: .*'eular' .*'euler', .*'consistency'"):
        from_dict(Choice, {"sampler": "eular"})
    with pytest.raises(ConfigError, match=r"^sampler.ordr: unknown field; did you mean order\?$"):
        from_dict(Choice, {"sampler": {"kind": "unipc", "ordr": 3}})


def test_settings_out_of_range_are_refused() -> None:
    for cls, tree, message in (
        (Ancestral, {"eta": 1.5}, "eta is 1.5"),
        (UniPC, {"order": 0}, "orders 1 to 4"),
        (Churned, {"churn": -1.0}, "churn"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(cls, tree)
