"""Every pair of nodes reduces together once, in rounds that do not collide, and what is wrong between two is named."""

import itertools
import multiprocessing
import re
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from torch.distributed import TCPStore

from launch import bandwidth
from launch.bandwidth import Link

HOSTS = ["ant", "bee", "cat", "dog"]


@pytest.mark.parametrize("count", range(1, 10))
def test_every_pair_meets_once_and_nobody_is_at_two_places(count: int) -> None:
    held = list(bandwidth.rounds(count))
    for pairs in held:
        busy = [number for pair in pairs for number in pair]
        assert len(busy) == len(set(busy))
    assert sorted(itertools.chain(*held)) == list(itertools.combinations(range(count), 2))
    assert len(held) <= count  # the fewest rounds that there can be: count - 1, and one more where it is odd


def test_pairs_are_asked_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]  # seconds that only the rounds take
    monkeypatch.setattr(bandwidth, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def meet(pairs: Sequence[tuple[int, int]], mark: str) -> list[Link]:
        now[0] += bandwidth.TOTAL_SECONDS + 1
        return [Link(*pair, 2e9) for pair in pairs]

    links = bandwidth.every_pair(4, meet)
    assert len(links) == 2
    well, text = bandwidth.judge(links, HOSTS)
    assert well
    assert text == "2 pairs over gloo, 2.00 GB/s to 2.00 GB/s, 4 pairs not asked for want of time"


def test_a_pair_that_does_not_meet_and_one_that_is_slow_are_named() -> None:
    links = [Link(*pair, 1e9) for pair in itertools.combinations(range(4), 2)]
    assert bandwidth.judge(links, HOSTS) == (True, "6 pairs over gloo, 1.00 GB/s to 1.00 GB/s")
    slow = [link._replace(speed=2e8) if link[:2] == (1, 3) else link for link in links]
    well, text = bandwidth.judge(slow, HOSTS)
    assert not well
    assert "bee and dog are slow, the median is 1.00 GB/s" in text
    broken = [link._replace(speed=0.0, error="refused") if 2 in link[:2] else link for link in links]
    well, text = bandwidth.judge(broken, HOSTS)
    assert not well
    assert re.match("ant and cat and 2 more pairs do not reduce together .refused.: set GLOO_SOCKET_IFNAME", text)


def _meet(port: int, rank: int, seconds: float, answers: "multiprocessing.Queue[tuple[float, str]]") -> None:
    bandwidth.MEET_SECONDS = seconds
    answers.put(bandwidth.reduce_with("127.0.0.1", port, "here", rank))


@pytest.mark.parametrize("ranks", [(0, 1), (0,)])
def test_two_processes_reduce_and_one_alone_says_why_not(ranks: tuple[int, ...]) -> None:
    seconds = 120.0 if len(ranks) == 2 else 1.0  # one may be long in starting, and the other waits for it
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may stand still
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    answers = spawn.Queue()
    started = [spawn.Process(target=_meet, args=(store.port, rank, seconds, answers), daemon=True) for rank in ranks]
    for process in started:
        process.start()
    found = [answers.get(timeout=300) for _ in started]
    for process in started:
        process.join(20)
    for speed, error in found:
        assert (speed > 0) == (len(ranks) == 2)
        assert bool(error) == (len(ranks) == 1)
