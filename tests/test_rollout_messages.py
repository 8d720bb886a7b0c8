"""What pages say: nonsense is answered, harms nobody, and is bounded before it is read."""

import random
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from tests.playing import SCRIPT, Served, real_frames, within
from tools.messages import MAX_MESSAGE_BYTES, FrameHeader, parse

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
        assert all(np.array_equal(good.step(one), frame) for one, frame in zip(SCRIPT, expected[1:], strict=True))
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
        assert np.array_equal(good.step(SCRIPT[0]), real_frames(3, SCRIPT[:1])[1])
    assert within(20, lambda: server.hall.lobby.playing == 0)


def test_a_message_that_is_too_long_closes_only_its_own_socket(server: Served) -> None:
    with server.page() as good, server.page() as bad:
        good.begin("lockstep")
        bad.socket.send(" " * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            bad.hear("error")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        good.step(SCRIPT[0])


def test_a_wrong_step_changes_nothing(server: Served) -> None:
    with server.page() as page:
        page.begin("lockstep", seed=7)
        for row in ({"pointer": [1, 1], "events": [["press", "KeyA"], ["release", "left"]]}, {"pointer": [96, 0]}):
            page.say(kind="step", row=row)
            page.hear("error")
        expected = real_frames(7, SCRIPT)
        assert all(np.array_equal(page.step(one), frame) for one, frame in zip(SCRIPT, expected[1:], strict=True))


def test_a_frame_header_comes_back_from_its_bytes() -> None:
    header = FrameHeader(2, 7, 9, 96, 64, 1234.5, 3.5, 0.25, 4, 3)
    assert FrameHeader.unpack(header.pack() + b"abcdxyz") == (header, b"abcd", b"xyz")
    with pytest.raises(ValueError, match="40 bytes"):
        FrameHeader.unpack(b"short")


def test_parse_is_quick_enough_for_a_flood() -> None:
    began = time.thread_time()  # not what others take of the machine
    for _ in range(2000):
        parse('{"kind": "pointer", "x": 3, "y": 4, "at": 12.5}')
    assert time.thread_time() - began < 1.0
