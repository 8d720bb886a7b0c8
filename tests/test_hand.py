"""Input between two frames: moves coalesce, edges are never lost and never change their order."""

import math
import random

import pytest

from data_pipeline.controls import Controls, ControlsLog, Event
from tools.hand import MAX_EVENTS, MAX_PARTS, Hand
from wm.batch import ActionSpace

SPACE = ActionSpace(buttons=("left", "right"), keys=("KeyA", "Enter"), wheel=True)


def hand() -> Hand:
    return Hand(SPACE, 96, 64)


def taken(of: Hand) -> list[Controls]:
    found = []
    while of.moved:
        found.append(of.take()[0])
    return found


def test_moves_keep_the_last_place() -> None:
    one = hand()
    for x in range(50):
        one.move(x, 7, at=1.0 + x)
    assert one.take() == (Controls((49, 7)), 1.0)
    assert not one.moved
    controls, at = one.take()
    assert controls == Controls((49, 7))
    assert math.isnan(at)


def test_a_click_happens_where_it_happened() -> None:
    one = hand()
    one.move(10, 10, 1)
    one.edge("press", "left", 2)
    one.edge("release", "left", 3)
    one.move(60, 40, 4)
    assert taken(one) == [Controls((10, 10), (Event("press", "left"), Event("release", "left"))), Controls((60, 40))]


def test_typing_does_not_hold_up_the_pointer() -> None:
    one = hand()
    one.edge("press", "KeyA", 1)
    one.move(3, 4, 2)
    one.edge("release", "KeyA", 3)
    assert taken(one) == [Controls((3, 4), (Event("press", "KeyA"), Event("release", "KeyA")))]


def test_repeats_and_strays_are_no_events() -> None:
    one = hand()
    for kind in ("release", "press", "press", "release", "release"):
        one.edge(kind, "Enter", 0)
    assert taken(one)[0].events == (Event("press", "Enter"), Event("release", "Enter"))


def test_letting_go_releases_what_is_held() -> None:
    one = hand()
    one.edge("press", "KeyA", 1)
    one.edge("press", "left", 2)
    one.take()
    one.release_all()
    assert one.moved
    assert set(one.take()[0].events) == {Event("release", "KeyA"), Event("release", "left")}
    one.release_all()
    assert not one.moved


def test_wheel_turns_add_up() -> None:
    one = hand()
    one.wheel(0, 1, 0)
    one.wheel(1, 2, 0)
    one.edge("press", "left", 0)
    one.wheel(0, -1, 0)
    events = taken(one)[0].events
    assert events == (Event("wheel", dx=1, dy=3), Event("press", "left"), Event("wheel", dy=-1))


def test_any_input_is_bounded_and_every_edge_arrives_in_order() -> None:
    rng = random.Random(0)
    one, log = hand(), ControlsLog(SPACE, 96, 64)
    given: list[Event] = []
    arrived: list[Event] = []
    held: set[str] = set()
    for _ in range(5000):
        one.move(rng.randrange(96), rng.randrange(64), 0)
        target = rng.choice(("left", "right", "KeyA", "Enter"))
        kind = "release" if target in held else "press"
        held ^= {target}
        one.edge(kind, target, 0)
        given.append(Event("press" if kind == "press" else "release", target))
        while one.full:  # what the connection does: it stops reading until a frame was made
            controls = one.take()[0]
            log.row(controls)
            arrived += controls.events
        assert len(one._parts) <= MAX_PARTS
        assert sum(len(part.events) for part in one._parts) <= MAX_EVENTS
    for controls in taken(one):
        log.row(controls)
        arrived += controls.events
    assert arrived == given
    assert {target for target, down in log.held.items() if down} == held


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (96, 0), (0, 64)])
def test_a_pointer_outside_is_refused(x: int, y: int) -> None:
    with pytest.raises(ValueError, match="outside the 96x64 frame"):
        hand().move(x, y, 0)


def test_unknown_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no button or key 'KeyQ'; it has left"):
        hand().edge("press", "KeyQ", 0)
    with pytest.raises(ValueError, match="no wheel"):
        Hand(ActionSpace(), 96, 64).wheel(0, 1, 0)
