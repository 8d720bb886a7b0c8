"""Recording while a page plays: files that replay to the same frames, whole or absent."""

from pathlib import Path

import numpy as np

from data_pipeline.video import decode as decode_video
from tests.playing import SCRIPT, Logged, desktop_game, served, within
from tools.actions import read
from tools.batch import frames


def test_a_recording_replays_to_the_same_frames(tmp_path: Path) -> None:
    with served(desktop_game(), tmp_path) as server, server.page() as page:
        page.begin("lockstep", seed=11)
        seen = [page.step(one) for one in SCRIPT[:2]]
        page.say(kind="record", on=True)
        assert page.hear("recording")["on"] is True
        seen += [page.step(one) for one in SCRIPT[2:]]
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
        (seat,) = server.hall.cloakroom.seats.values()
        # Of the new session; the frames that come to the page may still be older ones.
        assert within(20, lambda: (seat.play.number or 0) >= 1)
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
        assert within(20, lambda: len(list(tmp_path.glob("*.mp4"))) == 1 and len(list(tmp_path.glob("*.jsonl"))) == 1)


def test_a_recording_that_cannot_be_written_does_not_stop_the_play(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with served(desktop_game(), blocked / "played") as server, server.page() as page:
        page.begin("lockstep")
        page.say(kind="record", on=True)
        assert page.hear("error")["code"] == "recording"
        assert page.hear("recording")["on"] is False
        page.step(SCRIPT[0])
