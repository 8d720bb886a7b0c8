"""An artifact served to programs: the frames of the batch, bit for bit; no page; a protocol that is written down."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from data_pipeline.controls import Controls, Event
from tests.playing import SCRIPT, desktop_game, get, served, small_world
from tools import messages
from tools.actions import Beginning
from tools.batch import frames
from tools.client import Client, ServedError
from tools.serve import main
from tools.worlds import artifact_game
from wm.artifact import save

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "tools" / "PROTOCOL.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "artifact"
    save(small_world(), folder, "# A world for tests\n")
    return folder


def test_a_program_gets_the_frames_of_the_batch_from_a_server_of_its_own(folder: Path) -> None:
    begin = Beginning(seed=5, start=0, model="teacher", num_steps=2)
    expected = list(frames(artifact_game(folder), begin, SCRIPT))
    command = [sys.executable, "-m", "tools.serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = re.findall(r"http://\S+/", process.stdout.readline())[0]
        with Client.connect(url) as world:
            assert world.hello["models"] == {"student": 2, "teacher": 3}
            assert np.array_equal(world.reset(seed=5, start=0, model="teacher", num_steps=2), expected[0])
            for controls, frame in zip(SCRIPT, expected[1:], strict=True):
                assert np.array_equal(world.step(controls), frame)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_server_for_programs_has_no_page_and_says_what_it_serves(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path, with_page=False) as server:
        assert get(server, "/")[0] == get(server, "/app.js")[0] == 404
        told = json.loads(get(server, "/world")[2])
        assert (told["protocol"], told["socket"]) == (1, "/play")
        with Client.connect(server.url) as world:
            assert {name: world.hello[name] for name in told if name not in ("protocol", "socket")} == {
                name: value for name, value in told.items() if name not in ("protocol", "socket")
            }
        assert get(server, "/world", Host="evil.example")[0] == 421


def test_a_program_hears_what_was_wrong_and_goes_on(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path, max_sessions=1) as server, Client.connect(server.url) as world:
        first = world.reset(seed=3)
        with pytest.raises(ServedError, match="not in the action space"):
            world.step(Controls((1, 1), (Event("press", "KeyQ"),)))
        assert world.step(SCRIPT[0]).shape == first.shape
        with pytest.raises(ServedError, match="all 1 places are taken") as refused:
            Client.connect(server.url)
        assert refused.value.code == "full"
        assert np.array_equal(world.reset(seed=3), first)


def test_a_program_that_lost_the_line_comes_back_with_its_ticket(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path) as server:
        with Client.connect(server.url) as alone:
            alone.reset(seed=9)
            expected = [alone.step(one) for one in SCRIPT]
        world = Client.connect(server.url)
        world.reset(seed=9)
        world.step(SCRIPT[0])
        server.break_lines()
        with pytest.raises(ConnectionClosed):
            world.frame()
        with Client.connect(server.url, session=world.hello["session"]) as again:
            assert again.hello["number"] == 1
            assert np.array_equal(again.frame()[1], expected[0])
            assert np.array_equal(np.stack([again.step(one) for one in SCRIPT[1:]]), np.stack(expected[1:]))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--host", "0.0.0.0"], "give --token too"),
        (["--port", "70000"], "--port is 70000"),
        (["--token", "short"], "it needs at least 12"),
        ([], "no artifact in"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--port", "0", *more]) == 2
    assert re.fullmatch(f"error: .*{re.escape(said)}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("message", typing.get_args(messages.Message), ids=lambda message: message.__name__)
def test_every_message_and_field_is_written_down(message: type) -> None:
    fields = {field.name: field for field in dataclasses.fields(message)}
    for kind in typing.get_args(typing.get_type_hints(message)["kind"]):
        row = next(
            (line for line in DOCUMENT.splitlines() if f"`{kind}`" in line.partition("|")[2].partition("|")[0]), ""
        )
        for name in fields.keys() - {"kind"}:
            assert f"`{name}`" in row, f"{kind}.{name}"


def test_the_header_is_written_down_as_it_is_packed() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| `(\w+)` \|", DOCUMENT, re.M)
    values = {field.name: 1 for field in dataclasses.fields(messages.FrameHeader)}
    sizes = {"u8": 1, "u16": 2, "u32": 4, "f32": 4, "f64": 8}
    assert {name for _, _, name in rows} == values.keys()
    nothing = messages.FrameHeader(**dict.fromkeys(values, 0)).pack()
    for offset, kind, name in rows:
        packed = messages.FrameHeader(**(dict.fromkeys(values, 0) | {name: 1})).pack()
        changed = [i for i, (one, other) in enumerate(zip(packed, nothing, strict=True)) if one != other]
        assert changed, name
        assert all(int(offset) <= i < int(offset) + sizes[kind] for i in changed), name
    assert f"header of {len(nothing)} bytes" in DOCUMENT
