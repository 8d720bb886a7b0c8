"""The way from a place: the same wherever the two lie, telling apart any two ways, and nothing where there is no place."""

import pytest
import torch
from torch import Tensor

from wm.flow import FlowConfig, rectified_guess
from wm.models.aim import Aim, relative_waves
from wm.models.denoiser import DenoiserConfig
from wm.models.dit import DiTConfig
from wm.stages.train_dit import TrainDiTConfig

B, T, H, W, WAVES = 2, 3, 5, 7, 4


def place_at(row: int, column: int) -> Tensor:
    place = torch.zeros(1, H, W)
    place[0, row, column] = 1
    return place


def test_the_way_is_the_same_wherever_the_two_lie() -> None:
    here, there = relative_waves(place_at(1, 2), WAVES), relative_waves(place_at(3, 4), WAVES)
    torch.testing.assert_close(here[..., : H - 2, : W - 2], there[..., 2:, 2:], rtol=0, atol=1e-5)
    cosines = torch.tensor([1.0] * WAVES + [0.0] * WAVES)
    torch.testing.assert_close(there[0, :, 3, 4], torch.cat([cosines, cosines]), rtol=0, atol=1e-5)


def test_a_place_between_two_latents_is_half_way() -> None:
    between = relative_waves((place_at(1, 2) + place_at(1, 3)) / 2, WAVES)
    way = torch.pi * torch.arange(1, WAVES + 1) * 0.5 / W
    torch.testing.assert_close(between[0, 3 * WAVES :, 1, 3], way.sin())


def test_different_ways_differ() -> None:
    ways = relative_waves(place_at(2, 3), WAVES).flatten(2)[0].T
    distances = torch.cdist(ways, ways) + torch.eye(H * W) * 9
    assert float(distances.min()) > 0.5


def test_without_a_place_nothing_is_told() -> None:
    aim = Aim(6, WAVES)
    place = torch.stack([torch.cat([place_at(i, j) for j in range(T)]) for i in range(B)])
    place[1] = 0
    told = aim(place).unflatten(0, (B, T))
    assert told.shape == (B, T, 6, H, W)
    assert bool((told[1] == 0).all())
    assert bool((told[0] != 0).any())


def test_the_guess_has_the_least_squared_error_of_all_gains() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 40_000, generator=generator)
    for level in (0.1, 0.5, 0.8):
        x_t = (1 - level) * x + level * noise
        guess = rectified_guess(x_t.view(1, 1, 1, 1, -1), torch.full((1, 1), level)).flatten()
        best = (x @ x_t) / (x_t @ x_t)
        torch.testing.assert_close(guess, best * x_t, rtol=0.03, atol=1e-3)
    t = torch.tensor([[0.0, 1.0]])
    x_t = x[:12].view(1, 2, 1, 2, 3)
    torch.testing.assert_close(rectified_guess(x_t, t), x_t * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1))


def test_a_guess_along_another_path_is_refused() -> None:
    denoiser = DenoiserConfig(dit=DiTConfig(guess=True))
    TrainDiTConfig(denoiser=denoiser)
    with pytest.raises(ValueError, match=r"dit.guess.*rectified.*vp_cosine"):
        TrainDiTConfig(denoiser=denoiser, flow=FlowConfig(path="vp_cosine"))
