"""The full desktop keeps its laws: repeatable, what it says is what it shows, every target does what it says."""

import copy
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.environments.environment import CursorSprite, Target
from data_pipeline.environments.full_desktop.environment import KNOWN_KEYS, FullDesktop
from data_pipeline.environments.full_desktop.transitions import GESTURES, TRANSITIONS
from data_pipeline.policies import HumanPolicyConfig, RandomPolicyConfig
from wm import config

PRESS, RELEASE = Event("press", "left"), Event("release", "left")
SIZES = {"256x192": {"width": 256, "height": 192, "scale": 1}, "512x384": {"width": 512, "height": 384, "scale": 2}}
CALM = HumanPolicyConfig(rest=0.0, wander=0.0, move_frames=(1, 1))


def desktop(size: str = "256x192", **fields: Any) -> FullDesktop:
    settings = {"profile": "full", "keys": KNOWN_KEYS, **SIZES[size], **fields}
    env = DesktopSimConfig(**settings).build()
    assert isinstance(env, FullDesktop)
    return env


def played(env: FullDesktop, policy: Any, seed: int, frames: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    found = [env.reset(seed=seed)]
    kind = policy.build()
    kind.reset(env, seed)
    for _ in range(frames):
        frame, *_, info = env.step(kind.act(env, found[-1][1]))
        found.append((frame, info))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_same_seed_same_frames(size: str) -> None:
    def trace() -> list[tuple[bytes, str]]:
        return [(frame.tobytes(), json.dumps(info)) for frame, info in played(desktop(size), CALM, 5, 40)]

    first = trace()
    assert first == trace()
    assert len({frame for frame, _ in first}) > 25


def test_idle_steps_change_nothing() -> None:
    env = desktop(initial_windows=6)
    for seed in range(8):
        before, info = env.reset(seed=seed)
        after, *_, later = env.step(Controls(info["pointer"]))
        assert np.array_equal(before, after)
        assert later == {**info, "events": []}


@pytest.mark.parametrize("policy", [CALM, RandomPolicyConfig(jump=0.6, toggle=0.5)], ids=["human", "random"])
def test_a_frame_is_a_function_of_the_state_and_changes_by_events_only(policy: Any) -> None:
    env = desktop()
    seen: dict[str, bytes] = {}
    sprites = {sprite.name: sprite for sprite in env.cursors()}
    for seed in range(2):
        for (before, old), (frame, info) in itertools.pairwise(played(env, policy, seed, 80)):
            assert set(info["events"]) <= set(TRANSITIONS)
            state = json.dumps({k: v for k, v in info["state"].items() if k not in ("held", "gripped")})
            assert seen.setdefault(state, frame.tobytes()) == frame.tobytes()
            differs = (frame != before).any(-1)
            for at in (old, info):
                differs[cursor_area(sprites, at)] = False
            assert not differs.any() or info["events"]
            if set(info["events"]) <= {"hover"}:
                assert _without_hover(old["state"]) == _without_hover(info["state"])


def _without_hover(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in state.items() if name not in ("pointer", "cursor", "hover", "held", "gripped")
    }


def cursor_area(sprites: dict[str, CursorSprite], info: dict[str, Any]) -> tuple[slice, slice]:
    sprite, (x, y) = sprites[info["state"]["cursor"]], info["pointer"]
    left, top = x - sprite.hotspot[0], y - sprite.hotspot[1]
    height, width = sprite.rgba.shape[:2]
    return slice(max(top, 0), top + height), slice(max(left, 0), left + width)


def test_kept_pictures_are_those_that_would_be_drawn() -> None:
    env = desktop()
    for seed in range(4):
        played(env, CALM, seed, 60)
        fresh = copy.deepcopy(env)
        fresh._painter = type(env._painter)(256, 192, 1, kept=1)
        assert np.array_equal(fresh.render(), env.render())


def test_a_larger_scale_shows_the_same_desktop_enlarged() -> None:
    small, large = desktop(snap=4), desktop("512x384", snap=8)
    kind = CALM.build()
    info = small.reset(seed=4)[1]
    large.reset(seed=4, options={"pointer": [2 * n for n in info["pointer"]]})
    kind.reset(small, 1)
    for _ in range(60):
        controls = kind.act(small, info)
        frame, *_, info = small.step(controls)
        x, y = controls.pointer
        other, *_, told = large.step(Controls((2 * x, 2 * y), controls.events))
        assert np.array_equal(other, frame.repeat(2, axis=0).repeat(2, axis=1))
        assert told["state"] == info["state"]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_of_a_target_does_what_the_target_says(size: str) -> None:
    env = desktop(size, initial_windows=5)
    seen: Counter[str] = Counter()
    policy = CALM.build()
    for seed in range(3):
        info = env.reset(seed=seed)[1]
        policy.reset(env, seed)
        for frame in range(90):
            info = env.step(policy.act(env, info))[4]
            if frame % 30 == 7:
                env.step(Controls(info["pointer"], (RELEASE,)))
                for aim in env.targets():
                    seen[aim.kind] += 1
                    assert aim.name
                    assert_does(env, aim, seen[aim.kind])
    assert set(seen) <= set(TRANSITIONS) | set(GESTURES)
    assert {"open", "close", "minimise", "maximise", "raise", "drag", "menu", "click", "select", "resize"} <= set(seen)


def assert_does(start: FullDesktop, aim: Target, number: int) -> None:
    x, y, w, h = aim.rect
    assert w > 0
    assert h > 0
    corners = ((x, y), (x + w - 1, y), (x, y + h - 1), (x + w - 1, y + h - 1), (x + w // 2, y + h // 2))
    for at in (corners[number % 4], corners[4]):
        env = copy.deepcopy(start)
        before = env.step(Controls(at))[4]["state"]
        if aim.kind == "wheel":
            turns = [env.step(Controls(at, (Event("wheel", dy=dy),)))[4]["events"] for dy in (1.0, -1.0, -1.0)]
            assert ["scroll"] in turns
            continue
        info = env.step(Controls(at, (PRESS,)))[4]
        if aim.kind == "type":
            assert "type" in env.step(Controls(at, (RELEASE, Event("press", "KeyA"))))[4]["events"]
        elif aim.kind in ("drag", "resize"):
            assert info["state"]["cursor"] == {"drag": "move", "resize": "resize"}[aim.kind]
            ends = [(0, 0), (start.size.width - 1, start.size.height - 1)]
            assert any(aim.kind in copy.deepcopy(env).step(Controls(end))[4]["events"] for end in ends)
        elif aim.kind == "draw":
            drawn = [info["events"], *(env.step(Controls(end))[4]["events"] for end in corners[:4])]
            assert any("draw" in events for events in drawn) or leaves_no_trace(before)
        elif aim.kind == "close":
            assert {"close", "dialog"} & set(info["events"])
        else:
            assert aim.kind in info["events"], (aim, at, info["events"])


def leaves_no_trace(state: dict[str, Any]) -> bool:
    """Whether the tool in hand may find nothing to change: white on white, or filling with what is there."""
    contents = next(window["contents"] for window in state["windows"] if window["number"] == state["focus"])
    return contents["tool"] in ("eraser", "fill") or contents["ink"] == 0


@pytest.mark.slow
def test_people_do_everything() -> None:
    env = desktop()
    counts: Counter[str] = Counter()
    for seed in range(12):
        for _, info in played(env, CALM, seed, 200):
            counts.update(info["events"])
    rare = {"save", "create", "delete", "view", "undo"}
    assert all(counts[kind] >= 3 for kind in set(TRANSITIONS) - rare), counts
    assert sum(counts[kind] for kind in rare) >= 3


def test_a_dialog_is_answered_before_its_window_is_used() -> None:
    env = desktop()
    env.reset(seed=0, options={"windows": [["editor", ""]]})
    env.step(Controls((200, 90), (Event("press", "KeyA"),)))
    close = next(target for target in env.targets() if target.kind == "close").rect
    events = env.step(Controls((close.x + 3, close.y + 3), (PRESS,)))[4]["events"]
    assert events == ["dialog"]
    kinds = Counter(target.kind for target in env.targets() if target.name.startswith("editor"))
    assert kinds == {"answer": 3, "drag": 1}
    assert env.step(Controls((200, 90), (Event("press", "KeyB"),)))[4]["events"] in ([], ["hover"])
    *_, info = env.step(Controls((200, 90), (Event("press", "Escape"),)))
    assert info["events"] == ["answer"]
    assert info["state"]["windows"][0]["contents"]["text"] == "a"


def test_a_menu_goes_away_by_a_press_elsewhere_and_swallows_it() -> None:
    env = desktop()
    env.reset(seed=0, options={"windows": [["calculator", ""]]})
    menu = next(target for target in env.targets() if target.name == "calculator: menu Help").rect
    assert env.step(Controls((menu.x + 2, menu.y + 2), (PRESS, RELEASE)))[4]["events"] == ["menu"]
    close = (250, 170)
    info = env.step(Controls(close, (PRESS, RELEASE)))[4]
    assert info["events"] == ["dismiss"]
    assert len(info["state"]["windows"]) == 1


def test_what_is_saved_is_in_the_folder_and_opens_as_it_was() -> None:
    env = desktop()
    env.reset(seed=0, options={"windows": [["editor", ""]]})
    for code in ("KeyH", "KeyI", "Enter", "Digit7"):
        env.step(Controls((200, 90), (Event("press", code), Event("release", code))))
    editor = env._desktop.windows[-1].app
    assert editor.choose("File", "Save") == ["save"]
    assert env._desktop.launch("files", "Documents") == ["open"]
    files = env._desktop.windows[-1].app
    assert editor.document in files._entries()
    assert env._desktop.close(editor) == ["close"]
    assert files._open(editor.document) == ["open"]
    assert env._desktop.windows[-1].app.contents()["text"] == "hi\n7"
    files.selected = editor.document
    assert files.answer("delete", "Delete", "") == ["delete"]
    assert editor.document not in files._entries()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 200}, "at least 256x192"),
        ({"scale": 3}, "multiples of scale 3"),
        ({"keys": ("KeyA", "F13")}, "F13"),
        ({"initial_windows": 9}, "initial_windows is 9"),
    ],
)
def test_impossible_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        desktop(**fields)


def test_impossible_input_is_refused_and_changes_nothing() -> None:
    env = desktop(keys=("KeyA",))
    before = env.reset(seed=1)[0]
    for bad in (Controls((256, 0)), Controls((0, 0), (PRESS, Event("press", "KeyZ")))):
        with pytest.raises(ValueError, match=r"outside the 256x192 screen|KeyZ"):
            env.step(bad)
        assert np.array_equal(env.render(), before)
    with pytest.raises(ValueError, match="on the disk"):
        env.reset(options={"windows": [["editor", "Nowhere.txt"]]})


def test_configs_round_trip() -> None:
    value = DesktopSimConfig(profile="full", height=384, width=512, scale=2)
    assert config.from_dict(DesktopSimConfig, config.to_dict(value)) == value
