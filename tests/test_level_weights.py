"""Level weights against the papers' own forms for each prediction, and one loss whatever is predicted."""

import itertools

import pytest
import torch
from mixture import PATHS, PREDICTIONS, make, normal
from torch import Tensor

from wm.config import ConfigError, from_dict, to_dict
from wm.flow import LEVEL_MARGIN
from wm.level_weights import EDMWeight, LevelWeightConfig, MinSNRWeight, PowerWeight, SigmoidWeight
from wm.objectives import flow_matching

LEVELS = torch.tensor([[0.1, 0.3, 0.5], [0.6, 0.8, 0.9]], dtype=torch.float64)
ALL: tuple[LevelWeightConfig, ...] = (MinSNRWeight(), EDMWeight(data_deviation=0.7), SigmoidWeight(bias=0.5))


def snr(path: str, t: Tensor = LEVELS) -> Tensor:
    return make(path).path.a(t) ** 2 / make(path).path.b(t) ** 2


@pytest.mark.parametrize("path", ["vp_linear", "vp_cosine"])
def test_min_snr_has_its_papers_three_forms(path: str) -> None:
    least = snr(path).clamp(max=5.0)
    for prediction, expected in (("x", least), ("noise", least / snr(path)), ("v", least / (snr(path) + 1))):
        torch.testing.assert_close(MinSNRWeight().build(make(path, prediction))(LEVELS), expected)


def test_edm_weighs_every_level_alike_for_its_network() -> None:
    """On the circle of unit-variance data EDM's network predicts v but for its sign, and its loss weight is 1 on it."""
    ones = torch.ones_like(LEVELS)
    torch.testing.assert_close(EDMWeight().build(make("vp_cosine", "v"))(LEVELS), ones)
    sigma = make("ve").path.b(LEVELS)
    expected = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(EDMWeight(data_deviation=0.5).build(make("ve", "x"))(LEVELS), expected)


@pytest.mark.parametrize("path", PATHS)
def test_sigmoid_weighs_the_noise_by_the_log_of_the_signal_to_noise_ratio(path: str) -> None:
    expected = torch.sigmoid(0.5 - snr(path).log())
    torch.testing.assert_close(SigmoidWeight(bias=0.5).build(make(path, "noise"))(LEVELS), expected)


@pytest.mark.parametrize(("path", "weight"), list(itertools.product(PATHS, ALL)), ids=str)
def test_one_error_has_one_loss_whatever_is_predicted(path: str, weight: LevelWeightConfig) -> None:
    x, noise, off = normal(0), normal(1), 0.1 * normal(2)
    losses = []
    for prediction in PREDICTIONS:
        flow = make(path, prediction)

        def predict(x_t: Tensor, t: Tensor, flow=flow) -> Tensor:  # type: ignore[no-untyped-def]
            """The prediction of a model whose clean frame is off by `off`, said in its own terms."""
            clean = x + off
            return flow.target(clean, flow.held_noise(x_t, clean, t), t)

        losses.append(flow_matching(flow, predict, x, LEVELS, noise, level_weight=weight.build(flow))[0])
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("path", "prediction"), list(itertools.product(PATHS, PREDICTIONS)))
def test_weights_are_finite_and_positive_at_the_ends_in_float32(path: str, prediction: str) -> None:
    t = torch.tensor([[0.0, 1e-7, LEVEL_MARGIN, 1.0]])
    for weight in ALL:
        at = weight.build(make(path, prediction))(t)
        assert at.shape == t.shape
        assert bool((torch.isfinite(at) & (at > 0)).all()), weight


def test_power_is_the_level_to_that_power() -> None:
    torch.testing.assert_close(PowerWeight(power=1.5).build(make("rectified"))(LEVELS), LEVELS * LEVELS.sqrt())


def test_configs_round_trip_and_refuse() -> None:
    for weight in (*ALL, PowerWeight()):
        assert from_dict(type(weight), to_dict(weight)) == weight
    for cls, tree in ((MinSNRWeight, {"gamma": 0.0}), (EDMWeight, {"data_deviation": -1.0})):
        with pytest.raises(ConfigError, match="must be above 0"):
            from_dict(cls, tree)
