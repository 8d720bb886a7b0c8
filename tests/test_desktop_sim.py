"""The simulated desktop keeps its laws: determinism, hidden state, places, the cursor, scale, refusals."""

import json
from typing import Any

import numpy as np
import pytest

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_apps import APPS
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.environments.environment import Rect
from data_pipeline.policies import HumanPolicyConfig, RandomPolicyConfig
from wm import config

PRESS, RELEASE = Event("press", "left"), Event("release", "left")
AWAY = (90, 2)  # bare wallpaper, when the windows are where they open


def desktop(windows: tuple[str, ...] = (), **fields: Any) -> DesktopSim:
    env = DesktopSimConfig(**fields).build()
    env.reset(seed=0, options={"windows": windows, "pointer": AWAY})
    return env


def state(env: DesktopSim, away: tuple[int, int] = AWAY) -> dict[str, Any]:
    """The truth, after the pointer has gone away."""
    found: dict[str, Any] = env.step(Controls(away))[4]["state"]
    return found


def click(env: DesktopSim, x: int, y: int) -> tuple[np.ndarray, list[str]]:
    """Press and release at (x, y), then go away: the frame without the hand's traces, and what the press caused."""
    events = env.step(Controls((x, y), (PRESS,)))[4]["events"]
    env.step(Controls((x, y), (RELEASE,)))
    return env.step(Controls(AWAY))[0], events


def centre(rect: Rect) -> tuple[int, int]:
    return rect.x + rect.w // 2, rect.y + rect.h // 2


def target(env: DesktopSim, kind: str, number: int = 0) -> tuple[int, int]:
    return centre([t for t in env.targets() if t.kind == kind][number].rect)


def launcher(app: str) -> tuple[int, int]:
    return 8 + 16 * list(APPS).index(app), 60


def write(env: DesktopSim, codes: tuple[str, ...]) -> None:
    for code in codes:
        env.step(Controls(AWAY, (Event("press", code), Event("release", code))))


def test_same_seed_same_frames() -> None:
    def play() -> tuple[list[bytes], list[str]]:
        env, policy = DesktopSimConfig().build(), RandomPolicyConfig().build()
        frame, info = env.reset(seed=5)
        policy.reset(env, 6)
        frames, infos = [frame.tobytes()], [json.dumps(info)]
        for _ in range(200):
            frame, reward, terminated, truncated, info = env.step(policy.act(env, info))
            assert (frame.shape, frame.dtype, reward, terminated, truncated) == (
                (64, 96, 3),
                np.uint8,
                0.0,
                False,
                False,
            )
            frames.append(frame.tobytes())
            infos.append(json.dumps(info))
        return frames, infos

    first = play()
    assert first == play()
    assert len(set(first[0])) > 100


def test_seeds_give_many_beginnings() -> None:
    env = DesktopSimConfig().build()
    states = [env.reset(seed=seed)[1]["state"] for seed in range(60)]
    assert {len(s["windows"]) for s in states} == {0, 1, 2, 3}
    assert any(w["minimised"] for s in states for w in s["windows"])
    assert any(w["contents"].get("text") for s in states for w in s["windows"])
    assert len({tuple(s["pointer"]) for s in states}) > 50


def test_idle_steps_change_nothing() -> None:
    env = DesktopSimConfig().build()
    for seed in range(20):
        before, info = env.reset(seed=seed)
        after, *_, later = env.step(Controls(info["pointer"]))
        assert np.array_equal(before, after)
        assert later == {**info, "events": []}


def test_minimise_and_restore_give_the_same_picture() -> None:
    env = desktop(("tasks", "notes"))
    write(env, ("KeyA", "KeyL", "Enter", "KeyX"))
    before = env.render()
    click(env, *launcher("colors"))
    click(env, *target(env, "close", -1))
    assert np.array_equal(env.render(), before)
    hidden, events = click(env, *launcher("notes"))
    assert events == ["minimise"]
    assert not np.array_equal(hidden, before)
    shown, events = click(env, *launcher("notes"))
    assert events == ["restore"]
    assert np.array_equal(shown, before)


def test_close_forgets_and_reopens_at_the_same_place() -> None:
    env = desktop()
    fresh, events = click(env, *launcher("notes"))
    assert events == ["open"]
    home = state(env)["windows"][0]["rect"]
    env.step(Controls(target(env, "drag"), (PRESS,)))
    env.step(Controls((70, 40), (RELEASE,)))
    write(env, ("KeyS", "KeyT"))
    assert state(env)["windows"][0]["rect"] != home
    assert state(env)["windows"][0]["contents"] == {"text": "ST"}
    _, events = click(env, *target(env, "close"))
    assert events == ["close"]
    assert state(env)["windows"] == []
    again, _ = click(env, *launcher("notes"))
    assert np.array_equal(again, fresh)


def test_drag_there_and_back_restores_the_picture() -> None:
    rng = np.random.default_rng(0)
    env = desktop(("tasks", "notes", "colors"))
    before = env.render()
    for _ in range(30):
        grip = target(env, "drag", -1)
        env.step(Controls(grip, (PRESS,)))
        for _ in range(3):
            info = env.step(Controls((int(rng.integers(96)), int(rng.integers(64)))))[4]
            x, y, w, h = info["state"]["windows"][-1]["rect"]
            assert x % 4 == y % 4 == 0
            assert 0 <= x <= 96 - w
            assert 0 <= y <= 55 - h
        env.step(Controls(grip, (RELEASE,)))
        assert np.array_equal(env.step(Controls(AWAY))[0], before)


@pytest.mark.parametrize("scale", [1, 3])
def test_cursor_lies_on_the_pointer(scale: int) -> None:
    env = DesktopSimConfig(height=64 * scale, width=96 * scale, scale=scale).build()
    sprites = {sprite.name: sprite for sprite in env.cursors()}
    rng = np.random.default_rng(0)
    env.reset(options={"windows": ["notes", "tasks"]})
    seen = set()
    for _ in range(300):
        at = (int(rng.integers(96 * scale)), int(rng.integers(64 * scale)))
        frame, *_, info = env.step(Controls(at))
        sprite = sprites[info["state"]["cursor"]]
        seen.add(sprite.name)
        ys, xs = np.nonzero(sprite.rgba[..., 3])
        rows, columns = ys + at[1] - sprite.hotspot[1], xs + at[0] - sprite.hotspot[0]
        inside = (rows >= 0) & (rows < frame.shape[0]) & (columns >= 0) & (columns < frame.shape[1])
        assert np.array_equal(frame[rows[inside], columns[inside]], sprite.rgba[ys[inside], xs[inside], :3])
    assert seen == {"arrow", "text", "hand"}


def test_a_larger_scale_shows_the_same_desktop_enlarged() -> None:
    small, large = desktop(("notes", "colors")), DesktopSimConfig(height=256, width=384, scale=4, snap=16).build()
    large.reset(options={"windows": ("notes", "colors"), "pointer": (AWAY[0] * 4, AWAY[1] * 4)})
    for env, factor in ((small, 1), (large, 4)):
        env.step(Controls((8 * factor, 60 * factor), (PRESS,)))
        env.step(Controls((95 * factor, 60 * factor), (RELEASE, Event("press", "KeyE"))))
    x, y, w, h = state(small)["windows"][-1]["rect"]
    assert state(large, (AWAY[0] * 4, AWAY[1] * 4))["windows"][-1]["rect"] == [4 * n for n in (x, y, w, h)]
    window = small.render()[y : y + h, x : x + w].repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(large.render()[4 * y : 4 * (y + h), 4 * x : 4 * (x + w)], window)


def test_512x384_works() -> None:
    env, policy = DesktopSimConfig(height=384, width=512, scale=4).build(), HumanPolicyConfig().build()
    frame, info = env.reset(seed=1)
    policy.reset(env, 1)
    for _ in range(100):
        frame, *_, info = env.step(policy.act(env, info))
    assert frame.shape == (384, 512, 3)


def test_notes_hold_what_a_page_holds() -> None:
    env = desktop(("notes",))
    write(env, ("KeyA",) * 40)
    text = state(env)["windows"][0]["contents"]["text"]
    full = env.render()
    assert 20 <= len(text) < 40
    write(env, ("KeyS", "Enter"))
    assert np.array_equal(env.render(), full)
    write(env, ("Backspace",) * 50)
    assert np.array_equal(env.render(), desktop(("notes",)).render())


def test_letters_go_to_the_focused_application_only() -> None:
    env = desktop(("notes", "tasks"))
    info = env.step(Controls(AWAY, (Event("press", "KeyA"),)))[4]
    assert info["events"] == []
    assert info["state"]["focus"] == "tasks"


def test_frames_are_the_callers_own() -> None:
    env = desktop(("notes",))
    env.render()[:] = 0
    assert np.array_equal(env.render(), desktop(("notes",)).render())


def test_configs_round_trip() -> None:
    value = DesktopSimConfig(height=384, width=512, scale=4, keys=("KeyQ", "Space"))
    assert config.from_dict(DesktopSimConfig, config.to_dict(value)) == value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 30}, "at least 49x39"),
        ({"scale": 0}, "at least 1"),
        ({"snap": 0}, "at least 1"),
        ({"window_width": 20}, "cuts its contents off"),
        ({"initial_windows": 9}, "initial_windows"),
        ({"fps": 0.0}, "fps"),
    ],
)
def test_impossible_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DesktopSimConfig(**fields).build()


def test_impossible_input_is_refused_and_changes_nothing() -> None:
    env = desktop(("notes",))
    before = env.render()
    for bad in (Controls((96, 0)), Controls((0, 0), (PRESS, Event("press", "KeyZ")))):
        with pytest.raises(ValueError, match=r"outside the 96x64 screen|KeyZ"):
            env.step(bad)
        assert np.array_equal(env.render(), before)
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(options={"window": 1})
    with pytest.raises(ValueError, match="browser"):
        env.reset(options={"windows": ["browser"]})
