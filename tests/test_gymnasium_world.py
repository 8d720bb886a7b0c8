"""Gymnasium's environments as ours: what a key does is what the environment does for that action, frame by frame."""

from typing import Any

import numpy as np
import pytest

from data_pipeline.controls import Controls, ControlsLog, Event
from data_pipeline.environments.gymnasium_world import GymnasiumConfig
from data_pipeline.environments.registry import EnvironmentConfig
from data_pipeline.policies import HoldPolicyConfig
from data_pipeline.record import record
from data_pipeline.schema import check
from launch.run_config import load_run
from wm.batch import HELD, PRESSED, RELEASED, ActionSpace
from wm.config import config, from_dict

gymnasium = pytest.importorskip("gymnasium", reason="games are an optional extra: pip install 'wm[games]'")

RACE = GymnasiumConfig(
    id="CarRacing-v3",
    keys={"ArrowLeft": (-1, 0, 0), "ArrowRight": (1, 0, 0), "ArrowUp": (0, 1, 0), "ArrowDown": (0, 0, 0.8)},
    height=48,
    width=72,
    repeat=3,
)


def press(*keys: str) -> Controls:
    return Controls((0, 0), tuple(Event("press", key) for key in keys))


def release(*keys: str) -> Controls:
    return Controls((0, 0), tuple(Event("release", key) for key in keys))


def frames_of(settings: GymnasiumConfig, steps: list[Controls], seed: int = 3) -> np.ndarray:
    world = settings.build()
    frames = [world.reset(seed=seed)[0], *(world.step(step)[0] for step in steps)]
    world.close()
    return np.stack(frames)


def test_a_race_is_what_the_environment_draws_for_the_same_actions() -> None:
    pytest.importorskip("Box2D", reason="CarRacing needs Box2D: pip install 'wm[games]'")
    steps = [
        *[Controls((0, 0))] * 5,
        press("ArrowUp"),
        press("ArrowLeft"),
        Controls((0, 0)),
        release("ArrowUp", "ArrowLeft"),
    ]
    steps += [press("ArrowDown")]
    actions = [(0, 0, 0)] * 5 + [(0, 1, 0), (-1, 1, 0), (-1, 1, 0), (0, 0, 0), (0, 0, 0.8)]
    made = frames_of(RACE, steps)
    assert made.shape == (11, 48, 72, 3)
    theirs = gymnasium.make("CarRacing-v3", render_mode="rgb_array")
    theirs.reset(seed=3)
    whole = frames_of(GymnasiumConfig(id=RACE.id, keys=RACE.keys, repeat=3), steps)
    for action, frame in zip(actions, whole[1:], strict=True):
        for _ in range(3):
            theirs.step(np.array(action, np.float32))
        assert np.array_equal(frame, theirs.render())
    assert len({frame.tobytes() for frame in made}) > 3  # the race begins with a zoom, then the car moves
    assert np.abs(made.mean((1, 2)) - whole.mean((1, 2))).max() < 1.0  # scaled, not cut
    assert RACE.build().action_space == ActionSpace(pointer="none", keys=tuple(RACE.keys), fps=50 / 3)


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_the_same_seed_and_controls_give_the_same_frames(name: str) -> None:
    pytest.importorskip("pygame", reason="classic control draws with pygame: pip install 'wm[games]'")
    settings = GymnasiumConfig(id=name, height=40, width=60)
    policy = HoldPolicyConfig().build()
    one, two = (record(settings.build(), policy, 30, 5, "a") for _ in range(2))
    other = record(settings.build(), policy, 30, 6, "b")
    check(one)
    assert np.array_equal(one.video, two.video)
    assert all(np.array_equal(one.actions[key], two.actions[key]) for key in one.actions)
    assert not np.array_equal(one.video[:5], other.video[:5])
    assert one.meta["environment"] == name
    assert len({frame.tobytes() for frame in one.video}) > 5


def test_keys_of_a_discrete_space() -> None:
    pytest.importorskip("pygame", reason="classic control draws with pygame: pip install 'wm[games]'")
    world = GymnasiumConfig(id="CartPole-v1").build()
    assert world.action_space.keys == ("Digit0", "Digit1")
    named = GymnasiumConfig(id="CartPole-v1", keys={"ArrowRight": (1,), "ArrowLeft": (0,)}, idle=(1,))
    left, right = press("ArrowLeft"), press("ArrowRight")
    both, idle = press("ArrowLeft", "ArrowRight"), Controls((0, 0))
    assert np.array_equal(frames_of(named, [right]), frames_of(named, [idle]))
    assert np.array_equal(frames_of(named, [right]), frames_of(named, [both]))
    assert not np.array_equal(frames_of(named, [right, idle]), frames_of(named, [left, idle]))
    tapped = Controls((0, 0), (Event("press", "ArrowLeft"), Event("release", "ArrowLeft")))
    assert np.array_equal(frames_of(named, [left]), frames_of(named, [tapped]))
    assert not np.array_equal(frames_of(named, [left, idle, idle]), frames_of(named, [tapped, idle, idle]))


def test_axes_of_a_box_reach_both_of_its_ends() -> None:
    pytest.importorskip("pygame", reason="classic control draws with pygame: pip install 'wm[games]'")
    world = GymnasiumConfig(id="Pendulum-v1").build()
    assert world.action_space.axes == ("axis.0",)
    assert world._space.action(set(), (-1.0,)).tolist() == [-2.0]
    assert world._space.action(set(), (0.5,)).tolist() == [1.0]
    assert world._space.action(set(), ()).tolist() == [0.0]
    row = ControlsLog(world.action_space, 10, 10).row(Controls((5, 5), axes=(0.25,)))
    assert row["axes"].tolist() == [0.25]
    with pytest.raises(ValueError, match="each in"):
        ControlsLog(world.action_space, 10, 10).row(Controls((5, 5), axes=(1.5,)))
    assert Controls.from_dict(Controls((1, 2), axes=(0.5,)).to_dict()) == Controls((1, 2), axes=(0.5,))


def test_an_episode_ends_the_recording_or_goes_on_as_another() -> None:
    pytest.importorskip("pygame", reason="classic control draws with pygame: pip install 'wm[games]'")
    policy = HoldPolicyConfig(frames=(40, 40)).build()
    short = record(GymnasiumConfig(id="CartPole-v1").build(), policy, 60, 1, "short")
    assert len(short) < 30
    assert short.meta["events"][-1] == ["end"]
    long = record(GymnasiumConfig(id="CartPole-v1", restart=True).build(), policy, 60, 1, "long")
    assert len(long) == 60
    assert ["restart"] in long.meta["events"]
    assert long.video is not None
    assert short.video is not None
    assert np.array_equal(long.video[: len(short) - 1], short.video[:-1])


def test_minigrid_knows_its_moves() -> None:
    pytest.importorskip("minigrid", reason="MiniGrid is an optional extra: pip install 'wm[games]'")
    settings = GymnasiumConfig(
        id="MiniGrid-Empty-6x6-v0",
        keys={"ArrowLeft": (0,), "ArrowRight": (1,), "ArrowUp": (2,), "Space": (5,)},
        idle=(6,),
        height=48,
        width=48,
    )
    around = [press("ArrowLeft"), Controls((0, 0)), Controls((0, 0)), Controls((0, 0))]
    frames = frames_of(settings, around)
    assert np.array_equal(frames[0], frames[4])  # four quarter turns
    assert len({frame.tobytes() for frame in frames}) == 4
    idle = frames_of(settings, [Controls((0, 0))] * 3)
    assert all(np.array_equal(frame, idle[0]) for frame in idle)
    moved = frames_of(settings, [press("ArrowUp")])
    changed = np.argwhere((moved[0] != moved[1]).any(-1))
    assert changed[:, 1].max() - changed[:, 1].min() >= 8  # from one cell to the next


def test_holding_is_presses_minus_releases_and_lasts() -> None:
    pytest.importorskip("pygame", reason="classic control draws with pygame: pip install 'wm[games]'")
    settings = GymnasiumConfig(id="CartPole-v1", restart=True, height=10, width=15)
    made = record(settings.build(), HoldPolicyConfig(frames=(4, 6)).build(), 120, 2, "held")
    keys = made.actions["keys"]
    assert np.array_equal(keys[..., HELD], np.cumsum(keys[..., PRESSED] - keys[..., RELEASED], axis=0))
    assert 0.3 < keys[..., HELD].mean() < 0.9
    edges = np.flatnonzero(keys[:, 0, PRESSED] + keys[:, 0, RELEASED])
    assert np.diff(edges).min() >= 4


@config
class _World:
    environment: EnvironmentConfig


def test_a_record_config_names_it(tmp_path: Any) -> None:
    tree = {
        "kind": "gymnasium",
        "id": "CarRacing-v3",
        "keys": {"ArrowUp": [0, 1, 0]},
        "repeat": 2,
        "height": 64,
        "width": 96,
    }
    assert from_dict(_World, {"environment": tree}).environment == GymnasiumConfig(
        id="CarRacing-v3", keys={"ArrowUp": (0, 1, 0)}, repeat=2, height=64, width=96
    )
    path = tmp_path / "record.yaml"
    path.write_text(
        "stage:\n  kind: record\n  environment: {kind: gymnasium, id: CartPole-v1}\n  policy: {kind: hold}\n"
        "  num_recordings: 1\n  num_heldout: 1\n  num_frames: 8\nresources: {num_workers: 1}\n"
    )
    assert load_run(path).stage.environment.id == "CartPole-v1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "os:CartPole-v1"}, "without a module"),
        ({"id": "CartPole-v1", "arguments": {"render_mode": "human"}}, "no id or render_mode"),
        ({"id": "NoSuchWorld-v0"}, "gymnasium cannot make NoSuchWorld-v0"),
        ({"id": "CartPole-v1", "keys": {"KeyA": [7]}}, "key KeyA is .* no action"),
        ({"id": "CartPole-v1", "idle": [0, 1]}, "idle is .* no action"),
        ({"id": "CartPole-v1", "height": 10}, "both"),
        ({"id": "CartPole-v1", "arguments": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_what_cannot_be_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_dict(_World, {"environment": {"kind": "gymnasium", **fields}}).environment.build()
    assert "\n" not in str(caught.value)


def test_a_key_that_it_lacks_is_refused_and_changes_nothing() -> None:
    pytest.importorskip("pygame", reason="classic control draws with pygame: pip install 'wm[games]'")
    world = GymnasiumConfig(id="CartPole-v1").build()
    first, _ = world.reset(seed=0)
    with pytest.raises(ValueError, match="has only the keys"):
        world.step(press("Digit0", "KeyQ"))
    assert np.array_equal(world.render(), first)
    assert not world._held


@pytest.mark.parametrize(
    ("module", "extra", "settings"),
    [
        (
            "vizdoom.gymnasium_wrapper",
            "games",
            GymnasiumConfig(
                id="VizdoomBasic-MultiBinary-v1",
                keys={"KeyA": (1, 0, 0), "KeyD": (0, 1, 0), "Space": (0, 0, 1)},
                repeat=2,
            ),
        ),
        (
            "ale_py",
            "atari",
            GymnasiumConfig(
                id="ALE/Pong-v5",
                keys={"Space": (1,), "ArrowUp": (2,), "ArrowDown": (3,)},
                arguments={"repeat_action_probability": 0.0},
            ),
        ),
    ],
)
def test_games_that_bring_themselves_draw_what_they_draw_for_gymnasium(
    module: str, extra: str, settings: GymnasiumConfig
) -> None:
    pytest.importorskip(module, reason=f"{module} is an optional extra: pip install 'wm[{extra}]'")
    theirs = gymnasium.make(settings.id, render_mode="rgb_array", **settings.arguments)
    theirs.reset(seed=4)
    first, second, *_ = settings.keys
    steps = [press(first), Controls((0, 0)), release(first), press(second)]
    made = frames_of(settings, steps, seed=4)
    assert np.array_equal(made[0], theirs.render())
    idle = (0,) * len(settings.keys[first])
    for frame, done in zip(
        made[1:], (settings.keys[first], settings.keys[first], idle, settings.keys[second]), strict=True
    ):
        for _ in range(settings.repeat):
            theirs.step(np.array(done, np.int8) if len(done) > 1 else int(done[0]))
        assert np.array_equal(frame, theirs.render())
    theirs.close()
    assert np.array_equal(made, frames_of(settings, steps, seed=4))
    assert len({frame.tobytes() for frame in made}) > 2
