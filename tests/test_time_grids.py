"""Time grids fall from 1 to 0, follow their papers, and give DDPM's discrete steps exactly and back."""

import math

import pytest
import torch
from mixture import PATHS, Mixture, make, normal
from torch import Tensor

from wm.config import ConfigError, from_dict, to_dict
from wm.ddpm import alpha_bar_at, alpha_bar_of, betas_of, cosine_betas, levels_of, linear_betas, state_scale
from wm.flow import time_grid
from wm.levels import RootShift
from wm.samplers import ancestral, euler, heun
from wm.time_grids import KarrasTimes, ListedTimes, ShiftedTimes, TimesConfig

GRIDS: tuple[TimesConfig, ...] = (
    ShiftedTimes(),
    ShiftedTimes(shift=3.0),
    KarrasTimes(),
    KarrasTimes(lowest=0.01, highest=20.0, root=3.0),
    ListedTimes(levels=(1.0, 0.8, 0.65, 0.3, 0.1, 0.02, 0.0)),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_grid_falls_from_1_to_0_and_samples(path: str, grid: TimesConfig) -> None:
    times = grid.times(make(path), 6)
    assert (times.shape, times.dtype) == ((7,), torch.float32)
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    assert bool((times.diff() < 0).all())
    assert from_dict(type(grid), to_dict(grid)) == grid


@pytest.mark.parametrize("path", PATHS)
def test_karras_grid_is_even_in_the_root_of_the_noise_ratio(path: str) -> None:
    times = KarrasTimes().times(make(path), 18)
    roots = make(path).noise_ratio(times[1:-1].double()) ** (1 / 7)
    step = (80 ** (1 / 7) - 0.002 ** (1 / 7)) / 17
    torch.testing.assert_close(roots.diff(), torch.full((16,), -step, dtype=torch.float64), rtol=2e-3, atol=0)
    assert float(roots[-1]) ** 7 == pytest.approx(0.002, rel=1e-3)


def test_karras_grid_has_the_smaller_error_on_the_exploding_path() -> None:
    """Karras et al. 2022, section 3: equal steps of t waste calls on large noise."""
    flow, mixture = make("ve"), Mixture()
    x = normal(0, (1, 1, 2, 12, 20)) * 80
    exact = mixture.flowed(flow, x, 1.0)
    errors = [
        float((heun(flow, mixture.predict(flow), x, times.double()) - exact).abs().mean())
        for times in (KarrasTimes().times(flow, 18), torch.linspace(1, 0, 19).double(), _even_in_sigma(18))
    ]
    assert errors[0] < errors[1] < errors[2]


def _even_in_sigma(num_steps: int) -> Tensor:
    return make("ve").path.level_of(torch.linspace(80, 0, num_steps + 1, dtype=torch.float64))


def test_a_grid_is_shifted_by_the_size_of_the_clip() -> None:
    grid = ShiftedTimes(shift=2.0, size_shift=RootShift(base=100))
    assert torch.equal(grid.times(make("rectified"), 5, tokens=900), time_grid(5, 6.0))
    with pytest.raises(ValueError, match="how many tokens"):
        grid.times(make("rectified"), 5)


def test_grids_that_cannot_be_are_refused() -> None:
    for cls, tree, message in (
        (ListedTimes, {"levels": [1.0, 0.5, 0.5, 0.0]}, "fall"),
        (ListedTimes, {"levels": [0.9, 0.5, 0.0]}, "from 1 to 0"),
        (KarrasTimes, {"lowest": 3.0, "highest": 2.0}, "lowest < highest"),
        (ShiftedTimes, {"shift": 0.0}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(cls, tree)
    with pytest.raises(ValueError, match="3 steps asked of 3 listed levels"):
        ListedTimes(levels=(1.0, 0.5, 0.0)).times(make("rectified"), 3)
    with pytest.raises(ValueError, match="beyond the path"):
        KarrasTimes(highest=900.0).times(make("ve"), 20)
    with pytest.raises(ValueError, match="at least 1"):
        KarrasTimes().times(make("ve"), 0)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(largest=0.9), linear_betas(50, 0.001, 0.3)], ids=len)
@pytest.mark.parametrize("path", PATHS)
def test_betas_alpha_bar_and_levels_turn_into_each_other(path: str, betas: Tensor) -> None:
    alpha_bar = alpha_bar_of(betas)
    torch.testing.assert_close(betas_of(alpha_bar), betas, rtol=1e-9, atol=0)
    t = levels_of(make(path).path, alpha_bar)
    assert bool((t.diff() > 0).all())
    torch.testing.assert_close(alpha_bar_at(make(path).path, t), alpha_bar, rtol=1e-9, atol=0)
    back = torch.linspace(0.001, 0.98, 300, dtype=torch.float64)
    torch.testing.assert_close(levels_of(make(path).path, alpha_bar_at(make(path).path, back)), back, rtol=1e-7, atol=0)
    whole = betas_of(alpha_bar_at(make(path).path, t))
    torch.testing.assert_close(whole, betas, rtol=1e-7, atol=1e-12)


def test_the_closed_form_of_the_linear_betas_is_near_the_path() -> None:
    """Step i of 1000 lies at t = (i + 1) / 1000, but for the difference of a product of (1 - beta) and an exponential."""
    t = levels_of(make("vp_linear").path, alpha_bar_of(linear_betas()))
    torch.testing.assert_close(t, torch.arange(1, 1001, dtype=torch.float64) / 1000, rtol=0, atol=5e-3)


def test_ancestral_on_all_1000_levels_is_ddpm_step_by_step() -> None:
    """Ho et al. 2020, alg. 2, from betas alone, with the variance of eq. 7; the model predicts noise."""
    flow, mixture, betas = make("vp_linear", "noise"), Mixture(), linear_betas()
    alpha_bar = alpha_bar_of(betas)
    levels = levels_of(flow.path, alpha_bar)
    predict, x = mixture.predict(flow), normal(0, (1, 1, 2, 3, 5))
    times = torch.cat([levels.flip(0), torch.zeros(1, dtype=torch.float64)])
    ours = ancestral(flow, predict, x, times, 1.0, lambda i: normal(100 + i, (1, 1, 2, 3, 5)))
    for i in reversed(range(1000)):
        e = predict(x, levels[i].expand(1, 1))
        x = (x - betas[i] / math.sqrt(1 - alpha_bar[i]) * e) / math.sqrt(1 - betas[i])
        if i > 0:
            variance = (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * betas[i]
            x = x + math.sqrt(variance) * normal(100 + 999 - i, (1, 1, 2, 3, 5))
    torch.testing.assert_close(ours, x, rtol=1e-7, atol=1e-7)


def test_euler_on_50_of_the_1000_levels_is_ddim() -> None:
    """Song et al. 2021, eq. 12 with sigma = 0 on every twentieth step, from alpha_bar alone."""
    flow, mixture = make("vp_linear", "noise"), Mixture()
    alpha_bar = alpha_bar_of(linear_betas())[19::20]
    levels = levels_of(flow.path, alpha_bar)
    predict, x = mixture.predict(flow), normal(0)
    ours = euler(flow, predict, x, torch.cat([levels.flip(0), torch.zeros(1, dtype=torch.float64)]))
    for i in reversed(range(50)):
        before = alpha_bar[i - 1] if i > 0 else torch.ones(())
        e = predict(x, levels[i].expand(2, 3))
        x = (
            torch.sqrt(before) * (x - torch.sqrt(1 - alpha_bar[i]) * e) / torch.sqrt(alpha_bar[i])
            + torch.sqrt(1 - before) * e
        )
    torch.testing.assert_close(ours, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", ["rectified", "vp_cosine", "ve"])
def test_a_ddpm_model_is_sampled_on_any_path(path: str) -> None:
    """The same noise prediction, asked at the same noise ratios, gives the same DDIM sample but for the state's scale."""
    flow, ddpm, mixture = make(path, "noise"), make("vp_linear", "noise"), Mixture()
    alpha_bar = alpha_bar_of(linear_betas())[9::30]
    levels, ours = (levels_of(f.path, alpha_bar) for f in (ddpm, flow))

    def translated(x_t: Tensor, t: Tensor) -> Tensor:
        """The discrete model asked for a state of `path`."""
        same = levels_of(ddpm.path, alpha_bar_at(flow.path, t))
        return mixture.predict(ddpm)(x_t / state_scale(flow.path, t)[..., None, None, None], same)

    x, zero = normal(0), torch.zeros(1, dtype=torch.float64)
    direct = euler(ddpm, mixture.predict(ddpm), x, torch.cat([levels.flip(0), zero]))
    begun = x * state_scale(flow.path, ours[-1])
    other = euler(flow, translated, begun, torch.cat([ours.flip(0), zero]))
    torch.testing.assert_close(other, direct, rtol=1e-6, atol=1e-6)
