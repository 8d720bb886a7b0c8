"""Batch replay: the frames of the socket, bit for bit; files that are whole or absent; one line for a mistake."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.controls import Controls, Event
from data_pipeline.video import decode as decode_video
from tests.playing import desktop_game, served, small_world
from tools.actions import MAX_EVENTS, Beginning, Header, read, write
from tools.batch import frames, replay
from tools.rollout import main
from tools.session import Game
from tools.worlds import artifact_game, world_game
from wm.artifact import save

ROOT = Path(__file__).parent.parent
SCRIPT = [
    Controls((10, 58)),
    Controls((10, 60), (Event("press", "left"),)),
    Controls((40, 30), (Event("release", "left"), Event("press", "KeyA"), Event("release", "KeyA"))),
    Controls((41, 33), (Event("press", "KeyE"),)),
    Controls((41, 33), (Event("release", "KeyE"),)),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "artifact"
    save(small_world(), folder, "# A world for tests\n")
    return folder


@pytest.fixture(scope="module")
def game(artifact: Path) -> Game:
    return artifact_game(artifact)


@pytest.mark.parametrize(
    "begin",
    [
        Beginning(seed=5),
        Beginning(seed=5, start=0, num_steps=1),
        Beginning(seed=6, start=None, model="teacher"),
    ],
)
def test_batch_frames_equal_those_of_the_socket(game: Game, tmp_path: Path, begin: Beginning) -> None:
    dreamed = list(frames(game, begin, SCRIPT))
    with served(game, tmp_path) as server, server.page() as page:
        asked = {"seed": begin.seed, "start": begin.start, "model": begin.model, "num_steps": begin.num_steps}
        played = [page.begin("lockstep", real=True, **asked)]
        for controls in SCRIPT:
            frame, real = page.step_both(controls)
            played.append(frame)
            assert (real is None) == (begin.start is not None)
    assert np.array_equal(np.stack(played), np.stack(dreamed))
    assert len({frame.tobytes() for frame in dreamed}) == len(dreamed), "a frozen model would agree with anything"


def test_live_play_replays_from_its_recording(game: Game, tmp_path: Path) -> None:
    with served(game, tmp_path) as server, server.page() as page:
        page.begin("on_input", seed=3)
        page.say(kind="record", on=True)
        page.hear("recording")
        for x in range(0, 60, 4):
            page.say(kind="pointer", x=x, y=20, at=1.0)
            if x % 12 == 0:
                page.say(kind="press" if x % 24 == 0 else "release", target="left", at=1.0)
        assert page.frame()[0].number >= 1
        time.sleep(0.3)
        page.say(kind="record", on=False)
        saved = page.hear("saved")
    out = tmp_path / "again.mp4"
    replay(game, Path(saved["actions"]), out)
    assert np.array_equal(decode_video(out.read_bytes()), decode_video(Path(saved["video"]).read_bytes()))


def test_the_seed_the_steps_and_the_input_each_matter(game: Game) -> None:
    def last(begin: Beginning, controls: list[Controls]) -> bytes:
        return list(frames(game, begin, controls))[-1].tobytes()

    usual = last(Beginning(seed=1, start=0), SCRIPT)
    assert usual == last(Beginning(seed=1, start=0), SCRIPT)
    assert usual != last(Beginning(seed=2, start=0), SCRIPT)
    assert usual != last(Beginning(seed=1, start=0, num_steps=1), SCRIPT)
    assert usual != last(Beginning(seed=1, start=0), [*SCRIPT[:-1], Controls((90, 5), (Event("release", "KeyE"),))])


def test_a_clip_has_one_frame_a_row_but_those_it_skips(game: Game, tmp_path: Path) -> None:
    actions = tmp_path / "actions.jsonl"
    write(actions, Header(begin=Beginning(seed=5, start=0), skip=2), SCRIPT)
    assert replay(game, actions, tmp_path / "clip.mp4") == len(SCRIPT) - 2
    clip = decode_video((tmp_path / "clip.mp4").read_bytes())
    assert np.array_equal(clip, np.stack(list(frames(game, Beginning(seed=5, start=0), SCRIPT))[3:]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actions.jsonl", "clip.mp4"]


def test_action_files_come_back_as_they_were(tmp_path: Path) -> None:
    controls = [*SCRIPT, Controls((0, 0), (Event("wheel", dx=-1.0, dy=2.0), Event("press", "left")))]
    header = Header(begin=Beginning(seed=4, start=2, model="teacher", num_steps=16), skip=3, world="a")
    write(tmp_path / "a.jsonl", header, controls)
    assert read(tmp_path / "a.jsonl") == (header, controls)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[0]["begin"]["seed"] == 4
    assert rows[3]["events"][1] == ["press", "KeyA"]


HEADER = '{"begin": {"seed": 1, "start": 0}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("nonsense", "line 1 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ('{"begin": {"sed": 1}}', r"line 1: begin\.sed: unknown field; did you mean seed"),
        (HEADER, "nothing to write"),
        (HEADER + '\n{"pointer": [1]}', "line 2: pointer"),
        (HEADER + '\n{"pointer": [1, 2], "events": [["press"]]}', "line 2: .*is none of"),
        (HEADER + '\n{"pointer": [1, 2], "events": [["wheel", 0, 1e9]]}', "line 2: .*is none of"),
        (
            HEADER + '\n{"pointer": [1, 2], "events": [' + '["wheel", 0, 1],' * MAX_EVENTS + '["wheel", 0, 1]]}',
            "at most",
        ),
        (HEADER + '\n{"pointer": [1, 2]}\n\n{"pointer": [1, 200]}', "frame 2: pointer .* is outside the 96x64 screen"),
        (HEADER + '\n{"pointer": [1, 2], "events": [["release", "left"]]}', "frame 1: release of 'left'.*not held"),
        (HEADER + '\n{"pointer": [1, 2], "events": [["press", "KeyQ"]]}', "frame 1: press of 'KeyQ'"),
        ('{"begin": {"start": 7}}\n{"pointer": [1, 2]}', "this artifact has 1 starts"),
    ],
)
def test_a_wrong_action_file_is_one_line_and_no_clip(game: Game, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        replay(game, tmp_path / "a.jsonl", tmp_path / "clip.mp4")
    assert "a.jsonl" in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def _replaying(artifact: Path, actions: Path, clip: Path) -> list[str]:
    """The command that a shell would run."""
    return [sys.executable, "-m", "tools.rollout", *map(str, (artifact, "--actions", actions, "--out", clip))]


def test_the_command_needs_no_terminal_and_no_input(artifact: Path, game: Game, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", Header(begin=Beginning(seed=5, start=0)), SCRIPT)
    clip = tmp_path / "clip.mp4"
    command = _replaying(artifact, tmp_path / "a.jsonl", clip)
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 frames" in done.stdout
    assert np.array_equal(
        decode_video(clip.read_bytes()), np.stack(list(frames(game, Beginning(seed=5, start=0), SCRIPT))[1:])
    )


def test_an_interrupted_replay_leaves_no_clip(artifact: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", Header(begin=Beginning(start=0)), [Controls((i % 96, 5)) for i in range(30_000)])
    (tmp_path / "out").mkdir()
    clip = tmp_path / "out" / "clip.mp4"
    command = _replaying(artifact, tmp_path / "a.jsonl", clip)
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    spools = Path(f"/proc/{process.pid}/fd")
    while process.poll() is None and not any(str(clip.parent) in _target(one) for one in spools.iterdir()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "interrupted" in errors
    assert list(clip.parent.iterdir()) == []


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either the folder of an artifact or --environment"),
        (["nowhere"], "no artifact in nowhere"),
        (["nowhere", "--actions", "a.jsonl"], "go together"),
        (["nowhere", "--actions", "a.jsonl", "--out", "clip.avi"], "not an .mp4"),
        (["nowhere", "--host", "0.0.0.0"], "--token"),
        (["nowhere", "--host", "0.0.0.0", "--token", "short"], "at least 12"),
        (["nowhere", "--port", "70000"], "--port is 70000"),
        (["nowhere", "--max-sessions", "0"], "max_sessions is 0"),
        (["--environment", "moon"], "desktop_sim"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    port = [] if "--port" in arguments or "--actions" in arguments else ["--port", "0"]
    assert main([*arguments, *port]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors


def test_an_artifact_of_another_version_is_one_line(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (artifact / "manifest.yaml").read_text()
    (tmp_path / "manifest.yaml").write_text(re.sub(r"format_version: \d+", "format_version: 999", text))
    assert main([str(tmp_path), "--port", "0"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "format 999" in errors
    assert "export again" in errors


def test_a_world_without_its_environment_begins_from_its_recordings() -> None:
    world = small_world()
    manifest = dataclasses.replace(world.manifest, environment=None)
    alone = world_game(dataclasses.replace(world, manifest=manifest))
    assert alone.usual == Beginning(start=0)
    with pytest.raises(ValueError, match="not here to begin from"):
        alone.check(Beginning(start=None))
    assert desktop_game().usual == Beginning(start=None)
