"""Guidance on a Gaussian mixture whose conditional densities are known: the guided field equals the closed form."""

from collections.abc import Callable

import pytest
import torch
from mixture import PATHS, PREDICTIONS, Mixture, make, normal, over
from torch import Tensor

from wm.config import ConfigError, from_dict
from wm.flow import Flow, Predict, time_grid
from wm.guidance import GuidanceLimits, after_history, composed, guided, guided_by_each, within
from wm.samplers import heun

LEVELS = torch.tensor([[0.2, 0.45, 0.7], [0.9, 0.33, 0.6]], dtype=torch.float64)

# Four components: one for each pair of a text and an action. A condition picks the components that fit it.
WEIGHTS, MEANS, DEVIATIONS = (0.1, 0.25, 0.4, 0.25), (-1.5, -0.4, 0.5, 1.4), (0.3, 0.5, 0.35, 0.4)


def picked(*which: int) -> Mixture:
    total = sum(WEIGHTS[k] for k in which)
    parts = [(WEIGHTS[k] / total, MEANS[k], DEVIATIONS[k]) for k in which]
    return Mixture(*(tuple(values) for values in zip(*parts, strict=True)))


EVERYTHING, TEXT, ACTION, BOTH = picked(0, 1, 2, 3), picked(2, 3), picked(1, 3), picked(3)


def noise_of(flow: Flow, log_density: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
    """The noise that a density's score stands for: -b times the slope of its logarithm (Song et al. 2021, eq. 8)."""
    x_t = x_t.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_density(x_t).sum(), x_t)
    return -over(flow.path.b(t)) * score


def agrees(flow: Flow, predict: Predict, powers: dict[Mixture, float]) -> None:
    """`predict` is the field of the product of the mixtures' densities at each level, to these powers."""
    t = LEVELS
    x_t = flow.noised(normal(0), normal(1), t)
    a, b = over(flow.path.a(t)), over(flow.path.b(t))
    _, noise = flow.solve(x_t, predict(x_t, t), t)

    def log_density(x: Tensor) -> Tensor:
        return sum((p * m.log_density(x, a, b) for m, p in powers.items()), torch.zeros(()))

    torch.testing.assert_close(noise, noise_of(flow, log_density, x_t, t), rtol=1e-8, atol=1e-8)


PAIRS = [(path, prediction) for path in PATHS for prediction in PREDICTIONS]


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_the_mixtures_field_is_its_score(path: str, prediction: str) -> None:
    flow = make(path, prediction)
    agrees(flow, EVERYTHING.predict(flow), {EVERYTHING: 1.0})


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_guidance_is_the_field_of_the_sharpened_density(path: str, prediction: str, scale: float) -> None:
    """Ho & Salimans 2022, section 3: p(x) times p(text | x) to the power of the scale, which is p^(1-w) p(x | text)^w."""
    flow = make(path, prediction)
    agrees(
        flow,
        guided(TEXT.predict(flow), EVERYTHING.predict(flow), scale),
        {EVERYTHING: 1 - scale, TEXT: scale},
    )


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_text_and_action_have_their_own_scales(path: str, prediction: str) -> None:
    flow = make(path, prediction)
    nothing, text, action, both = (m.predict(flow) for m in (EVERYTHING, TEXT, ACTION, BOTH))
    # p(x) p(text | x)^2 p(action | text, x)^3
    in_turn = guided_by_each([nothing, text, both], [2.0, 3.0])
    agrees(flow, in_turn, {EVERYTHING: 1 - 2.0, TEXT: 2.0 - 3.0, BOTH: 3.0})
    # p(x) p(text | x)^2 p(action | x)^3
    apart = composed(nothing, [text, action], [2.0, 3.0])
    agrees(flow, apart, {EVERYTHING: 1 - 5.0, TEXT: 2.0, ACTION: 3.0})


def test_one_condition_is_guided_and_scales_of_1_ask_the_last_alone() -> None:
    flow = make("rectified")
    x_t = flow.noised(normal(0), normal(1), LEVELS)
    nothing, text = EVERYTHING.predict(flow), TEXT.predict(flow)
    one = guided_by_each([nothing, text], [2.5])(x_t, LEVELS)
    assert torch.equal(one, guided(text, nothing, 2.5)(x_t, LEVELS))
    assert guided_by_each([refuse, refuse, text], [1.0, 1.0]) is text
    assert guided_by_each([text], []) is text
    assert torch.equal(composed(nothing, [], [])(x_t, LEVELS), nothing(x_t, LEVELS))
    for several in (lambda: guided_by_each([nothing, text], [2.0, 3.0]), lambda: composed(nothing, [text], [])):
        with pytest.raises(ValueError, match="give one for each"):
            several()


def refuse(x_t: Tensor, t: Tensor) -> Tensor:
    raise AssertionError("this was not to be called")


def test_autoguidance_moves_samples_to_where_the_better_model_differs_from_the_worse() -> None:
    """Karras et al. 2024: a worse model is one whose components are too wide; guiding by it undoes too much width."""
    flow = make("rectified")
    good = Mixture((0.5, 0.5), (-1.0, 1.0), (0.4, 0.4))
    worse = Mixture((0.5, 0.5), (-1.0, 1.0), (0.8, 0.8))
    sharper = guided(good.predict(flow), worse.predict(flow), 2.0)
    agrees(flow, sharper, {good: 2.0, worse: -1.0})
    x = normal(0, (1, 1, 2, 30, 50))
    plain, guided_to = (heun(flow, p, x, time_grid(30).double()) for p in (good.predict(flow), sharper))
    width = [float((made.abs() - 1).std()) for made in (plain, guided_to)]
    assert width[1] < 0.8 * width[0]
    assert float((guided_to > 0).double().mean()) == pytest.approx(0.5, abs=0.03), "both components are kept"


def test_an_interval_guides_inside_and_calls_nothing_more_outside() -> None:
    """Kynkaanniemi et al. 2024: the scale is 1 outside the interval, frame by frame."""
    flow = make("rectified")
    x_t = flow.noised(normal(0), normal(1), LEVELS)
    text, sharper = TEXT.predict(flow), guided(TEXT.predict(flow), EVERYTHING.predict(flow), 3.0)
    made = within(sharper, text, 0.3, 0.65)(x_t, LEVELS)
    inside = (LEVELS > 0.3) & (LEVELS < 0.65)
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(made[inside], sharper(x_t, LEVELS)[inside])
    assert torch.equal(made[~inside], text(x_t, LEVELS)[~inside])
    assert torch.equal(within(refuse, text, 0.95, 1.0)(x_t, LEVELS), text(x_t, LEVELS))
    assert torch.equal(within(sharper, refuse, 0.1, 0.95)(x_t, LEVELS), sharper(x_t, LEVELS))
    assert within(sharper, text, 0.0, 1.0) is sharper


@pytest.mark.parametrize("rescale", [0.4, 1.0])
def test_rescale_brings_back_the_deviation_of_each_frame(rescale: float) -> None:
    flow = make("rectified", "v")
    x_t = flow.noised(normal(0), normal(1), LEVELS)
    text, nothing = TEXT.predict(flow), EVERYTHING.predict(flow)
    plain, strong = text(x_t, LEVELS), guided(text, nothing, 6.0)(x_t, LEVELS)
    made = guided(text, nothing, 6.0, rescale)(x_t, LEVELS)
    goal = (1 - rescale) * strong.std((2, 3, 4)) + rescale * plain.std((2, 3, 4))
    torch.testing.assert_close(made.std((2, 3, 4)), goal)
    cosine = torch.nn.functional.cosine_similarity(made.flatten(2), strong.flatten(2), dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def chain(flow: Flow, correlation: float, frames: int) -> Predict:
    """The best prediction for clips whose frames are normal with correlation^|i - j|: all known by linear algebra."""
    places = torch.arange(frames, dtype=torch.float64)
    covariance = correlation ** (places[:, None] - places[None]).abs()

    def best(x_t: Tensor, t: Tensor) -> Tensor:
        a, b = flow.path.a(t), flow.path.b(t)
        observed = a[:, :, None] * covariance * a[:, None] + torch.diag_embed(b**2)
        told = torch.linalg.solve(observed, x_t.flatten(2))
        clean = (covariance @ (a[..., None] * told)).view_as(x_t)
        return flow.target(clean, (b[..., None] * told).view_as(x_t), t)

    return best


def conditional(flow: Flow, history: Tensor, correlation: float, known: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
    """The best prediction for the one frame after `history`, of whose frames only the `known` ones are: closed form."""
    frames = history.shape[1] + 1
    places = torch.arange(frames, dtype=torch.float64)
    covariance = correlation ** (places[:, None] - places[None]).abs()
    which = torch.nonzero(known).flatten()
    back = (
        covariance[-1, which] @ torch.linalg.inv(covariance[which][:, which]) if len(which) else torch.zeros(0).double()
    )
    mean = (back[None, :, None, None, None] * history[:, which]).sum(1, keepdim=True)
    variance = 1 - float(back @ covariance[which, -1])
    a, b = over(flow.path.a(t)), over(flow.path.b(t))
    centred = (x_t - a * mean) / (a**2 * variance + b**2)
    return flow.target(mean + a * variance * centred, b * centred, t)


@pytest.mark.parametrize("path", ["rectified", "vp_cosine"])
def test_history_guidance_is_the_closed_form_on_correlated_frames(path: str) -> None:
    """Song et al. 2025: shown at level 0 the past is known, at level 1 it is not, frame by frame."""
    flow, correlation = make(path), 0.8
    history, noise = normal(2, (2, 3, 4, 5, 7)), normal(3, (2, 3, 4, 5, 7))
    t = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    x_t = normal(4, (2, 1, 4, 5, 7))
    predict = chain(flow, correlation, 4)
    all_known, none, last = (torch.tensor(k) for k in ([1, 1, 1], [0, 0, 0], [0, 0, 1]))

    def shown(known: Tensor) -> Predict:
        return after_history(flow, predict, history, noise, (1 - known.double()).expand(2, 3))

    def exact(known: Tensor) -> Tensor:
        return conditional(flow, history, correlation, known, t, x_t)

    for known in (all_known, none, last):
        torch.testing.assert_close(shown(known)(x_t, t), exact(known), rtol=1e-9, atol=1e-9)
    made = guided(shown(all_known), shown(none), 1.7)(x_t, t)
    torch.testing.assert_close(made, exact(none) + 1.7 * (exact(all_known) - exact(none)), rtol=1e-9, atol=1e-9)
    in_part = composed(shown(none), [shown(all_known), shown(last)], [1.0, 0.5])(x_t, t)
    expected = exact(all_known) + 0.5 * (exact(last) - exact(none))
    torch.testing.assert_close(in_part, expected, rtol=1e-9, atol=1e-9)


def test_history_at_a_level_between_guides_less_than_the_clean_past() -> None:
    flow = make("rectified")
    history, noise, x_t = (normal(k, (2, 3, 4, 5, 7)) for k in (2, 3, 4))
    t = torch.full((2, 3), 0.5, dtype=torch.float64)
    predict = chain(flow, 0.8, 6)
    clean, half, none = (after_history(flow, predict, history, noise, k)(x_t, t) for k in (0.0, 0.5, 1.0))
    assert half.shape == x_t.shape
    pull = [float((y - none).square().mean()) for y in (half, clean)]
    assert 0.0 < pull[0] < pull[1]


def test_limits_from_a_config() -> None:
    flow = make("rectified")
    x_t = flow.noised(normal(0), normal(1), LEVELS)
    text, nothing = TEXT.predict(flow), EVERYTHING.predict(flow)
    plain = GuidanceLimits().guided_by_each([nothing, text], [2.0])(x_t, LEVELS)
    assert torch.equal(plain, guided(text, nothing, 2.0)(x_t, LEVELS))
    limited = GuidanceLimits(lowest=0.3, highest=0.65, rescale=0.7).guided_by_each([nothing, text], [2.0])(x_t, LEVELS)
    expected = within(guided(text, nothing, 2.0, 0.7), text, 0.3, 0.65)(x_t, LEVELS)
    assert torch.equal(limited, expected)
    for tree in ({"lowest": 0.7, "highest": 0.6}, {"rescale": 1.2}):
        with pytest.raises(ConfigError):
            from_dict(GuidanceLimits, tree)
