"""The average of weights against its closed form, and showing it without a trace."""

import pytest
import torch
from torch import nn

from wm.engine.average import Average, swapped


@pytest.mark.case("T-07")
def test_it_is_the_weighted_sum_of_the_past_in_float64():
    torch.manual_seed(0)
    weights = [torch.randn(3, 5), torch.randn(7)]
    average = Average(weights, 0.97)
    reference = [w.double() for w in weights]
    for _ in range(200):
        weights = [w + 0.01 * torch.randn_like(w) for w in weights]
        average.update(weights)
        reference = [0.97 * r + 0.03 * w.double() for r, w in zip(reference, weights, strict=True)]
    for value, expected in zip(average.tensors, reference, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_parts_are_averaged_as_the_whole_is():
    torch.manual_seed(0)
    whole = torch.randn(11)
    one, parts = Average([whole], 0.9), Average([whole[:4], whole[4:]], 0.9)
    for _ in range(5):
        whole = torch.randn(11)
        one.update([whole])
        parts.update([whole[:4], whole[4:]])
    assert torch.equal(torch.cat(parts.tensors), one.tensors[0])


def test_small_changes_are_kept_of_bfloat16_weights():
    weights = torch.ones(6, dtype=torch.bfloat16)
    average = Average([weights], 0.999)
    for _ in range(100):
        average.update([weights.float() * 1.01])
    assert average.tensors[0].dtype == torch.float32
    torch.testing.assert_close(average.tensors[0], torch.full((6,), 1 + 0.01 * (1 - 0.999**100)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float):
    with pytest.raises(ValueError, match="average_decay"):
        Average([torch.zeros(2)], decay)


def test_swapped_restores_even_after_an_error():
    module = nn.Linear(3, 4, dtype=torch.bfloat16)
    before = [p.data for p in module.parameters()]
    values = [torch.randn(12), torch.randn(4)]

    def look() -> None:
        with swapped(list(module.parameters()), values):
            assert torch.equal(module.weight, values[0].view(4, 3).bfloat16())
            raise RuntimeError("while looking")

    with pytest.raises(RuntimeError, match="while looking"):
        look()
    assert all(p.data.data_ptr() == b.data_ptr() for p, b in zip(module.parameters(), before, strict=True))
