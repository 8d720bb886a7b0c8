"""Guidance of a rollout by its own history and away from a weak model: the formulas, on single steps whose answers are known."""

import dataclasses
from typing import Any

import pytest
import tiny_world
import torch
from tiny_world import CARD, some_action, some_frames
from torch import Tensor

from wm.artifact import World
from wm.config import from_dict, to_dict
from wm.rollout import WorldSession
from wm.stages.train_dit import TrainDiTConfig

ONE_STEP = dataclasses.replace(CARD, sampler="euler", num_steps=1)  # start - velocity: linear in the answer
B, T = 2, 3


def with_weak(card: Any) -> World:
    world = tiny_world.world(card)
    models = {**world.manifest.models, "weak": dataclasses.replace(card, autoguidance_scale=1.0)}
    manifest = dataclasses.replace(world.manifest, models=models)
    return dataclasses.replace(world, manifest=manifest, models={**world.models, "weak": tiny_world.denoiser(7)})


def first(seed: int = 0, model: str = "student", num_frames: int = 1, **changes: Any) -> Tensor:
    """The first frame or two that are drawn after real ones of `seed`."""
    session = WorldSession(with_weak(dataclasses.replace(ONE_STEP, **changes)), model=model, batch=B, seed=4)
    session.reset(some_frames(B, T, seed), some_action(B, T))
    drawn = session.dream(some_action(B, 1, seed=1))
    return torch.cat([drawn, session.dream(some_action(B, 1, seed=2))], dim=1) if num_frames == 2 else drawn


def test_without_history_nothing_that_was_shown_counts() -> None:
    blind = {"history_guidance_scale": 0.0}
    assert torch.equal(first(0, num_frames=2, **blind), first(5, num_frames=2, **blind))
    assert not torch.allclose(first(0), first(5), atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_history_guidance_goes_on_from_what_has_none(scale: float) -> None:
    blind, seen = first(history_guidance_scale=0.0), first()
    torch.testing.assert_close(first(history_guidance_scale=scale), blind + scale * (seen - blind))


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_autoguidance_leads_away_from_the_weak_model(scale: float) -> None:
    weak, strong = first(model="weak"), first()
    torch.testing.assert_close(first(autoguidance_scale=scale), weak + scale * (strong - weak))


def test_all_kinds_of_guidance_go_together() -> None:
    """p_weak(null) + a (p_blind(null) - p_weak(null)) + h (p(null) - p_blind(null)) + c (p - p(null))."""
    null = {"guidance_scale": 0.0}
    weak, blind = first(model="weak", **null), first(history_guidance_scale=0.0, **null)
    nothing, all_of_it = first(**null), first()
    a, h, c = 1.5, 2.0, 3.0
    found = first(autoguidance_scale=a, history_guidance_scale=h, guidance_scale=c)
    wanted = weak + a * (blind - weak) + h * (nothing - blind) + c * (all_of_it - nothing)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_rollout_remembers_under_guidance() -> None:
    card = dataclasses.replace(CARD, history_guidance_scale=1.5, autoguidance_scale=1.5)
    session = WorldSession(with_weak(card), batch=B, seed=4)
    session.reset(some_frames(B, T), some_action(B, T))
    drawn = [session.dream(some_action(B, 1, seed=i)) for i in range(6)]
    again = WorldSession(with_weak(card), batch=B, seed=4)
    again.reset(some_frames(B, T), some_action(B, T))
    assert all(torch.equal(one, again.dream(some_action(B, 1, seed=i))) for i, one in enumerate(drawn))
    assert [len(dreamer.memory) for dreamer in session.dreamers] == [3, 0, 3]


def test_scales_come_from_the_config_and_a_missing_weak_model_is_named() -> None:
    config = from_dict(TrainDiTConfig, to_dict(TrainDiTConfig(history_guidance_scale=1.5, autoguidance_scale=2.0)))
    assert (config.history_guidance_scale, config.autoguidance_scale) == (1.5, 2.0)
    with pytest.raises(ValueError, match="this world has no weak model to be guided by"):
        WorldSession(tiny_world.world(dataclasses.replace(CARD, autoguidance_scale=2.0)))
    other = with_weak(dataclasses.replace(CARD, autoguidance_scale=2.0))
    cards = {**other.manifest.models, "weak": dataclasses.replace(CARD, mean=(0.0, 0.0, 0.0))}
    with pytest.raises(ValueError, match="another flow or on other latents"):
        WorldSession(dataclasses.replace(other, manifest=dataclasses.replace(other.manifest, models=cards)))
