"""WorldSession: its cache against full recomputation under the same window mask, and frames that are a function of the seed."""

import dataclasses
from typing import Any

import pytest
import tiny_world
import torch
from tiny_world import CARD, HEIGHT, SHAPE, WIDTH, some_action, some_frames
from torch import Tensor

from wm.artifact import DenoiserWeights, World
from wm.batch import Action, Given
from wm.conditioning.condition import Condition
from wm.config import from_dict, to_dict
from wm.flow import FlowConfig, Predict, draw_noise, time_grid
from wm.guidance import GuidanceLimits
from wm.models.memory import Past
from wm.models.vae import to_pixels, to_unit_range
from wm.rollout import WorldSession
from wm.samplers import Ancestral, Churned, UniPC
from wm.time_grids import KarrasTimes, ListedTimes, ShiftedTimes

BATCH, CONTEXT, SEED = 2, 5, 7
NEW = 10  # with the context, more than twice the window and the reach of two layers


class Slow:
    """The same rollout without a memory: all frames so far, as they began and after what, go through in every call."""

    def __init__(self, world: World, card: DenoiserWeights, num_steps: int) -> None:
        self.world, self.card, self.denoiser = world, card, world.models["student"]
        self.flow = card.flow.build()
        grid = ShiftedTimes(shift=card.shift) if card.times is None else card.times
        self.times = grid.times(self.flow, num_steps)
        self.starts: list[Tensor] = []  # pure noise
        self.seen: list[Tensor] = []  # as shown to the frame after
        self.were: list[Tensor] = []  # as they were
        self.actions: list[Action] = []

    def noise(self, stream: str) -> Tensor:
        shape = (1, SHAPE.channels, SHAPE.rows, SHAPE.columns)
        return draw_noise(shape, SEED, len(self.seen), torch.arange(BATCH), stream=stream)

    def start(self) -> Tensor:
        noise = self.noise("noise")
        return self.flow.noised(torch.zeros_like(noise), noise, torch.ones(BATCH, 1))

    def remember(self, x: Tensor, action: Action) -> None:
        level = torch.full((BATCH, 1), self.card.context_level)
        self.starts.append(self.start())
        self.seen.append(self.flow.noised(x, self.noise("context"), level))
        self.were.append(x)
        self.actions.append(action)

    def predictor(self, condition: Condition) -> Predict:
        shown = torch.cat([*self.seen, self.seen[-1]], dim=1)  # the last is shown to nobody
        were = torch.cat([*self.were, self.were[-1]], dim=1)
        past = Past.of(shown, torch.full(shown.shape[:2], self.card.context_level), were)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            levels = torch.cat([torch.ones(BATCH, len(self.starts)), t], dim=1)
            return self.denoiser.dit(torch.cat([*self.starts, x_t], dim=1), levels, past, condition)[:, -1:]

        return predict

    def step(self, action: Action) -> Tensor:
        given = Given(action=Action.concatenate([*self.actions, action], 1))
        predict, null = self.predictor(self.denoiser.condition(given)), self.predictor(self.denoiser.null(given))
        predict = self.card.guidance_limits.guided_by_each([null, predict], [self.card.guidance_scale])
        x = self.card.sampler.sample(
            self.flow, predict, self.start(), self.times, lambda i: self.noise(f"fresh {i}")
        )  # fmt: skip
        self.remember(x, action)
        return x


def rollout(session: WorldSession, seed: int = 0) -> Tensor:
    """(B, 1 + NEW, 3, H, W) uint8: what reset and then each step gave."""
    frames, action = some_frames(session.batch, CONTEXT, seed), some_action(session.batch, CONTEXT + NEW, seed=seed)
    first = session.reset(frames, action[:, :CONTEXT])
    return torch.stack([first, *(session.step(action[:, i : i + 1]) for i in range(CONTEXT, CONTEXT + NEW))], dim=1)


@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("sampler", ["euler", "heun", "consistency"])
@torch.no_grad()
def test_cached_and_recomputed_frames_agree(sampler: str, num_steps: int, guidance_scale: float) -> None:
    agree(dataclasses.replace(CARD, sampler=sampler, guidance_scale=guidance_scale), num_steps)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "dpm_solver", "guidance_limits": GuidanceLimits(lowest=0.2, highest=0.9, rescale=0.5)},
        {"sampler": UniPC(order=3), "times": KarrasTimes(lowest=0.02, highest=20.0)},
        {"sampler": Ancestral(eta=0.5), "times": ListedTimes(levels=(1.0, 0.8, 0.5, 0.2, 0.0))},
        {"sampler": Churned(churn=2.0), "guidance_limits": GuidanceLimits(highest=0.6)},
    ],
    ids=lambda changes: str(changes["sampler"]),
)
@torch.no_grad()
def test_cached_and_recomputed_frames_agree_under_any_settings(changes: dict[str, Any]) -> None:
    card = dataclasses.replace(CARD, guidance_scale=1.5, **changes)
    assert from_dict(DenoiserWeights, to_dict(card)) == card
    agree(card, num_steps=4)


def agree(card: DenoiserWeights, num_steps: int) -> None:
    """In float64: weights that were never trained make rounding grow from frame to frame."""
    world = tiny_world.world(card)
    world.models["student"].double()
    session = WorldSession(world, num_steps=num_steps, seed=SEED, batch=BATCH)
    slow = Slow(world, card, num_steps)
    frames, action = some_frames(BATCH, CONTEXT), some_action(BATCH, CONTEXT + NEW)
    shown = session.reset(frames, action[:, :CONTEXT])
    x = world.scale("student").normalised(world.vae.encode(to_unit_range(frames)).mean)
    assert torch.equal(shown, to_pixels(world.vae.decode(world.scale("student").raw(x[:, -1:])))[:, 0])
    for i in range(CONTEXT):
        slow.remember(x[:, i : i + 1], action[:, i : i + 1])
    for i in range(CONTEXT, CONTEXT + NEW):
        cached, recomputed = session.dream(action[:, i : i + 1]), slow.step(action[:, i : i + 1])
        torch.testing.assert_close(cached, recomputed, atol=1e-5, rtol=1e-5)
        assert cached.std() > 0.1


@pytest.mark.parametrize("path", ["rectified", "vp_linear", "vp_cosine", "ve"])
@pytest.mark.parametrize("prediction", ["velocity", "x", "noise", "v"])
def test_every_path_and_prediction_rolls_out(path: str, prediction: str) -> None:
    card = dataclasses.replace(CARD, sampler="euler", flow=FlowConfig(path=path, prediction=prediction))
    session = WorldSession(tiny_world.world(card), num_steps=2)
    action = some_action(1, 3)
    session.reset(some_frames(1, 2), action[:, :2])
    assert torch.isfinite(session.dream(action[:, 2:])).all()


def test_the_same_seed_and_actions_give_the_same_frames_bit_for_bit() -> None:
    world = tiny_world.world()
    session = WorldSession(world, seed=SEED, batch=BATCH)
    first = rollout(session)
    assert first.shape == (BATCH, 1 + NEW, 3, HEIGHT, WIDTH)
    assert first.dtype == torch.uint8
    assert torch.equal(rollout(WorldSession(world, seed=SEED, batch=BATCH)), first)
    assert torch.equal(rollout(session), first), "a reset forgets everything"


def test_what_hardly_changes_rests_and_the_rest_does_not() -> None:
    """A place rests where none of its channels would change by so much; a first frame, which has nothing before it, never does."""
    action, frames = some_action(BATCH, CONTEXT + 1), some_frames(BATCH, CONTEXT)

    def session(rest_below: float) -> WorldSession:
        return WorldSession(tiny_world.world(dataclasses.replace(CARD, rest_below=rest_below)), batch=BATCH)

    def after_frames(rest_below: float) -> tuple[Tensor, Tensor]:
        one = session(rest_below)
        one.reset(frames, action[:, :CONTEXT])
        return one.past.x, one.dream(action[:, CONTEXT:])

    before, free = after_frames(0.0)
    change = (free - before).abs().amax(2, keepdim=True)
    middle = float(change.median())
    assert torch.equal(after_frames(middle)[1], torch.where(change < middle, before, free))
    firsts = []
    for rest_below in (0.0, 100.0):
        one = session(rest_below)
        one.begin()
        firsts.append(one.dream(action[:, :1]))
        assert torch.equal(one.dream(action[:, 1:2]), firsts[-1]) == (rest_below == 100.0)
    assert torch.equal(*firsts)


def test_another_seed_gives_other_frames_after_the_same_first_one() -> None:
    one, other = (rollout(WorldSession(tiny_world.world(), seed=seed)) for seed in (7, 8))
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.equal(one[:, 1], other[:, 1])


def test_the_frames_follow_the_actions_from_where_they_differ() -> None:
    world, frames, action = tiny_world.world(), some_frames(1, 3), some_action(1, 8)
    other = dataclasses.replace(action, pointer=action.pointer.clone())
    other.pointer[:, 5] = 1 - other.pointer[:, 5]
    found = []
    for given in (action, other):
        session = WorldSession(world, seed=SEED)
        session.reset(frames, given[:, :3])
        found.append([session.dream(given[:, i : i + 1]) for i in range(3, 8)])
    same = [torch.equal(one, two) for one, two in zip(*found, strict=True)]
    assert same == [True, True, False, False, False]


def test_a_rollout_does_not_depend_on_its_neighbours() -> None:
    world, action = tiny_world.world(), some_action(3, 7)
    frames = some_frames(3, 3)
    many, one = WorldSession(world, seed=SEED, batch=3), WorldSession(world, seed=SEED, batch=1)
    many.reset(frames, action[:, :3])
    one.reset(frames[:1], action[:1, :3])
    for i in range(3, 7):
        alone = one.dream(action[:1, i : i + 1])
        torch.testing.assert_close(many.dream(action[:, i : i + 1])[:1], alone, atol=1e-4, rtol=1e-4)


def test_rollouts_of_one_session_have_noise_of_their_own() -> None:
    session = WorldSession(tiny_world.world(), seed=SEED, batch=2)
    frames, action = some_frames(1, 3).repeat(2, 1, 1, 1, 1), Action.concatenate([some_action(1, 4)] * 2, 0)
    session.reset(frames, action[:, :3])
    one, other = session.dream(action[:, 3:])
    assert not torch.allclose(one, other, atol=1e-2)


def test_teacher_and_number_of_steps_are_chosen() -> None:
    world = tiny_world.world()
    assert WorldSession(world, model="teacher").times.tolist() == time_grid(4, CARD.shift).tolist()
    assert len(WorldSession(world).times) == 3
    assert len(WorldSession(world, num_steps=5).times) == 6
    assert not torch.equal(rollout(WorldSession(world, model="teacher")), rollout(WorldSession(world)))


def test_networks_in_bfloat16_roll_out() -> None:
    world = tiny_world.world(dataclasses.replace(CARD, guidance_scale=1.5))
    low = dataclasses.replace(
        world,
        vae=tiny_world.vae().to(torch.bfloat16),
        models={"student": tiny_world.denoiser(1).to(torch.bfloat16)},
    )
    exact, rough = rollout(WorldSession(world)).float(), rollout(WorldSession(low)).float()
    assert (exact[:, 0] - rough[:, 0]).abs().mean() < 3
    assert (exact[:, 1] - rough[:, 1]).abs().mean() < 10


@pytest.mark.parametrize("sampler", ["euler", "heun", "consistency"])
def test_all_is_drawn_and_kept_on_the_device_of_the_model(sampler: str) -> None:
    """The meta device stands for a GPU: operations that mix it with the CPU fail there as they would on one."""
    world = tiny_world.world(dataclasses.replace(CARD, sampler=sampler, guidance_scale=1.5))
    moved = dataclasses.replace(world, vae=world.vae.to("meta"), models={"student": world.models["student"].to("meta")})
    session = WorldSession(moved, num_steps=2, batch=BATCH)
    action = some_action(BATCH, CONTEXT + 2)
    session.reset(some_frames(BATCH, CONTEXT), action[:, :CONTEXT].to("meta"))
    for i in range(CONTEXT, CONTEXT + 2):
        assert session.step(action[:, i : i + 1].to("meta")).device.type == "meta"


def test_a_session_that_cannot_be_is_refused_in_a_line() -> None:
    world = tiny_world.world()
    with pytest.raises(ValueError, match="this world has no pupil; it has student, teacher"):
        WorldSession(world, model="pupil")
    with pytest.raises(ValueError, match="num_steps is 0"):
        WorldSession(world, num_steps=0)


def test_what_does_not_fit_a_session_is_refused_in_a_line() -> None:
    session, action = WorldSession(tiny_world.world(), batch=2), some_action(2, 3)
    with pytest.raises(ValueError, match="reset comes before step"):
        session.step(action[:, :1])
    with pytest.raises(ValueError, match="3 clips of 3 frames given to a session of 2"):
        session.reset(some_frames(3, 3), action)
    with pytest.raises(ValueError, match="frames of 8x24 pixels given to a world of 16x24"):
        session.reset(some_frames(2, 3)[..., :8, :], action)
    with pytest.raises(ValueError, match=r"actions of shape \(2, 2\) given where \(2, 3\) are needed"):
        session.reset(some_frames(2, 3), action[:, :2])
    session.reset(some_frames(2, 3), action)
    with pytest.raises(ValueError, match=r"actions of shape \(1, 1\) given where \(2, 1\) are needed"):
        session.step(action[:1, :1])
