"""Policies repeat themselves exactly, never do the impossible, and people are busy with everything."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pydantic
import pytest

from data_pipeline.controls import Controls, ControlsLog, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.environments.environment import Target
from data_pipeline.policies import HumanPolicyConfig, Policy, PolicyConfig, RandomPolicyConfig, ScriptedPolicyConfig

HUMAN, RANDOM = HumanPolicyConfig(), RandomPolicyConfig()


def play(policy: Policy, env: DesktopSim, seed: int, frames: int) -> tuple[list[Controls], list[dict[str, Any]]]:
    info = env.reset(seed=seed)[1]
    policy.reset(env, seed)
    actions, infos = [], []
    for _ in range(frames):
        actions.append(policy.act(env, info))
        info = env.step(actions[-1])[4]
        infos.append(info)
    return actions, infos


@pytest.mark.parametrize("kind", [HUMAN, RANDOM], ids=["human", "random"])
def test_same_seed_same_actions(kind: HumanPolicyConfig | RandomPolicyConfig) -> None:
    env, policy = DesktopSimConfig().build(), kind.build()
    first = play(policy, env, 3, 150)[0]
    assert play(policy, env, 4, 150)[0] != first
    assert play(policy, env, 3, 150)[0] == first
    assert (policy.name, policy.seed) == (kind.kind, 3)


@pytest.mark.parametrize("kind", [HUMAN, RANDOM, HumanPolicyConfig(pace=2.5)], ids=["human", "random", "slow"])
def test_actions_are_possible(kind: HumanPolicyConfig | RandomPolicyConfig) -> None:
    env = DesktopSimConfig(buttons=("left", "right")).build()
    for seed in range(5):
        log = ControlsLog(env.action_space, 96, 64)
        for controls in play(kind.build(), env, seed, 300)[0]:
            log.row(controls)


def test_people_do_everything_often() -> None:
    env, policy = DesktopSimConfig().build(), HUMAN.build()
    counts: Counter[str] = Counter()
    idle = 0
    for seed in range(15):
        actions, infos = play(policy, env, seed, 200)
        counts.update(event for info in infos for event in info["events"])
        idle += sum(not b.events and a.pointer == b.pointer for a, b in itertools.pairwise(actions))
    kinds = ("open", "close", "minimise", "restore", "raise", "drag", "type", "click")
    assert all(counts[kind] >= 45 for kind in kinds), counts  # of 3,000 frames
    assert 0.05 < idle / 3000 < 0.2


def test_people_move_smoothly_and_stop_on_the_target() -> None:
    env = DesktopSimConfig().build()
    calm = HumanPolicyConfig(overshoot=0.0, rest=0.0, wander=0.0, drag_frames=(8, 8), move_frames=(6, 6), double=0.0)
    policy = calm.build()
    info = env.reset(seed=1)[1]
    policy.reset(env, 1)
    speeds = []
    for _ in range(400):
        aims = env.targets()
        at = info["pointer"]
        controls = policy.act(env, info)
        info = env.step(controls)[4]
        speeds.append(np.hypot(*np.subtract(controls.pointer, at)))
        if Event("press", "left") in controls.events:
            assert any(aim.rect.contains(*controls.pointer) for aim in aims)
    assert max(speeds) < 0.6 * np.hypot(96, 64)


def test_pace_slows_movement() -> None:
    env = DesktopSimConfig().build()
    fast, slow = (
        sum(len(c.events) for c in play(HumanPolicyConfig(pace=pace).build(), env, 0, 600)[0]) for pace in (1.0, 3.0)
    )
    assert slow < 0.7 * fast


class Unknown(DesktopSim):
    """A desktop that does not say what is on it, as a real one."""

    def targets(self) -> list[Target]:
        return []


def test_people_find_things_on_a_screen_that_names_none() -> None:
    env = Unknown(DesktopSimConfig())
    actions, _ = play(HUMAN.build(), env, 0, 1000)
    targets = Counter(event.target for controls in actions for event in controls.events if event.kind == "press")
    assert targets["left"] > 50
    assert sum(targets.values()) - targets["left"] > 50


def test_a_weight_of_nothing_is_never() -> None:
    never = HumanPolicyConfig(
        weights=dict.fromkeys(("open", "close", "minimise", "restore", "raise", "drag", "type"), 0.0)
    )
    infos = play(never.build(), DesktopSimConfig().build(), 0, 500)[1]
    assert {event for info in infos for event in info["events"]} <= {"click", "hover"}


def test_a_script_repeats_a_recording() -> None:
    env = DesktopSimConfig().build()
    actions, infos = play(HUMAN.build(), env, 9, 60)
    script = ScriptedPolicyConfig(steps=tuple(controls.to_dict() for controls in actions)).build()
    again, seen = play(script, env, 9, 63)
    assert again[:60] == actions
    assert seen[:60] == infos
    assert again[60:] == [Controls(actions[-1].pointer)] * 3


def test_a_script_can_begin_again() -> None:
    steps = ({"pointer": [1, 2]}, {"pointer": [3, 4]})
    again = play(ScriptedPolicyConfig(steps=steps, repeat=True).build(), DesktopSimConfig().build(), 0, 5)[0]
    assert [controls.pointer for controls in again] == [(1, 2), (3, 4), (1, 2), (3, 4), (1, 2)]


def test_policies_are_chosen_by_kind() -> None:
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(PolicyConfig)
    for kind in ("human", "random", "scripted"):
        assert adapter.validate_python({"kind": kind}).build().name == kind


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HumanPolicyConfig(pace=0.0).build(), "pace"),
        (lambda: HumanPolicyConfig(move_frames=(4, 2)).build(), "move_frames"),
        (lambda: HumanPolicyConfig(weights={"open": -1.0}).build(), "weights"),
        (lambda: ScriptedPolicyConfig(steps=({"at": [1, 2]},)).build(), "pointer"),
    ],
)
def test_impossible_policies_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
