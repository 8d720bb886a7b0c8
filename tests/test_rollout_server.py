"""The server of the page: exact, bounded, and unharmed by what a page sends or fails to read."""

import contextlib
import http.client
import json
import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from data_pipeline.controls import Controls, Event
from data_pipeline.video import decode as decode_video
from tests.playing import Logged, Page, Served, desktop, desktop_game, served, within
from tools.actions import read
from tools.batch import frames
from tools.connection import Limits
from tools.messages import MAX_MESSAGE_BYTES, FrameHeader, parse
from tools.outbox import WINDOW
from tools.server import Hall, PortInUseError, address, listen, make_server

SCRIPT = [
    Controls((10, 58)),
    Controls((10, 60), (Event("press", "left"), Event("release", "left"))),
    Controls((40, 30), (Event("press", "KeyA"),)),
    Controls((41, 30), (Event("release", "KeyA"), Event("press", "left"))),
    Controls((60, 20)),
    Controls((60, 20), (Event("release", "left"),)),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(desktop_game(), tmp_path) as one:
        yield one


def get(server: Served, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(server.host, timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


def real_frames(seed: int, controls: list[Controls]) -> list[np.ndarray]:
    """What the desktop itself shows, with the past that a session gives it."""
    environment = desktop()
    frame, info = environment.reset(seed=seed)
    for _ in range(2):
        frame = environment.step(Controls(info["pointer"]))[0]
    return [frame, *(environment.step(one)[0] for one in controls)]


def test_the_page_is_whole_and_asks_for_nothing_elsewhere(server: Served) -> None:
    for path in ("/", "/app.js", "/hand.js", "/screen.js", "/style.css"):
        status, headers, text = get(server, path)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        for word in ("http://", "https://", "//cdn", "@import", "eval("):
            assert word not in text, f"{word} in {path}"
    assert json.loads(get(server, "/health")[2])["status"] == "ready"
    assert get(server, "/../server.py")[0] == 404


def test_only_its_own_page_and_name_are_let_in(server: Served) -> None:
    assert get(server, "/", Host="evil.example")[0] == 421
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{int(server.host.split(':')[1]) + 1}"):
        with pytest.raises(InvalidStatus, match="403"):
            server.page(Origin=origin)
    with server.page(Origin=f"http://{server.host}") as page:
        assert page.hello["world"] == "desktop_sim"


def test_lockstep_frames_are_the_worlds_own_and_the_real_ones_beside_them(server: Served) -> None:
    expected = real_frames(7, SCRIPT)
    with server.page() as page:
        assert np.array_equal(page.begin("lockstep", real=True, seed=7), expected[0])
        for controls, frame in zip(SCRIPT, expected[1:], strict=True):
            dreamed, real = page.step(controls)
            assert np.array_equal(dreamed, frame)
            assert real is not None
            assert np.array_equal(real, frame)
    assert not np.array_equal(expected[1], expected[-1])


def test_sessions_do_not_know_of_each_other(server: Served) -> None:
    other = [Controls((90 - 3 * i, 5 * i)) for i in range(len(SCRIPT))]
    with server.page() as a, server.page() as b:
        a.begin("lockstep", seed=1)
        b.begin("lockstep", seed=2)
        seen = [(a.step(one)[0], b.step(two)[0]) for one, two in zip(SCRIPT, other, strict=True)]
    for (left, right), frame_a, frame_b in zip(
        seen, real_frames(1, SCRIPT)[1:], real_frames(2, other)[1:], strict=True
    ):
        assert np.array_equal(left, frame_a)
        assert np.array_equal(right, frame_b)


NONSENSE = [
    *("", "{", "[]", "null", "3", '"text"', "[" * 5000, "{}", '{"kind": 3}', '{"kind": "fly"}', '{"kind": ["reset"]}'),
    *('{"kind": "pointer"}', '{"kind": "pointer", "x": NaN, "y": 1}', '{"kind": "pointer", "x": 1e999, "y": 1}'),
    *('{"kind": "pointer", "x": -1, "y": 1}', '{"kind": "pointer", "x": 96, "y": 0}', '{"kind": "open"}'),
    *('{"kind": "pointer", "x": 1, "y": 1, "z": 1}', '{"kind": "pointer", "x": 1, "y": 1, "at": Infinity}'),
    *('{"kind": "pointer", "x": ' + "9" * 6000 + ', "y": 1}', '{"kind": "press", "target": "KeyQ"}'),
    *(
        '{"kind": "press", "target": ""}',
        '{"kind": "press", "target": "' + "A" * 999 + '"}',
        '{"kind": "wheel", "dy": 1}',
    ),
    *(
        '{"kind": "ack", "frame": 4000000000}',
        '{"kind": "ack", "frame": -1}',
        '{"kind": "step", "row": {"pointer": [1, 2]}}',
    ),
    *('{"kind": "settings", "pacing": "warp"}', '{"kind": "settings", "codec": "gif"}', '{"kind": "record"}'),
    *('{"kind": "reset", "begin": {"seed": -1}}', '{"kind": "reset", "begin": {"seed": 9223372036854775808}}'),
    *('{"kind": "reset", "begin": {"num_steps": 0}}', '{"kind": "reset", "begin": {"num_steps": 100000}}'),
    *('{"kind": "reset", "begin": {"model": "teacher"}}', '{"kind": "reset", "begin": {"start": 0}}'),
    *('{"kind": "reset", "begin": {"start": -1}}', '{"kind": "reset"}', b"\x00\x01\x02"),
]


def test_a_wrong_message_gets_an_error_and_harms_nobody(server: Served) -> None:
    with server.page() as good, server.page() as bad:
        good.begin("lockstep", seed=3)
        first = bad.begin("on_input", seed=4)
        for nonsense in NONSENSE:
            bad.socket.send(nonsense)
            error = bad.hear("error")
            assert "\n" not in error["message"], nonsense
            assert "Traceback" not in error["message"], nonsense
        expected = real_frames(3, SCRIPT)
        assert all(np.array_equal(good.step(one)[0], frame) for one, frame in zip(SCRIPT, expected[1:], strict=True))
        assert np.array_equal(bad.begin("lockstep", seed=4), first)


def test_random_bytes_end_in_an_error_or_a_close(server: Served) -> None:
    rng = random.Random(5)
    valid = [
        '{"kind": "pointer", "x": 3, "y": 4}',
        '{"kind": "press", "target": "left"}',
        '{"kind": "ack", "frame": 1}',
    ]
    with server.page() as good:
        good.begin("lockstep", seed=3)
        for _ in range(4):
            with server.page() as page:
                page.begin("on_input")
                try:
                    for _ in range(400):
                        text = list(rng.choice(valid))
                        for _ in range(rng.randrange(1, 6)):
                            text[rng.randrange(len(text))] = chr(rng.randrange(32, 300))
                        page.socket.send("".join(text) if rng.random() < 0.8 else rng.randbytes(rng.randrange(64)))
                except ConnectionClosed:
                    continue
        assert np.array_equal(good.step(SCRIPT[0])[0], real_frames(3, SCRIPT[:1])[1])
    assert within(3, lambda: server.hall.lobby.playing == 0)


def test_a_message_that_is_too_long_closes_only_its_own_socket(server: Served) -> None:
    with server.page() as good, server.page() as bad:
        good.begin("lockstep")
        bad.socket.send(" " * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            bad.hear("error")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        good.step(SCRIPT[0])


def test_a_page_that_does_not_acknowledge_makes_no_queue(server: Served) -> None:
    with server.page() as page:
        page.begin(real=False)
        sent = [page.frame(ack=False)[0] for _ in range(WINDOW)]
        with pytest.raises(TimeoutError):
            page.frame(seconds=0.4, ack=False)
        page.say(kind="ack", frame=sent[-1].frame)
        newest = page.frame()[0]
        assert newest.frame == sent[-1].frame + 1, "ids count what was sent"
        assert newest.number >= sent[-1].number + 2, "the world went on, and what came late was skipped"


def test_a_stalled_page_is_dropped_and_the_others_keep_their_pace(tmp_path: Path) -> None:
    with (
        served(desktop_game(fps=10), tmp_path, stall_seconds=0.3) as server,
        server.page() as good,
        server.page() as bad,
    ):
        bad.begin()
        good.begin()
        first, began = good.frame()[0], time.monotonic()
        while time.monotonic() < began + 1.0:
            last = good.frame()[0]
        rate = (last.number - first.number) / (time.monotonic() - began)
        assert rate > 5
        assert within(3, lambda: server.hall.lobby.playing == 1)


def test_a_flood_of_input_loses_no_click(tmp_path: Path) -> None:
    dream = Logged()
    with served(desktop_game(lambda: dream), tmp_path) as server, server.page() as page:
        page.begin("realtime", seed=1)
        reader = threading.Thread(target=lambda: _read_until_closed(page), daemon=True)
        reader.start()
        for i in range(1500):
            page.say(kind="pointer", x=i % 96, y=i % 64, at=float(i))
            if i % 3 == 0:
                page.say(kind="press" if i % 2 == 0 else "release", target="left")
        page.say(kind="pointer", x=95, y=63)
        assert within(10, lambda: bool(dream.seen) and dream.seen[-1].pointer == (95, 63) and not dream.seen[-1].events)
        kinds = [event.kind for controls in dream.seen for event in controls.events]
        assert kinds == ["press", "release"] * 250


def _read_until_silence(page: Page) -> None:
    """Take frames until there are none; TimeoutError or ConnectionClosed says which end it was."""
    while True:
        page.frame(seconds=0.3)


def _read_until_closed(page: Page) -> None:
    with contextlib.suppress(ConnectionClosed, TimeoutError):
        while True:
            page.frame()


def test_blur_lets_go_of_every_key(tmp_path: Path) -> None:
    dream = Logged()
    with served(desktop_game(lambda: dream), tmp_path) as server, server.page() as page:
        page.begin("on_input")
        for target in ("KeyA", "left"):
            page.say(kind="press", target=target)
        page.say(kind="blur")

        def let_go() -> bool:
            released = {event.target for one in dream.seen for event in one.events if event.kind == "release"}
            return released == {"KeyA", "left"}

        assert within(2, let_go)


def test_on_input_the_world_waits_for_a_hand(server: Served) -> None:
    with server.page() as page:
        page.begin("on_input")
        with pytest.raises(TimeoutError):
            page.frame(seconds=0.2)
        page.say(kind="pointer", x=5, y=6, at=123.5)
        header = page.frame()[0]
        assert (header.number, header.at) == (1, 123.5)


def test_the_world_keeps_its_own_pace(tmp_path: Path) -> None:
    with served(desktop_game(fps=10), tmp_path) as server, server.page() as page:
        page.begin("realtime")
        first, began = page.frame()[0], time.monotonic()
        while (last := page.frame()[0]).number < first.number + 10:
            pass
        rate = (last.number - first.number) / (time.monotonic() - began)
        assert 5 < rate < 11
        assert math.isnan(last.at), "no input, no echo of its time"


def test_an_idle_world_rests_until_there_is_input(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path, idle_seconds=0.3) as server, server.page() as page:
        page.begin("realtime")
        assert page.hear("idle")["on"] is True
        with pytest.raises(TimeoutError):
            _read_until_silence(page)
        page.say(kind="pointer", x=1, y=1)
        assert page.hear("idle")["on"] is False
        page.frame()


def test_sessions_are_freed_whenever_the_page_leaves(tmp_path: Path) -> None:
    dreams: list[Logged] = []

    def open_dream() -> Logged:
        dreams.append(Logged())
        dreams[-1].wait = 0.01
        return dreams[-1]

    with served(desktop_game(open_dream), tmp_path, max_sessions=64) as server:
        rng, before = random.Random(1), threading.active_count()
        for i in range(60):
            page = server.page(open_first=i % 6 != 0)
            if i % 3:
                page.say(kind="open") if i % 6 == 0 else page.say(kind="reset", begin={"seed": i})
                time.sleep(rng.random() * 0.03)
            if i % 2:
                page.socket.close()
            else:
                page.socket.socket.shutdown(socket.SHUT_RDWR)
        assert within(3, lambda: server.hall.lobby.playing == 0 and server.hall.lobby.connected == 0)
        assert within(3, lambda: all(dream.closed for dream in dreams))
        assert dreams
        assert within(2, lambda: threading.active_count() <= before + 8)
        with server.page() as page:
            page.begin("lockstep")


def test_a_full_server_says_so(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path, max_sessions=1) as server, server.page() as first:
        first.begin("lockstep")
        with server.page(open_first=False) as second:
            second.say(kind="open")
            error = second.hear("error")
            assert error["code"] == "full"
            assert "--max-sessions" in error["message"]
            with pytest.raises(ConnectionClosed):
                second.frame()
        first.step(SCRIPT[0])
        first.socket.close()
        assert within(3, lambda: server.hall.lobby.playing == 0)
        with server.page() as third:
            third.begin("lockstep")


def test_a_token_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path) as server:
        server.hall.token = "a long enough token"
        for wrong in ("", "a long enough tokem", "ä"):
            with server.page(open_first=False) as page:
                page.say(kind="open", token=wrong)
                assert page.hear("error")["code"] == "token"
        with server.page(open_first=False) as page:
            page.say(kind="open", token="a long enough token")
            page.hear("hello")


def test_a_silent_socket_is_closed(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path, open_seconds=0.2) as server, server.page(open_first=False) as page:
        assert "first one" in page.hear("error")["message"]
        with pytest.raises(ConnectionClosed):
            page.frame()


def test_a_model_that_breaks_is_said_and_can_begin_again(tmp_path: Path) -> None:
    dream = Logged()
    with served(desktop_game(lambda: dream), tmp_path) as server, server.page() as page:
        page.begin("lockstep")
        dream.broken = True
        page.say(kind="step", row={"pointer": [1, 1]})
        error = page.hear("error")
        assert error["code"] == "world"
        assert "the model broke" in error["message"]
        dream.broken = False
        page.begin("lockstep", seed=7)
        assert np.array_equal(page.step(SCRIPT[0])[0], real_frames(7, SCRIPT[:1])[1])


def test_a_wrong_step_changes_nothing(server: Served) -> None:
    with server.page() as page:
        page.begin("lockstep", seed=7)
        for row in ({"pointer": [1, 1], "events": [["press", "KeyA"], ["release", "left"]]}, {"pointer": [96, 0]}):
            page.say(kind="step", row=row)
            page.hear("error")
        expected = real_frames(7, SCRIPT)
        assert all(np.array_equal(page.step(one)[0], frame) for one, frame in zip(SCRIPT, expected[1:], strict=True))


def test_a_slow_model_does_not_block_the_others_io(tmp_path: Path) -> None:
    dream = Logged()
    dream.wait = 1.0
    with served(desktop_game(lambda: dream), tmp_path) as server, server.page() as page:
        page.begin("realtime")
        time.sleep(0.1)
        for _ in range(5):
            began = time.monotonic()
            assert get(server, "/health")[0] == 200
            assert time.monotonic() - began < 0.6


def test_a_recording_replays_to_the_same_frames(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path) as server, server.page() as page:
        page.begin("lockstep", seed=11)
        seen = [page.step(one)[0] for one in SCRIPT[:2]]
        page.say(kind="record", on=True)
        assert page.hear("recording")["on"] is True
        seen += [page.step(one)[0] for one in SCRIPT[2:]]
        page.say(kind="record", on=False)
        saved = page.hear("saved")
    header, controls = read(Path(saved["actions"]))
    assert (header.skip, header.begin.seed, controls) == (2, 11, SCRIPT)
    assert np.array_equal(decode_video(Path(saved["video"]).read_bytes()), np.stack(seen[2:]))
    again = list(frames(desktop_game(), header.begin, controls))
    assert np.array_equal(np.stack(again[1:]), np.stack(seen))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".mp4"], "nothing half written is left"


def test_a_recording_asked_for_with_a_reset_is_of_the_new_session(tmp_path: Path) -> None:
    dream = Logged()
    dream.wait = 0.05
    with served(desktop_game(lambda: dream), tmp_path) as server, server.page() as page:
        page.begin("realtime", seed=1)
        page.say(kind="reset", begin={"seed": 2})
        page.say(kind="record", on=True)
        assert page.hear("recording")["on"] is True
        page.frame()
        page.frame()
        page.say(kind="record", on=False)
        header, _ = read(Path(page.hear("saved")["actions"]))
        assert header.begin.seed == 2


def test_what_was_recorded_is_saved_when_the_page_leaves(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path) as server:
        with server.page() as page:
            page.begin("lockstep")
            page.say(kind="record", on=True)
            page.hear("recording")
            page.step(SCRIPT[0])
        assert within(3, lambda: len(list(tmp_path.glob("*.mp4"))) == 1 and len(list(tmp_path.glob("*.jsonl"))) == 1)


def test_a_recording_that_cannot_be_written_does_not_stop_the_play(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with served(desktop_game(), blocked / "played") as server, server.page() as page:
        page.begin("lockstep")
        page.say(kind="record", on=True)
        assert page.hear("error")["code"] == "recording"
        assert page.hear("recording")["on"] is False
        page.step(SCRIPT[0])


def test_pages_are_told_when_the_server_stops(tmp_path: Path) -> None:
    listener = listen("127.0.0.1", 0)
    hall = Hall(desktop_game(), tmp_path, Limits())
    server = make_server(hall)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    page = Page(connect(f"ws://{address(listener)[7:]}play", compression=None))
    page.begin("realtime")
    began, server.should_exit = time.monotonic(), True
    with pytest.raises(ConnectionClosed) as closed:
        _read_until_silence(page)
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - began < 5
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_a_port_in_use_is_said_in_one_line() -> None:
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(PortInUseError, match=f"port {port} .*--port"):
        listen("127.0.0.1", port)
    first.close()


def test_a_frame_header_comes_back_from_its_bytes() -> None:
    header = FrameHeader(2, 7, 9, 96, 64, 1234.5, 3.5, 0.25, 4, 3)
    assert FrameHeader.unpack(header.pack() + b"abcdxyz") == (header, b"abcd", b"xyz")
    with pytest.raises(ValueError, match="40 bytes"):
        FrameHeader.unpack(b"short")


def test_parse_is_quick_enough_for_a_flood() -> None:
    began = time.perf_counter()
    for _ in range(2000):
        parse('{"kind": "pointer", "x": 3, "y": 4, "at": 12.5}')
    assert time.perf_counter() - began < 1.0
