"""Laws of wm/flow.py on every path and prediction: invert, step, refuse; draws keyed by sample."""

import itertools
import math
import time

import pytest
import torch
from torch import Tensor

from wm.config import ConfigError, from_dict, to_dict
from wm.flow import (
    LEVEL_MARGIN,
    Flow,
    FlowConfig,
    draw_noise,
    draw_uniform,
    time_grid,
)

SHAPE = (2, 3, 4, 6, 10)
PATHS = ("rectified", "vp_linear", "vp_cosine", "ve")
PREDICTIONS = ("velocity", "x", "noise", "v")
PAIRS = list(itertools.product(PATHS, PREDICTIONS))
LEVELS = torch.tensor([[0.0, 1e-6, 0.2], [0.5, 0.97, 1.0]], dtype=torch.float64)


def make(path: str, prediction: str = "velocity") -> Flow:
    return from_dict(FlowConfig, {"path": path, "prediction": prediction}).build()


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_solve_inverts_noised_and_target(path: str, prediction: str) -> None:
    flow, x, noise = make(path, prediction), normal(0), normal(1)
    t = flow.usable(LEVELS)
    clean, remaining = flow.solve(flow.noised(x, noise, t), flow.target(x, noise, t), t)
    torch.testing.assert_close(clean, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(remaining, noise, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_every_frame_has_its_own_level(path: str, prediction: str) -> None:
    flow, x, noise = make(path, prediction), normal(0), normal(1)
    t = flow.usable(LEVELS)
    whole = flow.target(x, noise, t)
    for b, f in itertools.product(range(2), range(3)):
        alone = flow.target(x[b : b + 1, f : f + 1], noise[b : b + 1, f : f + 1], t[b : b + 1, f : f + 1])
        torch.testing.assert_close(whole[b, f], alone[0, 0], rtol=0, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_goes_from_data_to_noise(path: str) -> None:
    p = make(path).path
    ends = torch.tensor([0.0, 1.0])
    assert p.a(ends)[0] == 1
    assert p.b(ends)[0] == 0
    assert p.b(ends)[1] == pytest.approx(80.0 if path == "ve" else 1.0, abs=1e-4)
    assert p.a(ends)[1] >= 0
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert bool(((p.b(t) / p.a(t).clamp(min=1e-12)).diff() > 0).all()), "the noise-to-signal ratio must rise"
    if path.startswith("vp"):
        torch.testing.assert_close(p.a(t) ** 2 + p.b(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_agree_with_autograd(path: str) -> None:
    p = make(path).path
    t = torch.linspace(0.01, 0.99, 23, dtype=torch.float64, requires_grad=True)
    for value, derivative in ((p.a, p.da), (p.b, p.db)):
        out = value(t)
        slope = torch.autograd.grad(out.sum(), t)[0] if out.requires_grad else torch.zeros_like(t)
        torch.testing.assert_close(derivative(t), slope, rtol=1e-9, atol=1e-12)


def test_vp_linear_is_ddpm_with_many_steps() -> None:
    """Ho et al.'s product of (1 - beta_i), beta from 1e-4 to 0.02 over 1000 steps, against the closed form."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    product = torch.cumprod(1 - betas, 0).sqrt()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(make("vp_linear").path.a(t), product, rtol=0, atol=3e-3)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_clean_is_the_identity_at_t_0(path: str, prediction: str) -> None:
    x_t, y = normal(0).float(), normal(1).float()
    assert torch.equal(make(path, prediction).clean(x_t, y, torch.zeros(2, 3)), x_t)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_clean_is_the_first_half_of_solve(path: str, prediction: str) -> None:
    flow, t = make(path, prediction), torch.full((2, 3), 0.6, dtype=torch.float64)
    x_t, y = normal(0), normal(1)
    torch.testing.assert_close(flow.clean(x_t, y, t), flow.solve(x_t, y, t)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_float32_ends_are_finite_or_refused(path: str, prediction: str) -> None:
    flow, x, noise = make(path, prediction), normal(0).float(), normal(1).float()
    for end in (0.0, 1.0):
        t = torch.full((2, 3), end)
        x_t, y = flow.noised(x, noise, t), flow.target(x, noise, t)
        singular = (prediction == "x" and end == 0) or (
            prediction == "noise" and end == 1 and path in ("rectified", "vp_cosine")
        )
        if singular:
            with pytest.raises(ValueError, match=r"prediction cannot be solved at level"):
                flow.solve(x_t, y, t)
            assert abs(float(flow.usable(t)[0, 0]) - end) == pytest.approx(LEVEL_MARGIN, rel=1e-3)
            t = flow.usable(t)
            x_t, y = flow.noised(x, noise, t), flow.target(x, noise, t)
        clean, remaining = flow.solve(x_t, y, t)
        assert bool(torch.isfinite(clean).all())
        assert bool(torch.isfinite(remaining).all())


def test_step_on_the_rectified_path_is_euler() -> None:
    flow, x_t, v = make("rectified"), normal(0), normal(1)
    t, s = torch.full((2, 3), 0.7, dtype=torch.float64), torch.full((2, 3), 0.45, dtype=torch.float64)
    stepped = flow.step(*flow.solve(x_t, v, t), s)
    torch.testing.assert_close(stepped, x_t + (0.45 - 0.7) * v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ["vp_linear", "vp_cosine"])
def test_step_on_a_variance_preserving_path_is_ddim(path: str) -> None:
    """Song et al. 2021, eq. 12 with sigma = 0, from the predicted noise."""
    flow, x_t, e = make(path, "noise"), normal(0), normal(1)
    t, s = torch.full((2, 3), 0.7, dtype=torch.float64), torch.full((2, 3), 0.45, dtype=torch.float64)
    alpha_t, alpha_s = (float(flow.path.a(k)[0, 0]) ** 2 for k in (t, s))
    predicted = (x_t - math.sqrt(1 - alpha_t) * e) / math.sqrt(alpha_t)
    ddim = math.sqrt(alpha_s) * predicted + math.sqrt(1 - alpha_s) * e
    torch.testing.assert_close(flow.step(*flow.solve(x_t, e, t), s), ddim, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_predictions_of_one_state_step_alike(path: str) -> None:
    x, noise = normal(0), normal(1)
    t, s = torch.full((2, 3), 0.6, dtype=torch.float64), torch.full((2, 3), 0.3, dtype=torch.float64)
    steps = []
    for prediction in PREDICTIONS:
        flow = make(path, prediction)
        steps.append(flow.step(*flow.solve(flow.noised(x, noise, t), flow.target(x, noise, t), t), s))
    for other in steps[1:]:
        torch.testing.assert_close(other, steps[0], rtol=1e-9, atol=1e-9)


def test_velocity_is_noise_minus_x_on_the_rectified_path_and_v_is_its_turn_on_the_circle() -> None:
    x, noise = normal(0), normal(1)
    torch.testing.assert_close(make("rectified").target(x, noise, LEVELS), noise - x, rtol=0, atol=0)
    v = make("vp_cosine", "v").target(x, noise, LEVELS)
    torch.testing.assert_close(make("vp_cosine").target(x, noise, LEVELS), v * math.pi / 2, rtol=0, atol=1e-12)


def test_bfloat16_latents_come_back_in_float32() -> None:
    flow, x, noise = make("rectified"), normal(0).bfloat16(), normal(1).bfloat16()
    t = torch.full((2, 3), 0.3)
    assert flow.noised(x, noise, t).dtype == torch.float32


def test_renewed_keeps_the_variance_and_ends() -> None:
    flow, noise, fresh = make("rectified"), normal(0), normal(1)
    t, s = torch.full((2, 3), 0.7, dtype=torch.float64), torch.full((2, 3), 0.4, dtype=torch.float64)
    assert torch.equal(flow.renewed(noise, fresh, t, s, eta=0.0), noise)
    one, zero = torch.ones(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)
    kept, replaced = flow.renewed(one, zero, t, s, 0.8), flow.renewed(zero, one, t, s, 0.8)
    torch.testing.assert_close(kept**2 + replaced**2, one)
    start = torch.ones_like(t)
    torch.testing.assert_close(flow.renewed(noise, fresh, start, s, 1.0), fresh)


def test_time_grid_falls_from_1_to_0_and_follows_sd3() -> None:
    for steps, shift in itertools.product((1, 2, 4, 7), (0.5, 1.0, 3.0)):
        grid = time_grid(steps, shift)
        plain = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        assert grid.shape == (steps + 1,)
        assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)
        torch.testing.assert_close(grid.double(), shift * plain / (1 + (shift - 1) * plain), rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="at least 1"):
        time_grid(0)


def test_noise_of_a_sample_is_the_same_in_any_batch() -> None:
    shape, index = (3, 4, 6, 10), torch.tensor([40, 41, 42, 43, 44, 45])
    whole = draw_noise(shape, seed=7, step=11, index=index)
    assert whole.shape == (6, *shape)
    by_rank = torch.stack([draw_noise(shape, 7, 11, index[r::3]) for r in range(3)], 1).flatten(0, 1)
    assert torch.equal(by_rank, whole)
    assert torch.equal(draw_noise(shape, 7, 11, torch.tensor([44]))[0], whole[4])


def test_noise_differs_by_seed_step_index_and_stream() -> None:
    shape, one = (3, 4, 6, 10), torch.tensor([5])
    draws = [
        draw_noise(shape, 7, 11, one),
        draw_noise(shape, 8, 11, one),
        draw_noise(shape, 7, 12, one),
        draw_noise(shape, 7, 11, torch.tensor([6])),
        draw_noise(shape, 7, 11, one, stream="renewal"),
        draw_noise(shape, 11, 7, one),
    ]
    for left, right in itertools.combinations(draws, 2):
        correlation = float((left * right).mean())
        assert abs(correlation) < 5 / math.sqrt(left.numel())


def test_noise_is_standard_normal_and_independent_between_neighbours() -> None:
    noise = draw_noise((1000,), 0, 0, torch.arange(200))
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    between = noise @ noise.T / 1000 - torch.eye(200)
    assert float(between.fill_diagonal_(0).abs().max()) < 6 / math.sqrt(1000)


def test_noise_costs_milliseconds() -> None:
    index = torch.arange(16)
    seconds = []
    for step in range(10):
        start = time.perf_counter()
        draw_noise((16, 16, 8, 12), 0, step, index)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02  # about 0.002 alone; the rest is room for a busy machine


def test_uniform_is_keyed_and_uniform() -> None:
    u = draw_uniform((500,), 1, 2, torch.arange(40))
    assert bool((u >= 0).all())
    assert bool((u < 1).all())
    assert float(u.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(draw_uniform((500,), 1, 2, torch.tensor([17]))[0], u[17])


def test_configs_round_trip_and_refuse() -> None:
    config = FlowConfig(path="ve", prediction="v")
    assert from_dict(FlowConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match="path"):
        from_dict(FlowConfig, {"path": "straight"})


@pytest.mark.parametrize("path", PATHS)
def test_the_level_of_a_noise_ratio_is_its_inverse(path: str) -> None:
    flow = make(path)
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    torch.testing.assert_close(flow.path.level_of(flow.noise_ratio(t)), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.log_snr(t[1:-1]), -flow.noise_ratio(t[1:-1]).log())


@pytest.mark.parametrize("path", PATHS)
def test_raised_is_noised_at_the_higher_level(path: str) -> None:
    """The transition of the path composes: what was noised to t and raised to s has the coefficients of s."""
    flow, zero, one = make(path), torch.zeros(SHAPE, dtype=torch.float64), torch.ones(SHAPE, dtype=torch.float64)
    t, s = torch.full((2, 3), 0.3, dtype=torch.float64), torch.full((2, 3), 0.8, dtype=torch.float64)
    torch.testing.assert_close(flow.raised(flow.noised(one, zero, t), zero, t, s), flow.noised(one, zero, s))
    kept, added = flow.raised(flow.noised(zero, one, t), zero, t, s), flow.raised(zero, one, t, s)
    torch.testing.assert_close(kept**2 + added**2, flow.noised(zero, one, s) ** 2)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_an_error_of_the_prediction_is_so_large_in_the_clean_frame(path: str, prediction: str) -> None:
    flow, x, noise, off = make(path, prediction), normal(0), normal(1), normal(2)
    t = torch.tensor([[0.1, 0.3, 0.5], [0.6, 0.8, 0.9]], dtype=torch.float64)
    x_t, y = flow.noised(x, noise, t), flow.target(x, noise, t)
    error = flow.clean(x_t, y + off, t) - x
    factor = flow.clean_error(t).abs()[..., None, None, None]
    torch.testing.assert_close(error.abs(), factor * off.abs(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(flow.held_noise(x_t, x, t), noise, rtol=1e-9, atol=1e-9)
