"""Clips drawn as a whole: by the sampler over all frames, guided by the formula, of the seed and the actions."""

import dataclasses
from typing import Any

import pytest
import tiny_world
import torch
from tiny_world import CARD, COLUMNS, DENOISER, HEIGHT, ROWS, WIDTH, some_action
from torch import Tensor

from wm.artifact import World
from wm.batch import Given
from wm.flow import draw_noise
from wm.models.memory import Past
from wm.models.vae import to_pixels
from wm.rollout import WorldSession
from wm.whole_clip import draw_clip, is_drawn_whole

B, T = 2, 5
DIT = dataclasses.replace(DENOISER.dit, causal=False, recall=0, window=0)
WHOLE = dataclasses.replace(
    CARD, denoiser=dataclasses.replace(DENOISER, dit=DIT), sampler="euler", num_steps=1, shift=1.0
)


def world(**changes: Any) -> World:
    return tiny_world.world(dataclasses.replace(WHOLE, **changes))


def drawn(world: World, seed: int = 3, action_seed: int = 0, **changes: Any) -> Tensor:
    return draw_clip(world, Given(some_action(B, T, seed=action_seed)), B, T, seed=seed, **changes)


def test_one_step_is_the_noise_less_the_guided_velocity() -> None:
    made = world(guidance_scale=2.5)
    noise = draw_noise((T, 3, ROWS, COLUMNS), 3, 0, torch.arange(B), torch.device("cpu"), "noise")
    nothing = Past(torch.zeros_like(noise), torch.ones(B, T), torch.zeros_like(noise))
    model, given = made.models["student"], Given(some_action(B, T))
    told = model(noise, torch.ones(B, T), nothing, given)
    null = model.dit(noise, torch.ones(B, T), nothing, model.null(given))
    x = noise - (null + 2.5 * (told - null))
    wanted = to_pixels(made.vae.decode(made.scale("student").raw(x)))
    assert drawn(made).shape == (B, T, 3, HEIGHT, WIDTH)
    assert (drawn(made).int() - wanted.int()).abs().max() <= 1


def test_a_seed_draws_the_same_again_and_actions_count() -> None:
    made = world(num_steps=3)
    one = drawn(made)
    assert torch.equal(one, drawn(made))
    assert not torch.equal(one, drawn(made, seed=4))
    assert not torch.equal(one, drawn(made, action_seed=1))


def test_it_is_not_played_frame_by_frame() -> None:
    assert is_drawn_whole(world())
    assert not is_drawn_whole(tiny_world.world())
    with pytest.raises(ValueError, match="it draws a clip as a whole"):
        WorldSession(world())
