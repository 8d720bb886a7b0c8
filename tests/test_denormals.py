"""What is too small to be a normal number is zero in a training, forwards and backwards, and only there."""

import torch

from launch.denormals import TINY, denormals_are_zero


def smallest(share: float) -> tuple[float, float]:
    """A product that is `share` of the smallest normal number, and its gradient, which is as large."""
    x = torch.full((7,), TINY, requires_grad=True)
    y = x * share
    y.backward(torch.full((7,), TINY))
    assert x.grad is not None
    return y[0].item(), x.grad[0].item()


def test_what_is_too_small_is_zero_while_it_lasts() -> None:
    assert min(smallest(0.5)) > 0
    with denormals_are_zero():
        assert smallest(0.5) == (0.0, 0.0)
        assert min(smallest(1.0)) == TINY
        with denormals_are_zero():
            pass
        assert smallest(0.5) == (0.0, 0.0)
    assert min(smallest(0.5)) > 0
