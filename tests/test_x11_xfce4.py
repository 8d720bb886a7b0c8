"""The recorded desktop under xfce4's window manager: the same laws as under openbox, and nothing of its own that does harm."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from Xlib import XK

from data_pipeline.controls import Controls, Event
from data_pipeline.environments import x11_programs as programs
from data_pipeline.environments import x11_server
from data_pipeline.environments.environment import EnvironmentDied
from data_pipeline.environments.x11_desktop import X11Desktop, X11DesktopConfig
from data_pipeline.environments.x11_managers import XFCE4
from data_pipeline.environments.x11_pixels import sprite
from data_pipeline.environments.x11_windows import Window
from data_pipeline.schema import DataError
from tests.test_x11_desktop import changed, descendants, located, middle, of_kind, play_on, wait_until_gone

SETTINGS = {"height": 192, "width": 256, "columns": 19, "rows": 7, "keys": ("KeyO", "ControlLeft")}
CONFIG = X11DesktopConfig(window_manager="xfce4", **SETTINGS)  # type: ignore[arg-type]
OFFICE = (programs.EDITOR, programs.FILES, programs.PAINT)


def needs(chosen: tuple[str, ...]) -> pytest.MarkDecorator:
    missing = sorted(programs.missing(chosen, XFCE4))
    reason = f"{', '.join(missing)} not installed: `make system-deps` as root installs the Debian packages"
    return pytest.mark.skipif(bool(missing), reason=reason)


needs_xfwm4 = needs(CONFIG.programs)
needs_landlock = pytest.mark.skipif(not x11_server.can_landlock(), reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def shared() -> Iterator[X11Desktop]:
    environment = CONFIG.build()
    yield environment
    environment.close()


def windows(environment: X11Desktop) -> list[Window]:
    return environment._running().windows.all()


def click(place: tuple[int, int], button: str = "left") -> Controls:
    return Controls(place, (Event("press", button), Event("release", button)))


def drag(environment: X11Desktop, start: tuple[int, int], end: tuple[int, int]) -> list[np.ndarray]:
    press, release = (Event(kind, "left") for kind in ("press", "release"))  # type: ignore[arg-type]
    steps = (Controls(start, (press,)), Controls(end), Controls(end, (release,)))
    return [environment.step(controls)[0] for controls in steps]


def press_together(environment: X11Desktop, *names: str) -> None:
    """Keys that the recorder's own rows cannot have."""
    server = environment._running()
    codes = [server.keycode(XK.string_to_keysym(name)) for name in names]
    for code, down in [*((code, True) for code in codes), *((code, False) for code in reversed(codes))]:
        server.key(code, down)


@needs_xfwm4
def test_the_cursor_is_in_the_frame_where_it_was_sent(shared: X11Desktop) -> None:
    rng = np.random.default_rng(0)
    shared.reset(seed=3)
    bars = [middle(window.title_bar) for window in windows(shared)]
    for pointer in [*bars, *((int(rng.integers(8, 236)), int(rng.integers(8, 172))) for _ in range(10))]:
        frame = shared.step(Controls(pointer))[0]
        assert np.abs(np.subtract(located(shared, frame), pointer)).max() <= 1


@needs_xfwm4
def test_no_edge_of_a_window_changes_the_cursor(shared: X11Desktop) -> None:
    """xfwm4 shows the cursors for pulling over whatever surrounds a window, unless nothing does."""
    shared.reset(seed=3)
    server, known = shared._running(), {cursor.rgba.tobytes() for cursor in shared.cursors()}
    x, y, w, h = windows(shared)[-1].frame
    edges = [
        (x + n, y + m) for n in (-1, 0, 1, w // 2, w - 2, w - 1, w) for m in (-1, 0, 1, 2, h // 2, h - 2, h - 1, h)
    ]
    for place in edges:
        server.move(*place)
        server.settle(0.5)
        assert sprite("", server.cursor(), 1).rgba.tobytes() in known, place


@needs_xfwm4
@pytest.mark.parametrize("seed", [0, 5])
def test_windows_lie_where_the_layout_says(shared: X11Desktop, seed: int) -> None:
    shared.reset(seed=seed)
    assert_laid_out(shared, programs.layout(seed, 256, 192, 19, 7, CONFIG.programs, XFCE4))


@needs(OFFICE)
@needs_landlock
def test_windows_that_want_the_whole_screen_lie_where_the_layout_says_and_a_dialog_has_no_menu() -> None:
    """What runs in GTK cannot be told a place; two of the three come maximised."""
    settings = {"programs": OFFICE, "keys": ("KeyO", "ControlLeft"), "window_manager": "xfce4"}
    environment = X11DesktopConfig(**settings).build()  # type: ignore[arg-type]
    try:
        environment.reset(seed=2)
        assert_laid_out(environment, programs.layout(2, 512, 384, 40, 12, OFFICE, XFCE4))
        environment._starter.bring_forward(programs.EDITOR)
        press_together(environment, "Control_L", "o")
        for _ in range(100):
            environment.step(Controls((5, 5)))
        assert windows(environment)[-1].is_dialog
        environment.step(click(middle(windows(environment)[-1].title_bar._replace(w=80)), "right"))
        assert environment._running().windows.popups() == []
    finally:
        environment.close()


def assert_laid_out(environment: X11Desktop, places: programs.Layout) -> None:
    found = {window.window_class: tuple(window.frame) for window in windows(environment)}
    for name, corner in places.corners.items():
        size = programs.outer_size(name, environment.config.columns, environment.config.rows, XFCE4)
        assert found[programs.APPLICATIONS[name].window_class] == (*corner, *size)
    assert windows(environment)[-1].window_class == programs.APPLICATIONS[places.focus].window_class


@needs_xfwm4
def test_a_title_bar_is_dragged_as_far_as_the_pointer_went(shared: X11Desktop) -> None:
    shared.reset(seed=3)
    before = windows(shared)[-1]
    x, y = middle(before.title_bar)
    drag(shared, (x, y), (x - 31, y + 17))
    after = windows(shared)[-1]
    assert after.id == before.id
    assert after.frame == before.frame._replace(x=before.frame.x - 31, y=before.frame.y + 17)


@needs_xfwm4
def test_a_press_on_the_window_behind_raises_and_focuses_it(shared: X11Desktop) -> None:
    shared.reset(seed=3)
    behind = windows(shared)[0]
    shared.step(click(middle(of_kind(shared, "raise")[0].rect)))
    assert windows(shared)[-1].id == behind.id
    assert shared._running().windows.active() == behind.id


@needs_xfwm4
def test_the_same_controls_give_the_same_frames_on_two_desktops(shared: X11Desktop) -> None:
    """Windows are dragged, raised and clicked; what is typed goes through a kernel thread and can come late."""
    other = CONFIG.build()
    runs = []
    for environment in (shared, other):
        frames = [environment.reset(seed=3)[0]]
        x, y = middle(windows(environment)[-1].title_bar)
        frames += drag(environment, (x, y), (x - 40, y + 20))
        frames.append(environment.step(click(middle(of_kind(environment, "raise")[0].rect)))[0])
        frames += drag(environment, middle(windows(environment)[-1].title_bar), (120, 30))
        frames += [environment.step(click(target.rect[:2]))[0] for target in of_kind(environment, "click")[:4]]
        runs.append(np.stack(frames))
    other.close()
    assert (runs[0] == runs[1]).all()
    assert all(len(changed(one, two)) > 0 for one, two in zip(runs[0][:4], runs[0][1:5], strict=True))


@needs_xfwm4
def test_what_could_harm_a_recording_does_nothing(shared: X11Desktop) -> None:
    """The title's menu, the buttons and the wheel on it, double clicks, and the keys of a desktop in use."""
    frame = shared.reset(seed=3)[0]
    place = middle(windows(shared)[-1].title_bar)
    frame = shared.step(Controls(place))[0]
    before = windows(shared)
    wheel = tuple(Event("wheel", dy=notches) for notches in (-2.0, 3.0))
    twice = click(place).events * 2
    for events in (click(place, "right").events, click(place, "middle").events, twice, wheel):
        shared.step(Controls(place, events))
        shared.step(Controls(place))
    for names in (("Alt_L", "F4"), ("Alt_L", "F9"), ("Alt_L", "F10"), ("Alt_L", "Tab"), ("Alt_L", "space")):
        press_together(shared, *names)
        shared.step(Controls(place))
    assert windows(shared) == before
    assert shared._running().windows.popups() == []
    assert (shared.step(Controls(place))[0] == frame).all()


@needs_xfwm4
def test_its_death_is_an_error_with_its_name_and_nothing_is_left() -> None:
    environment = CONFIG.build()
    _, info = environment.reset(seed=1)
    server = environment._running()
    everything = [server._keeper.pid, *descendants(server._keeper.pid)]
    by_name = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in everything}
    assert "xfconfd" in by_name
    os.kill(by_name["xfwm4"], signal.SIGKILL)
    with pytest.raises(EnvironmentDied, match="xfwm4 died"):
        play_on(environment, info["pointer"])
    assert environment.reset(seed=1)[0].shape == (192, 256, 3)
    environment.close()
    wait_until_gone(everything, server.folder)


def test_a_missing_window_manager_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"needs .*xfwm4.*install the Debian packages .*xfwm4") as error:
        CONFIG.build()
    assert "openbox" not in str(error.value)
    assert "\n" not in str(error.value)
