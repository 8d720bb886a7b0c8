"""Failpoints: each that is declared is in the code and the other way round; they hit when, where and how they were armed."""

import errno
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wm.engine import failpoints
from wm.engine.failpoints import POINTS, Fault, arm, reach

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def test_what_is_declared_is_in_the_code():
    texts = [path.read_text() for path in (ROOT / "wm").rglob("*.py")]
    assert sorted(re.findall(r'failpoints\.reach\("([\w.]+)"', " ".join(texts))) == sorted(
        [*POINTS, "learner.gradients", "learner.applied"]
    )


@pytest.mark.parametrize(("when", "hits"), [("", [1]), ("@3", [3]), ("@3+", [3, 4, 5])])
def test_it_hits_at_the_arrivals_that_were_asked_for(when: str, hits: list[int]):
    arm(f"loop.step=raise{when}, loop.finish=raise")
    found = []
    for arrival in range(1, 6):
        try:
            reach("loop.step")
        except Fault:
            found.append(arrival)
    assert found == hits
    reach("loop.stepped")


def test_another_rank_is_spared():
    """A process alone is rank 0."""
    arm("loop.step/1=raise, loop.finish/0=raise")
    reach("loop.step")
    with pytest.raises(Fault):
        reach("loop.finish")


@pytest.mark.parametrize(("action", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO), ("erofs", errno.EROFS)])
def test_a_bad_disk_says_which(action: str, number: int, tmp_path: Path):
    arm(f"checkpoint.file={action}")
    with pytest.raises(OSError, match=r"failpoint checkpoint\.file") as caught:
        reach("checkpoint.file", tmp_path)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))


def test_corrupt_flips_one_bit_and_keeps_the_size(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(11)))
    arm("checkpoint.file=corrupt")
    reach("checkpoint.file", path)
    changed = [one ^ other for one, other in zip(path.read_bytes(), range(11), strict=True)]
    assert sorted(changed) == [0] * 10 + [1]


def test_sleep_takes_its_time():
    arm("loop.step=sleep:0.05")
    before = time.monotonic()
    reach("loop.step")
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loop.stop=kill", "names loop.stop; there are loop.resumed, "),
        ("loop.step=explode", "the action explode; there are kill"),
        ("loop.step", r"needed is name\[/rank\]=action"),
        ("loop.step=sleep", "sleep needs seconds"),
        ("loop.step=kill:3", "no other action takes a number"),
    ],
)
def test_a_slip_is_one_clear_line(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        arm(text)


def test_the_environment_arms_at_the_first_place_and_off_is_free(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "loop.step=raise@2")
    monkeypatch.setattr(failpoints, "_armed", None)
    reach("loop.step")
    with pytest.raises(Fault):
        reach("loop.step")
    arm("")
    before = time.thread_time()  # not what others take of the machine
    for _ in range(100_000):
        reach("loop.step")
    assert (time.thread_time() - before) / 100_000 < 5e-6  # slow machines included; 0.1 us is usual
