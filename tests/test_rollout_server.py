"""The server of the page: exact frames, the right guests only, and nothing left behind when they go."""

import json
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from data_pipeline.controls import Controls
from tests.playing import PATIENCE, SCRIPT, Logged, Page, Served, desktop_game, get, real_frames, served, within
from tools.gate import Limits
from tools.server import Hall, PortInUseError, address, listen, make_server


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
            dreamed, real = page.step_both(controls)
            assert np.array_equal(dreamed, frame)
            assert real is not None
            assert np.array_equal(real, frame)
    assert not np.array_equal(expected[1], expected[-1])


def test_sessions_do_not_know_of_each_other(server: Served) -> None:
    other = [Controls((90 - 3 * i, 5 * i)) for i in range(len(SCRIPT))]
    with server.page() as a, server.page() as b:
        a.begin("lockstep", seed=1)
        b.begin("lockstep", seed=2)
        seen = [(a.step(one), b.step(two)) for one, two in zip(SCRIPT, other, strict=True)]
    for (left, right), frame_a, frame_b in zip(
        seen, real_frames(1, SCRIPT)[1:], real_frames(2, other)[1:], strict=True
    ):
        assert np.array_equal(left, frame_a)
        assert np.array_equal(right, frame_b)


def test_sessions_are_freed_whenever_the_page_leaves(tmp_path: Path) -> None:
    dreams: list[Logged] = []

    def open_dream() -> Logged:
        dreams.append(Logged())
        dreams[-1].wait = 0.01
        return dreams[-1]

    with served(desktop_game(open_dream), tmp_path, max_sessions=64, grace_seconds=0.2) as server:
        rng, before = random.Random(1), threading.active_count()
        for i in range(60):
            page = server.page(open_first=i % 6 != 0)
            if i % 3:
                page.say(kind="open") if i % 6 == 0 else page.say(kind="reset", begin={"seed": i})
                time.sleep(rng.random() * 0.03)
            if i % 2:
                page.socket.close()
            else:
                page.lose()
        assert within(20, lambda: server.hall.lobby.playing == 0 and server.hall.lobby.connected == 0)
        assert within(20, lambda: all(dream.closed for dream in dreams))
        assert dreams
        assert within(20, lambda: threading.active_count() <= before + 8)
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
        assert within(20, lambda: server.hall.lobby.playing == 0)
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
        assert np.array_equal(page.step(SCRIPT[0]), real_frames(7, SCRIPT[:1])[1])


def test_pages_are_told_when_the_server_stops(tmp_path: Path) -> None:
    listener = listen("127.0.0.1", 0)
    hall = Hall(desktop_game(), tmp_path, Limits())
    server = make_server(hall)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    page = Page(connect(f"ws://{address(listener)[7:]}play", compression=None))
    page.begin("realtime")
    server.config.timeout_graceful_shutdown = 600  # it ends because its pages go, not because it has waited for them
    server.should_exit = True
    with pytest.raises(ConnectionClosed) as closed:
        page.until_silence(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_a_port_in_use_is_said_in_one_line() -> None:
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(PortInUseError, match=f"port {port} .*--port"):
        listen("127.0.0.1", port)
    first.close()
