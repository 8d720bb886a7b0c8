"""A lost line: the page that comes back with its ticket finds its session as it was; nobody else does, and not for ever."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from tests.playing import SCRIPT, Held, Logged, Served, desktop_game, real_frames, served, within


def test_a_page_that_lost_the_line_goes_on_where_it_was(server: Served) -> None:
    expected = real_frames(7, SCRIPT)
    with server.page() as page:
        ticket = page.hello["session"]
        assert (page.hello["resumed"], page.hello["number"]) == (False, None)
        page.begin("lockstep", real=True, seed=7)
        for one in SCRIPT[:3]:
            page.step(one)
        page.say(kind="settings", pacing="lockstep", codec="png", real=True)
        sent = page.sent
        page.lose()
    with server.page(session=ticket) as page:
        assert (page.hello["resumed"], page.hello["number"], page.hello["session"]) == (True, 3, ticket)
        header, dreamed, real = page.frame()
        assert (header.frame, header.number) == (sent + 1, 3), "the newest frame again, under the id that follows"
        assert np.array_equal(dreamed, expected[3])
        assert real is not None
        assert np.array_equal(real, expected[3])
        for one, frame in zip(SCRIPT[3:], expected[4:], strict=True):
            dreamed, real = page.step_both(one)
            assert np.array_equal(dreamed, frame)
            assert real is not None
            assert np.array_equal(real, frame)
    assert within(20, lambda: server.hall.lobby.playing == 0), "a goodbye ends the session at once"


def test_a_step_that_the_line_swallowed_is_answered_after_the_return(tmp_path: Path) -> None:
    dream = Held()
    with served(desktop_game(lambda: dream), tmp_path) as server:
        page = server.page()
        page.begin("lockstep", seed=7)
        page.say(kind="step", row={"pointer": list(SCRIPT[0].pointer)})
        assert dream.begun.wait(20)
        page.lose()
        with server.page(session=page.hello["session"]) as again:
            dream.go.set()
            while (frame := again.frame())[0].number < 1:
                pass
            assert np.array_equal(frame[1], real_frames(7, SCRIPT[:1])[1])
            assert len(dream.seen) == 1


def test_the_world_waits_and_lets_go_while_its_page_is_away(tmp_path: Path) -> None:
    dream = Logged()
    with served(desktop_game(lambda: dream), tmp_path) as server:
        page = server.page()
        page.begin("realtime")
        page.say(kind="press", target="left")
        assert within(20, lambda: any(one.events for one in dream.seen))
        page.lose()
        seat = server.hall.cloakroom.seats[page.hello["session"]]
        assert within(20, lambda: seat.connection is None)
        assert within(20, lambda: not seat.play._advancing)  # a frame that was being made is finished
        frames = len(dream.seen)
        time.sleep(0.3)
        assert len(dream.seen) == frames
        with server.page(session=seat.ticket) as again:
            again.frame()
            assert within(20, lambda: [e.kind for one in dream.seen for e in one.events] == ["press", "release"])


def test_a_wrong_ticket_is_refused_and_one_that_ran_out_begins_anew(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path, grace_seconds=0.2) as server:
        page = server.page()
        page.begin("lockstep", seed=3)
        ticket = page.hello["session"]
        for wrong in (ticket[:-1] + ("0" if ticket[-1] != "0" else "1"), "made up", ".", "ä", "x" * 200):
            with server.page(open_first=False) as thief:
                thief.say(kind="open", session=wrong)
                assert thief.hear("error")["code"] == "session"
                with pytest.raises(ConnectionClosed):
                    thief.frame()
        page.step(SCRIPT[0])
        page.lose()
        assert within(20, lambda: server.hall.lobby.playing == 0)
        with server.page(session=ticket) as late:
            assert late.hello["resumed"] is False
            assert late.hello["session"] != ticket
            late.begin("lockstep", seed=3)
            assert np.array_equal(late.step(SCRIPT[0]), real_frames(3, SCRIPT[:1])[1])


def test_the_ticket_takes_the_session_from_a_line_that_the_server_believes_in(server: Served) -> None:
    with server.page() as old:
        old.begin("lockstep", seed=7)
        old.step(SCRIPT[0])
        with server.page(session=old.hello["session"]) as new:
            assert new.hello["resumed"] is True
            assert new.frame()[0].number == 1
            with pytest.raises(ConnectionClosed):
                old.frame()
            assert np.array_equal(new.step(SCRIPT[1]), real_frames(7, SCRIPT[:2])[2])
            assert server.hall.lobby.playing == 1


def test_who_is_away_makes_room_for_who_is_here(tmp_path: Path) -> None:
    dreams: list[Logged] = []

    def open_dream() -> Logged:
        dreams.append(Logged())
        return dreams[-1]

    with served(desktop_game(open_dream), tmp_path, max_sessions=1) as server:
        away = server.page()
        away.begin("lockstep")
        away.lose()
        assert within(20, lambda: server.hall.cloakroom.seats[away.hello["session"]].connection is None)
        with server.page() as here:
            here.begin("lockstep")
            here.step(SCRIPT[0])
            assert within(20, lambda: dreams[0].closed)
            assert (server.hall.lobby.playing, len(server.hall.cloakroom.seats)) == (1, 1)


def test_a_server_that_ends_frees_who_is_away(tmp_path: Path) -> None:
    dream, before = Logged(), threading.active_count()
    with served(desktop_game(lambda: dream), tmp_path) as server:
        page = server.page()
        page.begin("lockstep")
        page.lose()
        assert within(20, lambda: server.hall.cloakroom.seats[page.hello["session"]].connection is None)
    assert within(20, lambda: dream.closed)
    assert within(20, lambda: threading.active_count() <= before)
