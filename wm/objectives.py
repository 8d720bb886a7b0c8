"""What training minimises: functions of `predict(x_t, t)`, for any path and any prediction.

A loss is the mean of weighted errors over all elements, not divided by the sum of the weights, so that the gradients
of equal micro-batches average to the gradient of the batch. Errors are taken in float32.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wm.flow import Flow, Predict


def flow_matching(
    flow: Flow,
    predict: Predict,
    x: Tensor,  # (B, T, C, H, W) normalised latents
    t: Tensor,  # (B, T) levels
    noise: Tensor,  # like x
    weight: Tensor | None = None,  # broadcasts to x, such as (B, T, 1, H, W): what changed counts more, masks are 0
    level_weight: Callable[[Tensor], Tensor] | None = None,  # (B, T) levels -> (B, T) weights
    huber: float = 0.0,  # width of the pseudo-Huber error; 0 is the squared error
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """(loss, metrics): squared error of the prediction (Lipman et al. 2023, arXiv:2210.02747, eq. 9; DDPM eq. 14).

    Metrics: `loss`, and `mse` without any weight.
    """
    error = predict(flow.noised(x, noise, t), t).float() - flow.target(x, noise, t).float()
    if level_weight is not None:
        at_level = level_weight(t).reshape((*t.shape, 1, 1, 1))
        weight = at_level if weight is None else weight * at_level
    return _weighted(_cost(error, huber), weight, error)


def consistency_distillation(
    flow: Flow,
    student: Predict,  # learns
    target: Predict,  # the student's average, or the student frozen: tells the answer at s
    teacher: Predict,  # guided as the student shall be without guidance
    x: Tensor,  # (B, T, C, H, W) normalised latents
    t: Tensor,  # (B, T) levels
    s: Tensor,  # (B, T) one step lower; equal to t in frames that are context
    noise: Tensor,  # like x
    weight: Tensor | None = None,  # broadcasts to x
    huber: float = 0.0,  # width of the pseudo-Huber error; 0 is the squared error
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """(loss, metrics): the student's clean answer at t should be the target's at s, one teacher step nearer to data.

    Song et al. 2023 (arXiv:2303.01469, alg. 2), by flow steps as in Luo et al. 2023 (arXiv:2310.04378, eq. 11). Frames
    with t = s carry no loss. At s = 0 the answer is the teacher's own, since `Flow.clean` is the identity there.
    Metrics: `loss`, and `mse` without the weight over the frames that carry loss.
    """
    moves = (t > s).reshape((*t.shape, 1, 1, 1))
    t = flow.usable(t)
    x_t = flow.noised(x, noise, t)
    with torch.no_grad():
        clean, remaining = flow.solve(x_t, teacher(x_t, t), t)
        # Context stays what it was, bit for bit: solving and stepping back would round.
        x_s = torch.where(moves, flow.step(clean, remaining, s), x_t)
        answer = flow.clean(x_s, target(x_s, s), s).float()
    error = (flow.clean(x_t, student(x_t, t), t).float() - answer) * moves
    return _weighted(_cost(error, huber), weight, error)


def pseudo_huber(error: Tensor, width: float) -> Tensor:
    """sqrt(e^2 + w^2) - w per element: squared below `width`, linear above (Song & Dhariwal 2023, arXiv:2310.14189)."""
    return torch.sqrt(error.square() + width**2) - width


def _cost(error: Tensor, huber: float) -> Tensor:
    return error.square() if huber == 0 else pseudo_huber(error, huber)


def _weighted(cost: Tensor, weight: Tensor | None, error: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    loss = cost.mean() if weight is None else (cost * weight).mean()
    return loss, {"loss": loss.detach(), "mse": error.detach().square().mean()}
