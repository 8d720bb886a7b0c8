"""The recorded desktop: frames tell the truth about the input, the same input gives the same frames, nothing is left behind."""

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
import torch

from data_pipeline.controls import Controls, Event
from data_pipeline.environments import x11_looks as looks
from data_pipeline.environments import x11_programs as programs
from data_pipeline.environments.environment import EnvironmentDied, Rect, Target
from data_pipeline.environments.x11_desktop import X11Desktop, X11DesktopConfig
from data_pipeline.policies import HumanPolicyConfig
from data_pipeline.record import record
from data_pipeline.schema import DataError, check
from wm.cursor import Sprite, locate

ROOT = Path(__file__).resolve().parent.parent
MISSING = sorted(programs.missing((programs.TERMINAL, programs.CALCULATOR)))
needs_programs = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: `make system-deps` as root installs the Debian packages"
)
CONFIG = X11DesktopConfig(height=192, width=256, columns=19, rows=7, buttons=("left",), keys=("KeyA", "KeyS", "Enter"))
PRESS, RELEASE = Event("press", "left"), Event("release", "left")


@pytest.fixture(scope="module")
def shared() -> Iterator[X11Desktop]:
    environment = CONFIG.build()
    yield environment
    environment.close()


@pytest.fixture
def small() -> Iterator[X11Desktop]:
    """Two screen pixels to a frame pixel, as the demo has them."""
    environment = X11DesktopConfig(height=96, width=128, shrink=2, columns=19, rows=7).build()
    yield environment
    environment.close()


def began(environment: X11Desktop, focus: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The first frame of an episode in which `focus` has the focus, and where the pointer is."""
    seeds = (seed for seed in range(99) if programs.layout(seed, 256, 192, 19, 7, CONFIG.programs).focus == focus)
    frame, info = environment.reset(seed=next(seeds))
    return frame, info["pointer"]


def of_kind(environment: X11Desktop, kind: str) -> list[Target]:
    return [target for target in environment.targets() if target.kind == kind]


def middle(rect: Rect) -> tuple[int, int]:
    return rect.x + rect.w // 2, rect.y + rect.h // 2


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N, 2) x, y of the pixels that differ."""
    return np.argwhere((before != after).any(-1))[:, ::-1]


def located(environment: X11Desktop, frame: np.ndarray) -> tuple[float, float]:
    sprites = [Sprite(c.name, c.hotspot, torch.from_numpy(c.rgba)) for c in environment.cursors()]
    pointer = locate(torch.from_numpy(frame).permute(2, 0, 1)[None], sprites).pointer[0]
    return float(pointer[0]), float(pointer[1])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def play_on(environment: X11Desktop, pointer: tuple[int, int]) -> None:
    for _ in range(500):
        environment.step(Controls(pointer))


def wait_until_gone(pids: list[int], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while (any(alive(pid) for pid in pids) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in pids if alive(pid)] == []
    assert not folder.exists()


@needs_programs
@pytest.mark.case("D-20")
def test_the_cursor_is_in_the_frame_where_it_was_sent(shared: X11Desktop, small: X11Desktop) -> None:
    rng = np.random.default_rng(0)
    for environment, width, height in ((shared, 256, 192), (small, 128, 96)):
        environment.reset(seed=3)
        for _ in range(12):
            pointer = int(rng.integers(8, width - 20)), int(rng.integers(8, height - 20))
            frame, _, _, _, info = environment.step(Controls(pointer))
            assert info["pointer"] == pointer
            assert np.abs(np.subtract(located(environment, frame), pointer)).max() <= 1


@needs_programs
def test_the_cursors_are_drawn_without_half_transparency(shared: X11Desktop) -> None:
    """mss blends as if colours were not premultiplied by alpha, which X's are: only all or nothing comes out right."""
    cursors = shared.cursors()
    assert len(cursors) >= 3
    assert all(set(np.unique(cursor.rgba[..., 3])) == {0, 255} for cursor in cursors)


@needs_programs
def test_a_typed_letter_appears_in_the_terminal_and_nowhere_else(shared: X11Desktop) -> None:
    before, pointer = began(shared, programs.TERMINAL)
    page = of_kind(shared, "type")[0].rect
    after = shared.step(Controls(pointer, (Event("press", "KeyA"), Event("release", "KeyA"))))[0]
    pixels = changed(before, after)
    assert len(pixels) > 5
    assert all(page.contains(int(x), int(y)) for x, y in pixels)


@needs_programs
def test_a_button_of_the_calculator_changes_its_display(shared: X11Desktop) -> None:
    began(shared, programs.CALCULATOR)
    buttons = sorted((target.rect for target in of_kind(shared, "click")), key=lambda rect: (rect.y, rect.x))
    assert len(buttons) == 16
    before = shared.step(Controls(middle(buttons[0])))[0]
    after = shared.step(Controls(middle(buttons[0]), (PRESS, RELEASE)))[0]
    pixels = changed(before, after)
    assert len(pixels) > 5
    above = Rect(buttons[0].x, buttons[0].y - 40, 120, 40)
    assert all(above.contains(int(x), int(y)) for x, y in pixels if y < buttons[0].y - 2)
    assert any(above.contains(int(x), int(y)) for x, y in pixels)


@needs_programs
def test_a_press_on_the_window_behind_raises_it(shared: X11Desktop) -> None:
    began(shared, programs.CALCULATOR)
    behind = of_kind(shared, "raise")[0].rect
    shared.step(Controls(middle(behind), (PRESS, RELEASE)))
    assert of_kind(shared, "type")[0].rect.contains(*middle(behind))


@needs_programs
def test_a_window_is_dragged_and_stays_on_the_screen(shared: X11Desktop) -> None:
    began(shared, programs.TERMINAL)
    *_, bar = of_kind(shared, "drag")  # of the top window
    start = middle(bar.rect)
    shared.step(Controls(start, (PRESS,)))
    shared.step(Controls((255, 191)))
    shared.step(Controls((255, 191), (RELEASE,)))
    frame = shared._running().windows.all()[-1].frame
    assert (frame.x + frame.w, frame.y + frame.h) == (256, 192)


@needs_programs
def test_the_same_controls_give_the_same_frames(small: X11Desktop) -> None:
    """Every pixel of every frame, but for one: what the shell writes goes through a kernel thread, which may be late."""
    policy = HumanPolicyConfig().build()
    frame, info = small.reset(seed=7)
    policy.reset(small, 7)
    frames, controls = [frame], []
    for _ in range(120):
        controls.append(policy.act(small, info))
        frame, _, _, _, info = small.step(controls[-1])
        frames.append(frame)
    again = [small.reset(seed=7)[0], *(small.step(action)[0] for action in controls)]
    assert sum((one != two).any() for one, two in zip(frames, again, strict=True)) <= 1
    assert len(changed(frames[0], frames[-1])) > 0


@needs_programs
def test_other_seeds_begin_elsewhere_and_input_that_is_held_does_not_reach_the_next_episode(shared: X11Desktop) -> None:
    first, pointer = began(shared, programs.TERMINAL)
    shared.step(Controls(pointer, (PRESS, Event("press", "KeyA"))))
    again, _ = began(shared, programs.TERMINAL)
    assert (first == again).all()
    assert (first != shared.reset(seed=11)[0]).any()


@needs_programs
def test_a_recording_is_a_whole_sample(small: X11Desktop) -> None:
    sample = record(small, HumanPolicyConfig().build(), 20, seed=2, key="clip")
    check(sample)
    assert sample.video is not None
    assert sample.video.shape == (20, 96, 128, 3)
    assert (sample.meta["environment"], sample.meta["events"]) == ("x11_desktop", [[]] * 20)


@needs_programs
@pytest.mark.parametrize("victim", ["Xvfb", "openbox", "xterm", "dbus-daemon"])
@pytest.mark.case("D-21")
def test_a_death_is_an_error_with_a_name_and_the_next_episode_begins(victim: str) -> None:
    environment = CONFIG.build()
    _, info = environment.reset(seed=1)
    server = environment._running()
    folder, keeper = server.folder, server._keeper.pid
    everything = [keeper, *descendants(keeper)]
    by_name = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in everything}
    os.kill(by_name[victim], signal.SIGKILL)
    name = {"xterm": "terminal", "dbus-daemon": "D-Bus"}.get(victim, victim)
    with pytest.raises(EnvironmentDied, match=f"{name} died|is gone"):
        play_on(environment, info["pointer"])
    assert environment.reset(seed=1)[0].shape == (192, 256, 3)
    assert environment.step(Controls((9, 9)))[0].shape == (192, 256, 3)
    environment.close()
    wait_until_gone(everything, folder)


@needs_programs
def test_closing_leaves_no_process_folder_or_socket() -> None:
    environment = CONFIG.build()
    environment.reset(seed=0)
    server = environment._running()
    everything = [server._keeper.pid, *descendants(server._keeper.pid)]
    name = Path(f"/tmp/.X11-unix/X{server._display.get_display_name()[1:]}")
    assert len(everything) >= 6
    assert name.exists()
    environment.close()
    environment.close()
    wait_until_gone(everything, server.folder)
    assert not name.exists()
    with pytest.raises(ValueError, match="closed"):
        environment.step(Controls((0, 0)))


@needs_programs
def test_nothing_outlives_a_recorder_that_ends_without_closing(tmp_path: Path) -> None:
    """One is killed, one leaves; both say first what they started."""
    script = """
import os, sys
from tests.test_x11_desktop import CONFIG, descendants
environment = CONFIG.build()
environment.reset(seed=0)
server = environment._running()
print(server.folder, server._keeper.pid, *descendants(server._keeper.pid), flush=True)
"""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    endings = ("os.kill(os.getpid(), 9)", "sys.exit(0)")
    commands = [[sys.executable, "-c", f"{script}\n{ending}"] for ending in endings]
    runs = [subprocess.Popen(c, env=variables, stdout=subprocess.PIPE, text=True) for c in commands]
    for run in runs:
        folder, *pids = run.communicate()[0].split()
        assert len(pids) >= 6
        assert Path(folder).parent == tmp_path
        wait_until_gone([int(pid) for pid in pids], Path(folder))


@needs_programs
def test_the_server_is_private(shared: X11Desktop) -> None:
    """Mode 0700, a cookie that is asked for, no TCP, and nothing of our environment in the programs'."""
    shared.reset(seed=0)
    server = shared._running()
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert (server.folder / "authority").stat().st_mode & 0o777 == 0o600
    display = server._display.get_display_name()[1:]
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"/tmp/.X11-unix/X{display}")
        stranger.sendall(b"l\0\x0b\0\0\0\0\0\0\0\0\0")  # little-endian, protocol 11.0, no authority
        assert stranger.recv(1) == b"\0"  # refused
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 6000 + int(display)), timeout=1)
    own = {"DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"}
    allowed = {
        "PATH",
        "HOME",
        "LANG",
        *own,
        *programs.VARIABLES,
        "WINDOWID",
        "XTERM_VERSION",
        "XTERM_LOCALE",
        "XTERM_SHELL",
    }
    for pid in descendants(server._keeper.pid):
        if Path(f"/proc/{pid}/comm").read_text().strip() in ("Xvfb", "openbox", "xterm", "xcalc"):
            names = {entry.split(b"=")[0].decode() for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
            assert names - {""} <= allowed


@needs_programs
def test_two_desktops_run_side_by_side_and_the_recorder_keeps_its_own_variables() -> None:
    before = os.environ.get("XAUTHORITY")
    one, two = CONFIG.build(), CONFIG.build()
    assert one._running().folder != two._running().folder
    assert (one.reset(seed=4)[0] == two.reset(seed=4)[0]).all()
    assert os.environ.get("XAUTHORITY") == before
    one.close()
    assert two.step(Controls((5, 5)))[0].shape == (192, 256, 3)
    two.close()


@pytest.mark.skipif("bash" in MISSING, reason="bash is not installed")
@pytest.mark.parametrize(
    "line",
    ["cd /", "echo x > file", "/bin/ls", "PATH=/bin", "kill -9 $$", "enable kill", "exec ls", "exit", "ls", ". file"],
)
def test_the_shell_refuses_what_could_do_harm(line: str, tmp_path: Path) -> None:
    (tmp_path / ".shellrc").write_text(looks.FILES[".shellrc"])
    command = ["bash", "--noprofile", "--rcfile", ".shellrc", "-r", "-i"]
    variables = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    text = f"{line}\necho still-$((1+1))-$?\n"
    run = subprocess.run(
        command,
        input=text,
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert "still-2-0" not in run.stdout  # the line failed
    assert "still-2-" in run.stdout  # and the shell went on
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shellrc"]


def test_missing_programs_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as error:
        CONFIG.build()
    assert all(word in str(error.value) for word in ("xcalc", "x11-apps", "xvfb", "openbox", "make system-deps"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": ("KeyÄ",)}, "KeyÄ"),
        ({"buttons": ("thumb",)}, "thumb"),
        ({"width": 200, "height": 100}, "does not fit a screen of 200x100"),
        ({"shrink": 0}, "shrink is 0"),
        ({"programs": ("terminal", "browser")}, "name one or more of terminal, calculator, editor, files, paint"),
        ({"programs": ("terminal", "terminal")}, "each once"),
    ],
)
def test_settings_that_cannot_be_recorded_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        X11DesktopConfig(**settings).build()  # type: ignore[arg-type]


@needs_programs
def test_controls_that_do_not_fit_are_refused(shared: X11Desktop) -> None:
    shared.reset(seed=0)
    with pytest.raises(ValueError, match="outside the 256x192 screen"):
        shared.step(Controls((256, 0)))
    with pytest.raises(ValueError, match="KeyZ"):
        shared.step(Controls((1, 1), (Event("press", "KeyZ"),)))
    with pytest.raises(ValueError, match="unknown reset options"):
        shared.reset(options={"windows": []})
