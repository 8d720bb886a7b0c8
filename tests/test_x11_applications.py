"""Applications on the recorded desktop: a hand uses them, they are held to their home, and the clock's frames say their time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.controls import Controls, Event
from data_pipeline.environments import x11_fence, x11_server
from data_pipeline.environments import x11_programs as programs
from data_pipeline.environments.environment import EnvironmentDied, Rect, Target
from data_pipeline.environments.x11_desktop import X11Desktop, X11DesktopConfig
from data_pipeline.environments.x11_schedule import Schedule
from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Limits
from data_pipeline.lint.timing import clock
from data_pipeline.policies import HumanPolicyConfig
from data_pipeline.record import record
from data_pipeline.schema import Sample, check
from tests.idle import busy_share, holds_where_idle
from tests.test_x11_desktop import changed, descendants, located, needs_programs, play_on, wait_until_gone
from wm.batch import ActionSpace

MISSING = sorted(programs.missing(tuple(programs.APPLICATIONS)))
needs_applications = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: `make system-deps` as root installs the Debian packages"
)
needs_landlock = pytest.mark.skipif(
    not x11_server.can_landlock(), reason="this kernel has no Landlock, which applications that write files need"
)
ALL = tuple(programs.APPLICATIONS)
CLICK = (Event("press", "left"), Event("release", "left"))


@pytest.fixture(scope="module")
def shared() -> Iterator[X11Desktop]:
    environment = X11DesktopConfig(programs=ALL).build()
    yield environment
    environment.close()


def began(environment: X11Desktop, focus: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The first frame of an episode in which `focus` has the focus, and where the pointer is."""
    seeds = (seed for seed in range(99) if programs.layout(seed, 512, 384, 40, 12, ALL).focus == focus)
    frame, info = environment.reset(seed=next(seeds))
    return frame, info["pointer"]


def at_rest(environment: X11Desktop, focus: str) -> np.ndarray:
    """A frame soon after `began`: by then the editor has drawn its caret, which may come after all else."""
    _, pointer = began(environment, focus)
    return [environment.step(Controls(pointer))[0] for _ in range(10)][-1]


def front(environment: X11Desktop, kind: str) -> list[Target]:
    """Targets of that kind in the window in front."""
    window = environment._running().windows.all()[-1].frame
    return [t for t in environment.targets() if t.kind == kind and window.contains(t.rect.x, t.rect.y)]


def inside(pixels: np.ndarray, rect: Rect) -> bool:
    return all(rect.contains(int(x), int(y)) for x, y in pixels)


@needs_applications
@needs_landlock
def test_a_letter_typed_into_the_editor_appears_in_its_page(shared: X11Desktop) -> None:
    before, pointer = began(shared, programs.EDITOR)
    window = shared._running().windows.all()[-1]
    assert window.window_class == "Mousepad"
    after = shared.step(Controls(pointer, (Event("press", "KeyA"), Event("release", "KeyA"))))[0]
    pixels = changed(before, after)
    page = front(shared, "type")[0].rect
    assert len(pixels) > 5
    assert inside(pixels, window.frame)  # the title says that the letter was changed
    assert any(page.contains(int(x), int(y)) for x, y in pixels)


@needs_applications
@needs_landlock
def test_a_drag_over_the_paper_draws_under_the_pointer(shared: X11Desktop) -> None:
    began(shared, programs.PAINT)
    paper = front(shared, "drag")[-1].rect
    start, end = (paper.x + 20, paper.y + 15), (paper.x + 70, paper.y + 45)
    before = shared.step(Controls((2, 2)))[0]
    shared.step(Controls(start, (Event("press", "left"),)))
    shared.step(Controls(end))
    shared.step(Controls(end, (Event("release", "left"),)))
    pixels = changed(before, shared.step(Controls((2, 2)))[0])
    on_paper = [(x, y) for x, y in pixels.tolist() if paper.contains(x, y)]
    assert len(on_paper) > 20
    line = [abs((x - start[0]) * (end[1] - start[1]) - (y - start[1]) * (end[0] - start[0])) for x, y in on_paper]
    assert max(line) / np.hypot(end[0] - start[0], end[1] - start[1]) < 3, "from where it was pressed to where it went"


@needs_applications
@needs_landlock
def test_a_menu_opens_and_is_all_that_can_be_used_until_it_closes(shared: X11Desktop) -> None:
    before, _ = began(shared, programs.FILES)
    bar = front(shared, "click")[0].rect
    place = bar.x + 8, bar.y + bar.h // 2
    opened = shared.step(Controls(place, CLICK))[0]
    (menu,) = shared.targets()
    assert menu.kind == "click"
    assert menu.rect.h > 40
    shown = changed(before, opened)
    assert sum(menu.rect.contains(int(x), int(y)) for x, y in shown) > 200
    shared.step(Controls(place, CLICK))
    assert len(shared.targets()) > 1


@needs_applications
@needs_landlock
@pytest.mark.slow
def test_an_icon_opens_what_it_stands_for(shared: X11Desktop) -> None:
    began(shared, programs.FILES)
    icons = front(shared, "click")[1].rect
    before = shared._running().windows.all()[-1]
    after = shared.step(Controls((icons.x + 45, icons.y + 20), CLICK))[0]
    again, _ = began(shared, programs.FILES)
    assert len(changed(again, after)) > 100
    assert shared._running().windows.all()[-1].frame == before.frame


@needs_applications
@needs_landlock
@pytest.mark.slow
@pytest.mark.case("D-20")
def test_the_cursor_of_every_application_is_where_the_rows_say(shared: X11Desktop) -> None:
    shared.reset(seed=3)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(40):
        pointer = int(rng.integers(8, 490)), int(rng.integers(8, 360))
        frame, _, _, _, info = shared.step(Controls(pointer))
        errors.append(np.abs(np.subtract(located(shared, frame), info["pointer"])).max())
    assert max(errors) <= 1


@needs_applications
@needs_landlock
def test_an_episode_begins_anew_whatever_was_written(shared: X11Desktop) -> None:
    first = at_rest(shared, programs.EDITOR)
    home = shared._running().home
    (home / "documents/letter.txt").write_text("something else")
    (home / "documents/more.txt").write_text("more")
    assert np.array_equal(first, at_rest(shared, programs.EDITOR))
    assert not (home / "documents/more.txt").exists()


@needs_applications
@needs_landlock
def test_a_program_that_is_closed_is_no_death_and_the_last_one_ends_the_episode() -> None:
    environment = X11DesktopConfig(programs=(programs.EDITOR,), keys=("KeyQ", "ControlLeft")).build()
    try:
        _, info = environment.reset(seed=0)
        leave = [Event("press", "ControlLeft"), Event("press", "KeyQ")]
        leave += [Event("release", "KeyQ"), Event("release", "ControlLeft")]
        *_, ended, _, _ = environment.step(Controls(info["pointer"], tuple(leave)))
        until = time.monotonic() + 60
        while not ended and time.monotonic() < until:
            *_, ended, _, _ = environment.step(Controls(info["pointer"]))
        assert ended
        assert environment.targets() == []
        environment.reset(seed=0)
        assert len(environment.targets()) >= 3
    finally:
        environment.close()


@needs_applications
@needs_landlock
@pytest.mark.case("D-21")
def test_an_application_that_is_killed_costs_its_episode_and_leaves_nothing() -> None:
    environment = X11DesktopConfig(programs=(programs.EDITOR,)).build()
    environment.reset(seed=1)
    server = environment._running()
    everything = [server._keeper.pid, *descendants(server._keeper.pid)]
    victim = next(pid for pid in everything if Path(f"/proc/{pid}/comm").read_text().strip() == "mousepad")
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(EnvironmentDied, match="editor died"):
        play_on(environment, (5, 5))
    assert environment.reset(seed=1)[0].shape == (384, 512, 3)
    environment.close()
    wait_until_gone(everything, server.folder)


@needs_landlock
def test_who_is_fenced_writes_at_home_only_and_reads_what_is_installed(tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (tmp_path / "authority").touch()
    (tmp_path / "secret").write_text("secret")
    program = f"""
import pathlib, socket
def tried(act):
    try:
        act()
        return "yes"
    except OSError as error:
        return type(error).__name__
here, there = pathlib.Path({str(home)!r}), pathlib.Path({str(tmp_path)!r})
print(tried(lambda: (here / "a").write_text("a")), tried(lambda: (there / "b").write_text("b")),
      tried(lambda: (there / "secret").read_text()), tried(lambda: (there / "secret").unlink()),
      tried(lambda: pathlib.Path("/usr").iterdir().__next__()), tried(lambda: (here / "a").unlink()),
      tried(lambda: socket.create_connection(("127.0.0.1", PORT), 5)))
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = program.replace("PORT", str(listener.getsockname()[1]))
        settings = json.dumps({"home": str(home), "mount": "", "landlock": True})
        command = [sys.executable, "-I", x11_fence.__file__, settings, "/usr/bin/python3", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = done.stdout.split()
    refused = "PermissionError"
    assert answers[:6] == ["yes", refused, refused, refused, "yes", "yes"], done.stderr
    assert answers[6] == refused or x11_fence.landlock_version() < 4
    assert (tmp_path / "secret").exists()


@pytest.mark.skipif(not x11_server.can_isolate(programs.MOUNT), reason="no user namespaces on this machine")
def test_who_is_isolated_has_its_home_at_the_same_place_everywhere_and_no_network(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    settings = json.dumps({"home": str(tmp_path), "mount": programs.MOUNT, "landlock": False})
    program = "pwd; cat letter; id -u; grep CapEff /proc/self/status; ls /sys/class/net; tail -n +3 /proc/net/dev"
    command = [sys.executable, "-I", x11_fence.__file__, settings, "sh", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{programs.MOUNT}\ndear{x11_fence.USER}\nCapEff:\t0000000000000000\n")
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line][1:] == ["lo"]


def test_a_schedule_is_a_grid_and_leaves_out_what_was_missed() -> None:
    schedule = Schedule(50)
    times = [schedule.wait() for _ in range(5)]
    assert all(time >= (i + 1) / 50 for i, time in enumerate(times))
    time.sleep(0.05)
    late = schedule.wait()
    after = schedule.wait()
    assert late - times[-1] >= 0.05
    assert after >= (int(late * 50) + 1) / 50, "the next moment of the grid, not one that was missed"


@needs_programs
def test_frames_by_the_clock_say_their_time_and_the_linter_sees_one_that_was_dropped() -> None:
    environment = X11DesktopConfig(height=192, width=256, columns=19, rows=7, schedule="fixed", fps=5.0).build()
    try:
        sample = record(environment, HumanPolicyConfig().build(), 12, seed=2, key="clip")
        check(sample)
        times = sample.meta["times"]
        assert times[0] == 0
        assert all(when >= i / 5 - 1e-6 for i, when in enumerate(times))
        assert np.median(np.diff(times)) == pytest.approx(0.2, abs=0.05)
        environment.reset(seed=2)
        environment.step(Controls((5, 5)))
        time.sleep(0.5)  # a recorder that was kept from its work
        infos = [environment.step(Controls((5, 5)))[-1] for _ in range(3)]
    finally:
        environment.close()
    gap = infos[0]["time"] - 0.2
    broken = [i / 5 + gap * (i >= 6) for i in range(12)]
    assert gap > 0.3
    assert [finding.check for finding in clock(_clip(sample, broken), Limits())] == ["dropped frames"]


def _clip(sample: Sample, times: list[float]) -> Clip:
    return Clip(
        "here", sample.key, ActionSpace(fps=5.0), 5.0, sample.actions, {**sample.meta, "times": times}, sample.video
    )


@needs_applications
@needs_landlock
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.case("D-20")
def test_frames_by_the_clock_are_at_most_five_milliseconds_late() -> None:
    busy = busy_share()
    environment = X11DesktopConfig(programs=ALL, schedule="fixed").build()
    try:
        times = record(environment, HumanPolicyConfig().build(), 300, seed=2, key="clip").meta["times"]
    finally:
        environment.close()
    late = np.array(times) * 15 - np.round(np.array(times) * 15)
    holds_where_idle(bool(np.quantile(late, 0.99) / 15 <= 0.005), busy)
