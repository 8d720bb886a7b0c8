"""The convolutions around the tokens: what goes down comes up in its place, shifts with the screen, and is refused if odd."""

import pytest
import torch
from torch import Tensor, nn

from wm.models.hourglass import WAVES, Down, Drawn, Stamps, Up, fold_sizes
from wm.nn.rope import grid_cosines

B, T, J, C, M, D = 2, 3, 5, 4, 6, 16
H, W = 16, 24


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(widths: tuple[int, ...] = (7, 9), patch_size: int = 4, num_maps: int = M) -> tuple[Down, Up]:
    """With every weight drawn, what begins at zero too."""
    torch.manual_seed(0)
    pair = Down(J, widths, patch_size, D), Up(D, widths, patch_size, C, num_maps, stamps=2)
    for part in pair:
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    return pair


@pytest.mark.parametrize(
    ("patch_size", "levels", "folds"), [(4, 2, [2, 2]), (2, 1, [2]), (8, 2, [2, 4]), (2, 2, [2, 1])]
)
def test_the_folds_multiply_to_the_patch(patch_size: int, levels: int, folds: list[int]) -> None:
    assert fold_sizes(patch_size, levels) == folds


@pytest.mark.parametrize(("patch_size", "levels"), [(2, 3), (6, 3), (3, 2)])
def test_more_levels_than_halvings_are_refused(patch_size: int, levels: int) -> None:
    with pytest.raises(ValueError, match=f"patch_size {patch_size} cannot be halved {levels - 1} times"):
        fold_sizes(patch_size, levels)


@pytest.mark.parametrize("widths", [(7,), (7, 9)])
def test_tokens_and_change_have_their_shapes(widths: tuple[int, ...]) -> None:
    down, up = both(widths)
    tokens, levels = down(noise(B, T, J, H, W), noise(B, T, D), grid_cosines(H, W, WAVES))
    assert tokens.shape == (B, T, (H // 4) * (W // 4), D)
    assert [tuple(level.shape) for level in levels] == [(B * T, w, H >> i, W >> i) for i, w in enumerate(widths)]
    drawn = up(tokens, levels, H // 4, noise(B, T, D), noise(B, T, M, H, W))
    assert drawn.over(noise(B, T, C, H, W)).shape == (B, T, C, H, W)
    torch.testing.assert_close(drawn.shares.sum(2), torch.ones(B, T, H, W))
    assert drawn.features.shape == (B * T, widths[0], H, W)


def test_what_is_drawn_lies_over_what_was_held() -> None:
    layers = [noise(B, T, C, H, W, seed=seed) for seed in range(3)]
    top = noise(B, T, 3, H, W, seed=3).argmax(2)
    held, picture, carried = layers
    shares = nn.functional.one_hot(top, 3).movedim(-1, 2).float()
    over = Drawn(picture, shares, 0.0, held).over(held, carried)
    assert torch.equal(over, torch.stack(layers).gather(0, top[None, :, :, None].expand(1, -1, -1, C, -1, -1))[0])


def test_a_screen_that_moves_by_a_token_moves_what_is_drawn() -> None:
    """Away from the borders, which a convolution can tell."""
    down, up = both()
    joined, state, maps = noise(B, T, J, H, W), noise(B, T, D), noise(B, T, M, H, W, seed=1)

    def drawn(joined: Tensor, maps: Tensor) -> Tensor:
        tokens, levels = down(joined, state, torch.zeros(2 * WAVES, H, W))
        return up(tokens, levels, H // 4, state, maps).over(0.0)

    whole, moved = drawn(joined, maps), drawn(joined.roll(4, -1), maps.roll(4, -1))
    torch.testing.assert_close(moved[..., 12:-8], whole[..., 8:-12], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(moved[..., 12:-8], whole[..., 12:-8], atol=1e-2)


def test_a_token_is_drawn_in_its_place() -> None:
    down, up = both(num_maps=0)
    tokens, levels = down(noise(B, T, J, H, W), noise(B, T, D), grid_cosines(H, W, WAVES))
    other = tokens.clone()
    other[1, 2, 1 * (W // 4) + 4] += 1.0
    state = noise(B, T, D, seed=1)
    drawn = [up(some, levels, H // 4, state, None).over(0.0) for some in (other, tokens)]
    moved = (drawn[0] - drawn[1]).abs().amax(2) > 1e-6
    where = moved.nonzero()
    assert where[:, 0].unique().tolist() == [1]
    assert where[:, 1].unique().tolist() == [2]
    assert where[:, 2].min() >= 4 - 3
    assert where[:, 2].max() <= 7 + 3
    assert where[:, 3].min() >= 16 - 3
    assert where[:, 3].max() <= 19 + 3


def test_a_new_one_changes_nothing_without_maps() -> None:
    torch.manual_seed(0)
    down, up = Down(J, (7,), 4, D), Up(D, (7,), 4, C, 0, stamps=2)
    tokens, levels = down(noise(B, T, J, H, W), noise(B, T, D), grid_cosines(H, W, WAVES))
    assert not up(tokens, levels, H // 4, noise(B, T, D), None).over(0.0).any()


def test_the_chosen_stamp_is_drawn_where_the_map_marks() -> None:
    torch.manual_seed(0)
    stamps = Stamps(M, 3, C)
    maps = torch.zeros(1, 1, M, H, W)
    maps[..., 2, 6, 9] = 1.0
    chosen = torch.zeros(1, 3, H, W)
    chosen[:, 1] = 100.0
    picture = stamps.pictures.weight.unflatten(0, (3, C))[1, :, 2].flip(-2, -1).detach()  # (C, 5, 5)
    made = stamps(maps, chosen)[0].detach()
    torch.testing.assert_close(made[:, 4:9, 7:12], picture)
    assert float(made.abs().sum()) == pytest.approx(float(picture.abs().sum()), rel=1e-5)
