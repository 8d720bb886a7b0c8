"""Rows keep what hands did: held is always the sum of presses minus releases."""

import numpy as np
import pytest

from data_pipeline.controls import Controls, ControlsLog, Event
from wm.batch import HELD, PRESSED, RELEASED, ActionSpace

SPACE = ActionSpace(buttons=("left", "middle"), keys=("KeyA", "KeyB", "Enter"), wheel=True, axes=("throttle",))


def test_rows_have_the_shapes_of_the_space() -> None:
    row = ControlsLog(SPACE, 11, 7).row(Controls((0, 0)))
    assert {name: value.shape for name, value in row.items()} == {
        "pointer": (2,),
        "buttons": (2, 3),
        "keys": (3, 3),
        "wheel": (2,),
        "axes": (1,),
    }
    assert all(value.dtype == np.float32 for value in row.values())


def test_held_changes_by_presses_minus_releases() -> None:
    rng, names = np.random.default_rng(0), (*SPACE.buttons, *SPACE.keys)
    log, held, before = ControlsLog(SPACE, 11, 7), set[str](), np.zeros(5)
    for _ in range(300):
        events = []
        for _ in range(int(rng.integers(4))):
            name = names[int(rng.integers(len(names)))]
            events.append(Event("release" if name in held else "press", name))
            held ^= {name}
        row = log.row(Controls((0, 0), tuple(events)))
        rows = np.concatenate([row["buttons"], row["keys"]])
        assert np.array_equal(rows[:, HELD] - before, rows[:, PRESSED] - rows[:, RELEASED])
        assert {name for name, on in zip(names, rows[:, HELD], strict=True) if on} == held
        before = rows[:, HELD]


def test_a_click_within_one_interval_is_seen_though_nothing_is_held() -> None:
    row = ControlsLog(SPACE, 11, 7).row(Controls((0, 0), (Event("press", "left"), Event("release", "left"))))
    assert row["buttons"][0].tolist() == [0, 1, 1]
    assert not row["buttons"][1].any()
    assert not row["keys"].any()


def test_pointer_is_the_fraction_at_the_pixel_centre() -> None:
    log = ControlsLog(SPACE, 11, 7)
    assert log.row(Controls((0, 0)))["pointer"] == pytest.approx([0.5 / 11, 0.5 / 7])
    assert log.row(Controls((10, 6)))["pointer"] == pytest.approx([10.5 / 11, 6.5 / 7])
    centres = [log.row(Controls((x, 3)))["pointer"][0] * 11 - 0.5 for x in range(11)]
    assert centres == pytest.approx(range(11), abs=1e-5)


def test_wheel_turns_add_up() -> None:
    events = (Event("wheel", dy=1), Event("wheel", dx=-2), Event("wheel", dy=1))
    assert ControlsLog(SPACE, 11, 7).row(Controls((0, 0), events))["wheel"].tolist() == [-2, 2]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (Controls((0, 0), (Event("press", "KeyZ"),)), "not in the action space"),
        (Controls((0, 0), (Event("release", "left"),)), "not held"),
        (Controls((0, 0), (Event("press", "left"), Event("press", "left"))), "already held"),
        (Controls((11, 0)), "outside the 11x7 screen"),
    ],
)
def test_impossible_controls_are_refused(controls: Controls, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControlsLog(SPACE, 11, 7).row(controls)


def test_dictionaries_give_the_same_controls_back() -> None:
    controls = Controls((3, 4), (Event("press", "left"), Event("wheel", dx=1.5, dy=-1)))
    assert Controls.from_dict(controls.to_dict()) == controls


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"pointer": [1, 2], "speed": 3},
        {"pointer": [1, 2], "events": [{"kind": "hold"}]},
        {"pointer": [1, 2], "events": [{"kind": "press", "key": "KeyA"}]},
        {"pointer": [1, 2], "events": [{"kind": "press"}]},
        {"pointer": [1]},
        {"pointer": "12", "events": []},
        {"pointer": [1, 2], "events": 3},
    ],
)
def test_dictionaries_that_say_something_else_are_refused(tree: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"controls|event|pointer"):
        Controls.from_dict(tree)
