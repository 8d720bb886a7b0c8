"""Objectives against hand computed gradients, exact fields and limits."""

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from wm.config import from_dict
from wm.flow import Flow, FlowConfig, Predict, time_grid
from wm.levels import draw_neighbours
from wm.objectives import consistency_distillation, flow_matching, pseudo_huber

SHAPE = (2, 3, 4, 6, 10)
PATHS = ("rectified", "vp_linear", "vp_cosine", "ve")
PREDICTIONS = ("velocity", "x", "noise", "v")
PAIRS = list(itertools.product(PATHS, PREDICTIONS))
MEAN, DEVIATION = 0.7, 0.4


def make(path: str = "rectified", prediction: str = "velocity") -> Flow:
    return from_dict(FlowConfig, {"path": path, "prediction": prediction}).build()


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def levels() -> Tensor:
    return torch.tensor([[0.1, 0.5, 0.9], [0.3, 0.25, 0.7]], dtype=torch.float64)


def scaled(factor: Tensor) -> Predict:
    return lambda x_t, t: factor * x_t


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_flow_matching_is_zero_at_the_target(path: str, prediction: str) -> None:
    flow, x, noise, t = make(path, prediction), normal(0), normal(1), levels()
    loss, metrics = flow_matching(flow, lambda *_: flow.target(x, noise, t), x, t, noise)
    assert float(loss) == 0
    assert float(metrics["mse"]) == 0


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_gradient_of_a_linear_model_agrees_with_the_formula(path: str, prediction: str) -> None:
    """d/df mean(w (f x_t - y)^2) = mean(2 w x_t (f x_t - y))."""
    flow, x, noise, t = make(path, prediction), normal(0), normal(1), levels()
    weight = normal(2)[:, :, :1].abs()
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss, _ = flow_matching(flow, scaled(factor), x, t, noise, weight, level_weight=lambda t: 1 + t)
    x_t, y = flow.noised(x, noise, t), flow.target(x, noise, t)
    whole = weight * (1 + t)[..., None, None, None]
    expected = (2 * whole * x_t * (0.3 * x_t - y)).mean()
    (gradient,) = torch.autograd.grad(loss, factor)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)  # errors are taken in float32


def test_a_huber_error_is_squared_near_the_target_and_linear_far_from_it() -> None:
    flow, x, noise, t = make(), normal(0), normal(1), levels()
    y = flow.target(x, noise, t)
    off = [
        float(flow_matching(flow, lambda *_, d=d: y + d, x, t, noise, huber=0.5)[0]) for d in (0.01, 0.02, 50.0, 100.0)
    ]
    assert off[1] / off[0] == pytest.approx(4, rel=0.01)
    assert off[3] / off[2] == pytest.approx(2, rel=0.02)
    assert off[0] == pytest.approx(0.01**2 / (2 * 0.5), rel=0.01)


def test_masked_elements_have_no_gradient_and_weights_are_linear() -> None:
    flow, x, noise, t = make(), normal(0), normal(1), levels()
    weight = (normal(2)[:, :, :1] > 0).double()
    y = normal(3).requires_grad_()
    loss, metrics = flow_matching(flow, lambda *_: y, x, t, noise, weight)
    (gradient,) = torch.autograd.grad(loss, y)
    assert bool((gradient[(weight == 0).expand(SHAPE)] == 0).all())
    assert bool((gradient[(weight == 1).expand(SHAPE)] != 0).all())
    double, same = flow_matching(flow, lambda *_: y, x, t, noise, 2 * weight)
    torch.testing.assert_close(double, 2 * loss)
    assert float(same["mse"]) == float(metrics["mse"]), "mse knows no weight"


def test_micro_batches_average_to_the_batch() -> None:
    flow, x, noise, t = make(), normal(0), normal(1), levels()
    weight = normal(2)[:, :, :1].abs()
    predict = scaled(torch.tensor(0.3))
    whole, _ = flow_matching(flow, predict, x, t, noise, weight)
    parts = [flow_matching(flow, predict, *(k[i : i + 1] for k in (x, t, noise, weight)))[0] for i in range(2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_bfloat16_predictions_are_compared_in_float32() -> None:
    flow, x, noise, t = make(), normal(0).float(), normal(1).float(), levels().float()
    loss, _ = flow_matching(flow, lambda x_t, t: x_t.bfloat16(), x, t, noise)
    assert loss.dtype == torch.float32


# Consistency distillation


def ab(flow: Flow, t: Tensor) -> tuple[Tensor, Tensor]:
    return flow.path.a(t)[..., None, None, None], flow.path.b(t)[..., None, None, None]


def gaussian_teacher(flow: Flow) -> Predict:
    """The best prediction for data that is normal(MEAN, DEVIATION)."""

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        a, b = ab(flow, t)
        centred = (x_t - a * MEAN) / (a**2 * DEVIATION**2 + b**2)
        return flow.target(MEAN + a * DEVIATION**2 * centred, b * centred, t)

    return predict


def gaussian_solution(flow: Flow) -> Predict:
    """The prediction whose clean half is the end of the probability-flow ODE's trajectory through x_t."""

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        a, b = ab(flow, t)
        end = MEAN + DEVIATION * (x_t - a * MEAN) / torch.sqrt(a**2 * DEVIATION**2 + b**2)
        return flow.target(end, (x_t - a * end) / b.clamp(min=1e-12), t)

    return predict


def distil(
    flow: Flow, student: Predict, t: Tensor, s: Tensor, **more: Tensor | float
) -> tuple[Tensor, Mapping[str, Tensor]]:
    x = MEAN + DEVIATION * normal(0)
    exact, teacher = gaussian_solution(flow), gaussian_teacher(flow)
    return consistency_distillation(flow, student, exact, teacher, x, t, s, normal(1), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_solution_loses_nothing_as_the_step_shrinks(path: str) -> None:
    """The teacher's step errs by h^2, so the squared error falls as h^4."""
    flow, t = make(path), levels()
    losses = [float(distil(flow, gaussian_solution(flow), t, t - h)[0]) for h in (0.04, 0.02)]
    assert math.log2(losses[0] / losses[1]) == pytest.approx(4, abs=0.8)
    wrong = distil(flow, gaussian_teacher(flow), t, t - 0.02)[0]
    assert losses[1] < 0.01 * float(wrong), "the best one-shot guess is not the consistency function"


def test_no_gradient_reaches_teacher_or_target() -> None:
    flow, x, noise, t = make(), normal(0), normal(1), levels()
    ours, theirs, average = (torch.tensor(k, dtype=torch.float64, requires_grad=True) for k in (0.3, 0.2, 0.1))
    loss, _ = consistency_distillation(flow, scaled(ours), scaled(average), scaled(theirs), x, t, t - 0.1, noise)
    gradients = torch.autograd.grad(loss, [ours, theirs, average], allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None
    assert gradients[2] is None


def test_gradient_agrees_with_the_formula() -> None:
    """On the rectified path the student's clean answer is x_t - t f x_t, so d/df of its square error is by hand."""
    flow, x, noise, t = make(), normal(0), normal(1), levels()
    s = t - 0.1
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss, _ = consistency_distillation(
        flow, scaled(factor), scaled(torch.tensor(0.1)), scaled(torch.tensor(0.2)), x, t, s, noise
    )
    at, to = t[..., None, None, None], s[..., None, None, None]
    x_t = torch.lerp(x, noise, at)
    x_s = x_t + (to - at) * 0.2 * x_t
    aim = x_s - to * 0.1 * x_s
    expected = (2 * (x_t - at * 0.3 * x_t - aim) * (-at * x_t)).mean()
    (gradient,) = torch.autograd.grad(loss, factor)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_at_s_0_the_answer_is_the_teachers(path: str, prediction: str) -> None:
    flow, t = make(path, prediction), levels()

    def nonsense(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x_t, 1e3)

    teacher = gaussian_teacher(flow)
    x = MEAN + DEVIATION * normal(0)
    loss, _ = consistency_distillation(flow, teacher, nonsense, teacher, x, t, torch.zeros_like(t), normal(1))
    assert float(loss) < 1e-8


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_context_frames_carry_no_loss_and_stay_as_they_are(path: str, prediction: str) -> None:
    flow, x, noise = make(path, prediction), normal(0), normal(1)
    t = torch.tensor([[0.0, 0.05, 0.9], [0.02, 0.6, 0.03]], dtype=torch.float64)
    context = t < 0.1
    s = torch.where(context, t, t - 0.2)
    seen: dict[str, Tensor] = {}

    def remembering(name: str) -> Predict:
        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            seen[name] = x_t
            return 0.5 * x_t

        return predict

    def student(x_t: Tensor, t: Tensor) -> Tensor:
        seen["y"] = (0.5 * x_t).detach().requires_grad_()
        return seen["y"]

    loss, _ = consistency_distillation(flow, student, remembering("target"), remembering("teacher"), x, t, s, noise)
    (gradient,) = torch.autograd.grad(loss, seen["y"])
    moved = gradient.abs().amax((2, 3, 4)) > 0
    assert torch.equal(moved, ~context)
    assert torch.equal(seen["target"][context], seen["teacher"][context])
    assert bool((seen["target"] != seen["teacher"]).flatten(2).any(-1)[~context].all())


def test_weight_and_huber() -> None:
    flow, t = make(), levels()
    student = scaled(torch.tensor(0.3, dtype=torch.float64))
    half = (normal(2)[:, :, :1] > 0).float()
    weighted, rest = (distil(flow, student, t, t - 0.1, weight=k)[0] for k in (half, 1 - half))
    torch.testing.assert_close(weighted + rest, distil(flow, student, t, t - 0.1)[0])
    squared, huber = (distil(flow, student, t, t - 0.1, huber=k)[0] for k in (0.0, 100.0))
    assert float(huber) == pytest.approx(float(squared) / 200, rel=1e-2), "far below its width it is squared"
    error = torch.tensor([-3.0, 0.0, 4.0])
    torch.testing.assert_close(pseudo_huber(error, 1e-4), error.abs(), rtol=0, atol=1e-3)


def test_it_runs_on_the_pairs_that_draw_neighbours_gives() -> None:
    flow = make()
    t, s = draw_neighbours(time_grid(4, 2.0), 0, 0, torch.arange(2), frames=3)
    loss, _ = distil(flow, gaussian_solution(flow), t.double(), s.double())
    assert bool(torch.isfinite(loss))
