"""Laws of wm/levels.py: keyed by sample, distributed as the papers say, and refused where they cannot be drawn."""

import math

import pytest
import torch
from torch import Tensor

from wm.config import ConfigError, from_dict, to_dict
from wm.flow import Flow, FlowConfig, shifted, time_grid
from wm.levels import (
    CleanStartLevels,
    ExponentialShift,
    LevelsConfig,
    LogitNormalLevels,
    LogNormalLevels,
    ModeLevels,
    RollingLevels,
    RolloutLevels,
    RootShift,
    ShiftedLevels,
    UniformLevels,
    draw_levels,
    draw_neighbours,
    frames_to_learn,
)

PATHS = ("rectified", "vp_linear", "vp_cosine", "ve")


def make(path: str) -> Flow:
    return from_dict(FlowConfig, {"path": path}).build()


def kinds(config: LevelsConfig) -> str:
    return f"{config.kind}-{config.per_frame}"


ALL_LEVELS: tuple[LevelsConfig, ...] = (
    UniformLevels(),
    UniformLevels(per_frame=False),
    LogitNormalLevels(mean=0.5, std=0.8),
    ShiftedLevels(shift=3.0),
    RolloutLevels(pure_noise_clips=0.0, pure_noise_frames=0.25, shift=2.0),
    ModeLevels(scale=0.81, size_shift=RootShift(base=30)),
    LogNormalLevels(per_frame=False),
    RollingLevels(),
    CleanStartLevels(most=3),
)


@pytest.mark.parametrize("config", ALL_LEVELS, ids=kinds)
def test_levels_are_keyed_by_sample_and_lie_in_0_1(config: LevelsConfig) -> None:
    flow = make("vp_linear")
    t = draw_levels(config, 3, 4, torch.arange(50), 7, flow, tokens=7 * 12)
    assert t.shape == (50, 7)
    assert t.dtype == torch.float32
    assert bool(((t >= 0) & (t <= 1)).all())
    assert torch.equal(draw_levels(config, 3, 4, torch.tensor([31]), 7, flow, 7 * 12)[0], t[31])
    assert bool((t.std(1) > 0).all()) == config.per_frame
    assert not torch.equal(draw_levels(config, 3, 5, torch.arange(50), 7, flow, 7 * 12), t)


def quantiles(config: LevelsConfig, path: str = "rectified", tokens: int | None = None) -> Tensor:
    t = draw_levels(config, 0, 0, torch.arange(2000), 10, make(path), tokens).flatten()
    return torch.quantile(t, torch.tensor([0.1, 0.5, 0.9]))


def test_level_distributions_have_their_quantiles() -> None:
    q = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(quantiles(UniformLevels()), q, rtol=0, atol=0.01)
    torch.testing.assert_close(quantiles(ShiftedLevels(shift=3.0)), shifted(q, 3.0), rtol=0, atol=0.015)
    logit = torch.sigmoid(0.5 + 0.8 * torch.tensor([-1.28155, 0.0, 1.28155]))
    torch.testing.assert_close(quantiles(LogitNormalLevels(mean=0.5, std=0.8)), logit, rtol=0, atol=0.01)


def test_clips_and_frames_of_pure_noise_come_in_their_shares() -> None:
    t = draw_levels(RolloutLevels(pure_noise_clips=0.3, pure_noise_frames=0.25), 0, 0, torch.arange(3000), frames=10)
    whole = (t == 1).all(1)
    assert float(whole.float().mean()) == pytest.approx(0.3, abs=0.025)
    assert float((t[~whole] == 1).float().mean()) == pytest.approx(0.25, abs=0.015)
    others = t[t < 1]
    torch.testing.assert_close(
        torch.quantile(others, torch.tensor([0.1, 0.5, 0.9])), torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.02
    )
    assert float(others.min()) > 0


def test_neighbours_are_neighbours_of_the_grid() -> None:
    grid = time_grid(4, shift=2.0)
    t, s = draw_neighbours(grid, 0, 0, torch.arange(300), frames=5)
    where = (grid[None, None] == t[..., None]).float().argmax(-1)
    assert torch.equal(grid[where], t)
    assert torch.equal(grid[where + 1], s)
    assert where.unique().tolist() == [0, 1, 2, 3]


def test_mode_levels_are_their_formula_of_a_uniform_draw() -> None:
    """Esser et al. 2024, eq. 20: f(u) falls with u, so the quantiles of t are f of the opposite quantiles of u."""
    for scale in (-1.0, 0.81, 1.75):
        u = torch.tensor([0.9, 0.5, 0.1])
        expected = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        torch.testing.assert_close(quantiles(ModeLevels(scale=scale)), expected, rtol=0, atol=0.015)


@pytest.mark.parametrize("path", PATHS)
def test_log_normal_levels_have_log_normal_noise_ratios(path: str) -> None:
    ratio = make(path).noise_ratio(quantiles(LogNormalLevels(mean=-0.4, std=1.0), path))
    torch.testing.assert_close(ratio.log(), -0.4 + torch.tensor([-1.28155, 0.0, 1.28155]), rtol=0, atol=0.04)


def test_log_normal_is_logit_normal_on_the_rectified_path() -> None:
    index = torch.arange(40)
    ours = draw_levels(LogNormalLevels(mean=-0.4, std=0.9), 1, 2, index, 5, make("rectified"))
    torch.testing.assert_close(ours, draw_levels(LogitNormalLevels(mean=-0.4, std=0.9), 1, 2, index, 5))


def test_a_shift_by_size_keeps_the_share_of_the_signal() -> None:
    """SD3, section 5.3.2: at m tokens, level shift(t) leaves each token as unsure of the whole as t does at n tokens."""
    base, tokens = 64, 64 * 9
    plain = quantiles(LogitNormalLevels())
    large = quantiles(LogitNormalLevels(size_shift=RootShift(base=base)), tokens=tokens)
    torch.testing.assert_close(large, shifted(plain, 3.0), rtol=0, atol=1e-6)
    ratio = make("rectified").noise_ratio
    torch.testing.assert_close(ratio(large) / math.sqrt(tokens), ratio(plain) / math.sqrt(base), rtol=1e-5, atol=0)


def test_the_exponential_shift_goes_through_its_two_sizes() -> None:
    rule = ExponentialShift()
    assert rule.shift(256) == pytest.approx(math.exp(0.5))
    assert rule.shift(4096) == pytest.approx(math.exp(1.15))
    assert rule.shift(2176) == pytest.approx(math.exp(0.825))


def test_rolling_levels_rise_along_the_clip_and_join_from_window_to_window() -> None:
    t = draw_levels(RollingLevels(beginning_clips=0.0), 0, 0, torch.arange(500), frames=5)
    torch.testing.assert_close(t.diff(dim=1), torch.full((500, 4), 0.2))
    torch.testing.assert_close(
        torch.quantile(t[:, 0], torch.tensor([0.1, 0.9])), torch.tensor([0.02, 0.18]), rtol=0, atol=0.01
    )
    begins = draw_levels(RollingLevels(beginning_clips=1.0), 0, 0, torch.arange(500), frames=5)
    assert bool((begins.diff(dim=1) >= 0).all())
    assert bool((begins[:, -1] >= 0.8).all())
    assert float((begins == 1).all(1).float().mean()) < 0.02
    mixed = draw_levels(RollingLevels(beginning_clips=0.3), 0, 0, torch.arange(2000), frames=5)
    assert float((mixed[:, -1] == 1).float().mean()) == pytest.approx(0.3 * 0.8, abs=0.04)


def test_clips_that_start_clean_are_learned_where_they_are_not() -> None:
    t = draw_levels(CleanStartLevels(least=1, most=3), 0, 0, torch.arange(900), frames=5)
    clean = (t == 0).sum(1)
    assert clean.bincount(minlength=6).tolist() == pytest.approx([0, 300, 300, 300, 0, 0], abs=60)
    for row, k in zip(t[:50], clean[:50].tolist(), strict=True):
        assert bool((row[:k] == 0).all())
        assert float(row[k]) > 0
        assert bool((row[k:] == row[k]).all())
    learned = frames_to_learn(t)
    assert learned.shape == (900, 5, 1, 1, 1)
    assert torch.equal(learned[..., 0, 0, 0].sum(1), 5.0 - clean)


def test_what_cannot_be_drawn_is_refused() -> None:
    index = torch.arange(2)
    with pytest.raises(ValueError, match="needs the flow"):
        draw_levels(LogNormalLevels(), 0, 0, index, 3)
    with pytest.raises(ValueError, match="how many tokens"):
        draw_levels(ShiftedLevels(size_shift=RootShift(base=4)), 0, 0, index, 3)
    with pytest.raises(ValueError, match="none would be left to learn"):
        draw_levels(CleanStartLevels(most=3), 0, 0, index, 3)


def test_configs_round_trip_and_refuse() -> None:
    config = ModeLevels(scale=0.8, size_shift=ExponentialShift())
    assert from_dict(ModeLevels, to_dict(config)) == config
    for cls, tree, name in (
        (LogitNormalLevels, {"std": 0.0}, "std"),
        (RolloutLevels, {"pure_noise_clips": 1.5}, "pure_noise_clips"),
        (ModeLevels, {"scale": 1.8}, "scale"),
        (CleanStartLevels, {"most": 2, "least": 3}, "clean frames"),
        (ShiftedLevels, {"size_shift": {"kind": "roof", "base": 4}}, "size_shift"),
    ):
        with pytest.raises(ConfigError, match=name):
            from_dict(cls, tree)
