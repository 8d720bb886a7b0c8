"""What the simulated desktop says of itself is what it shows: owners of pixels, targets, events."""

import copy
from typing import Any

import numpy as np
import pytest

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.environments.environment import CursorSprite, Target
from data_pipeline.policies import HumanPolicyConfig, RandomPolicyConfig

PRESS = Event("press", "left")


def test_a_press_reaches_the_window_that_is_drawn_there() -> None:
    """Against painting every window's name in the order of stacking, pixel for pixel."""
    start = DesktopSimConfig().build()
    info = start.reset(options={"windows": ("notes", "colors", "tasks"), "pointer": (90, 2)})[1]
    owner = np.full((64, 96), "", dtype=object)
    for window in info["state"]["windows"]:
        x, y, w, h = window["rect"]
        owner[y : y + h, x : x + w] = window["app"]
    for y in range(1, 55, 3):
        for x in range(1, 96, 3):
            env = copy.deepcopy(start)
            info = env.step(Controls((x, y), (PRESS,)))[4]
            if not owner[y, x]:
                assert set(info["events"]) <= {"hover"}
            elif not {"close", "minimise"} & set(info["events"]):
                assert info["state"]["focus"] == owner[y, x]
                assert ("raise" in info["events"]) == (owner[y, x] != "tasks")


@pytest.mark.parametrize("fields", [{}, {"height": 384, "width": 512, "scale": 4}], ids=["96x64", "512x384"])
def test_every_pixel_of_a_target_does_what_the_target_says(fields: dict[str, int]) -> None:
    start = DesktopSimConfig(**fields).build()
    seen = set()
    for seed in range(12):
        start.reset(seed=seed)
        for aim in start.targets():
            seen.add(aim.kind)
            x, y, w, h = aim.rect
            for at in ((x, y), (x + w - 1, y), (x, y + h - 1), (x + w - 1, y + h - 1), (x + w // 2, y + h // 2)):
                assert_does(start, aim, at)
    assert seen == {"open", "close", "minimise", "restore", "raise", "drag", "type", "click"}


def assert_does(start: DesktopSim, aim: Target, at: tuple[int, int]) -> None:
    env = copy.deepcopy(start)
    info = env.step(Controls(at, (PRESS,)))[4]
    if aim.kind == "drag":
        stuck = info["state"]["windows"][-1]["rect"][:2] == [0, 0]
        aside = (start.config.width - 1, start.config.height - 1) if stuck else (0, 0)
        assert info["state"]["cursor"] == "move"
        assert env.step(Controls(aside))[4]["events"] == ["drag"]
    elif aim.kind == "type":
        assert info["state"]["cursor"] == "text"
        codes = (Event("press", "Backspace"), Event("press", "KeyA"))
        assert "type" in env.step(Controls(at, codes))[4]["events"]
    elif aim.kind != "click" or info["state"]["hover"][2] not in ("red", "green", "blue", "gold"):
        assert aim.kind in info["events"]


def expected_events(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = ({w["app"]: w for w in s["windows"]} for s in (before, after))
    events = ["open"] * len(new.keys() - old.keys()) + ["close"] * len(old.keys() - new.keys())
    events += ["type"] * bool("notes" not in old and "notes" in new and new["notes"]["contents"]["text"])
    both = [app for app in old if app in new]
    for app in both:
        if old[app]["minimised"] != new[app]["minimised"]:
            events.append("minimise" if new[app]["minimised"] else "restore")
        if old[app]["rect"] != new[app]["rect"]:
            events.append("drag")
        if old[app]["contents"] != new[app]["contents"]:
            events.append("type" if app == "notes" else "click")
    shown = [app for app in both if not old[app]["minimised"] and not new[app]["minimised"]]
    if shown != [app for app in new if app in shown]:
        events.append("raise")
    if not events and (lit(before), before["cursor"]) != (lit(after), after["cursor"]):
        events.append("hover")
    return sorted(events)


def lit(state: dict[str, Any]) -> list[str] | None:
    return state["hover"] if state["hover"][0] in ("launcher", "minimise", "close", "control") else None


def cursor_area(sprites: dict[str, CursorSprite], info: dict[str, Any]) -> tuple[slice, slice]:
    sprite, (x, y) = sprites[info["state"]["cursor"]], info["pointer"]
    left, top = x - sprite.hotspot[0], y - sprite.hotspot[1]
    height, width = sprite.rgba.shape[:2]
    return slice(max(top, 0), top + height), slice(max(left, 0), left + width)


@pytest.mark.parametrize(
    "kind", [RandomPolicyConfig(jump=0.5, toggle=0.5), HumanPolicyConfig()], ids=["random", "human"]
)
def test_events_and_pixels_agree_with_the_state(kind: RandomPolicyConfig | HumanPolicyConfig) -> None:
    env, policy = DesktopSimConfig().build(), kind.build()
    sprites = {sprite.name: sprite for sprite in env.cursors()}
    for seed in range(10):
        frame, info = env.reset(seed=seed)
        policy.reset(env, seed)
        for _ in range(200):
            before, old = frame, info
            frame, *_, info = env.step(policy.act(env, info))
            expected = expected_events(old["state"], info["state"])
            assert sorted(info["events"]) == expected
            differs = (frame != before).any(axis=-1)
            differs[cursor_area(sprites, old)] = False
            differs[cursor_area(sprites, info)] = False
            assert not differs.any() or expected
