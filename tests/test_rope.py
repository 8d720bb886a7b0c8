"""Rotary positions: scores know differences only, lengths stay, axes do not mix."""

import itertools

import pytest
import torch
from torch import Tensor

from wm.nn.rope import angle_table, apply_rope, frame_angles, grid_angles, grid_cosines

HEAD_DIM = 24


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def score(query: Tensor, key: Tensor, at: list[int], to: list[int]) -> float:
    """q . k with the query at position `at` and the key at `to`, an entry an axis."""
    turned = [
        apply_rope(x[None], angle_table([torch.tensor([p]) for p in position], HEAD_DIM))[0]
        for x, position in ((query, at), (key, to))
    ]
    return float(turned[0] @ turned[1])


def test_scores_depend_on_the_difference_of_frames_only() -> None:
    query, key = normal(2, HEAD_DIM)
    for difference in (0, 1, 5, -3):
        scores = [score(query, key, [start + difference], [start]) for start in (3, 10, 1000)]
        assert scores == pytest.approx([scores[0]] * 3, abs=1e-5)
    assert score(query, key, [1], [0]) != pytest.approx(score(query, key, [2], [0]), abs=1e-3)


def test_scores_depend_on_the_differences_of_row_and_column_only() -> None:
    query, key = normal(2, HEAD_DIM)
    scores = [score(query, key, [r + 2, c - 1], [r, c]) for r, c in itertools.product((0, 3, 9), (1, 4, 30))]
    assert scores == pytest.approx([scores[0]] * 9, abs=1e-5)
    assert score(query, key, [2, 0], [0, 0]) != pytest.approx(score(query, key, [0, 2], [0, 0]), abs=1e-3)


def test_turning_keeps_lengths_and_position_0_turns_nothing() -> None:
    x = normal(2, 3, 7, HEAD_DIM)
    turned = apply_rope(x, frame_angles(7, HEAD_DIM))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_agrees_with_complex_multiplication() -> None:
    """Su et al. 2021, eq. 12: pairs as complex numbers, times e^(i position theta_j)."""
    x, pairs = normal(2, 3, 7, HEAD_DIM), HEAD_DIM // 2
    theta = 100.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = torch.arange(4, 11, dtype=torch.float64)[:, None] * theta
    turned = torch.complex(x[..., :pairs], x[..., pairs:]) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(apply_rope(x, frame_angles(7, HEAD_DIM, first=4)), expected, rtol=0, atol=1e-6)


def test_gradients_of_first_and_second_order_agree_with_finite_differences() -> None:
    x, table = normal(2, 3, HEAD_DIM).requires_grad_(), frame_angles(3, HEAD_DIM)
    assert torch.autograd.gradcheck(lambda x: apply_rope(x, table), (x,))
    assert torch.autograd.gradgradcheck(lambda x: apply_rope(x, table).square(), (x,))


def test_shapes_can_be_worked_out_on_meta_tensors() -> None:
    x = torch.empty(2, 3, 15, HEAD_DIM, device="meta", requires_grad=True)
    assert apply_rope(x, grid_angles(3, 5, HEAD_DIM, "meta")).shape == x.shape


def test_the_grid_is_row_after_row() -> None:
    rows, columns = torch.arange(3).repeat_interleave(5), torch.arange(5).repeat(3)
    assert torch.equal(grid_angles(3, 5, HEAD_DIM), angle_table([rows, columns], HEAD_DIM))
    assert grid_angles(3, 5, HEAD_DIM).shape == (15, HEAD_DIM)


def test_tables_are_float32_also_far_out_and_take_the_dtype_of_x() -> None:
    far = frame_angles(2, HEAD_DIM, first=1_000_003)
    assert far.dtype == torch.float32
    assert float(far[1, 0]) == pytest.approx(float(torch.cos(torch.tensor(1_000_004.0, dtype=torch.float64))), abs=1e-6)
    assert apply_rope(normal(3, 2, HEAD_DIM).bfloat16(), far).dtype == torch.bfloat16


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        grid_angles(2, 3, 6)
    with pytest.raises(ValueError, match="table of angles"):
        apply_rope(normal(2, 7, HEAD_DIM), frame_angles(6, HEAD_DIM))


def test_cosines_tell_every_place_of_a_grid_apart_and_the_axes_are_their_own() -> None:
    waves = grid_cosines(3, 5, num_waves=4)
    assert waves.shape == (8, 3, 5)
    places = waves.flatten(1).T
    assert (torch.cdist(places, places) + 9 * torch.eye(15)).min() > 0.1
    assert torch.equal(waves[:4, :, :1].expand(-1, -1, 5), waves[:4])
    assert torch.equal(waves[4:, :1].expand(-1, 3, -1), waves[4:])
    # Half-sample cosines are orthogonal: those of the discrete cosine transform.
    along = waves[4:, 0]
    torch.testing.assert_close(along @ along.T, 2.5 * torch.eye(4), atol=1e-5, rtol=0)
