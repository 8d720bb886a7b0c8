"""How fast every two nodes of a cluster reduce together, over gloo and the interface that training takes."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

MEET_SECONDS = 10.0  # for two nodes to find each other, and for each reduction
PAIR_SECONDS = 25.0  # for both to say how it went: gloo tries more than once, and a process of Ray's has to start
TOTAL_SECONDS = 30.0  # after which no more pairs are asked
SIZE = 4 << 20  # bytes that are reduced at a time
LOOK_SECONDS = 0.25  # of reductions, about
SLOW = 0.25  # a pair below this part of the median is named


class Link(NamedTuple):
    """Between the nodes of two numbers: bytes that each sends in a second, or what went wrong."""

    first: int
    second: int
    speed: float
    error: str = ""


# Given pairs of numbers and a mark, the links between them, measured at the same time.
Meet = Callable[[Sequence[tuple[int, int]], str], list[Link]]


def rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """All pairs of `count` numbers, in rounds in which no number is twice: a tournament by the circle method."""
    seats: list[int | None] = [*range(count), *([None] if count % 2 else [])]
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        met = zip(seats[:half], reversed(seats[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in met if a is not None and b is not None]
        seats = [seats[0], seats[-1], *seats[1:-1]]


def every_pair(count: int, meet: Meet) -> list[Link]:
    """The links between `count` nodes, round by round; those alone that were begun within TOTAL_SECONDS."""
    end, found = time.monotonic() + TOTAL_SECONDS, list[Link]()
    for number, pairs in enumerate(rounds(count)):
        if time.monotonic() > end:
            break
        found += meet(pairs, f"round-{number}")
    return found


def reduce_with(address: str, port: int, mark: str, rank: int) -> tuple[float, str]:
    """Bytes a second that this process sends to the other one with `mark` at the store, and "", or 0 and what is wrong.

    In a ring of two, a reduction of n bytes sends n bytes each way.
    """
    patience = timedelta(seconds=MEET_SECONDS)
    try:
        store = dist.PrefixStore(mark, dist.TCPStore(address, port, is_master=False, timeout=patience))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
    except (RuntimeError, ValueError) as error:
        return 0.0, _line(error)
    try:
        return _speed(rank), ""
    except RuntimeError as error:
        return 0.0, _line(error)
    finally:
        dist.destroy_process_group()


def judge(links: Sequence[Link], hosts: Sequence[str]) -> tuple[bool, str]:
    """Whether all pairs of `hosts` are well, and what was measured or what to do about the worst."""
    broken = [link for link in links if link.error]
    if broken:
        first, others = broken[0], f" and {len(broken) - 1} more pairs" if len(broken) > 1 else ""
        return False, (
            f"{hosts[first.first]} and {hosts[first.second]}{others} do not reduce together ({first.error}): set "
            "GLOO_SOCKET_IFNAME on all nodes to an interface that joins them, and let all their ports through"
        )
    speeds = [link.speed for link in links]
    worst, median = min(links, key=lambda link: link.speed), statistics.median(speeds)
    names, total = f"{hosts[worst.first]} and {hosts[worst.second]}", len(hosts) * (len(hosts) - 1) // 2
    left = "" if len(links) == total else f", {total - len(links)} pairs not asked for want of time"
    text = f"{len(links)} pairs over gloo, {_said(min(speeds))} to {_said(max(speeds))}{left}"
    if worst.speed < SLOW * median:
        return False, f"{text}; {names} are slow, the median is {_said(median)}: look at their cables and interfaces"
    return True, text


def _speed(rank: int) -> float:
    tensor = torch.full((SIZE // 4,), float(rank + 1))
    began = time.monotonic()
    dist.all_reduce(tensor)
    if not torch.equal(tensor, torch.full_like(tensor, 3.0)):
        raise RuntimeError("the sum that came back is wrong")
    times = torch.tensor([max(1, min(200, int(LOOK_SECONDS / (time.monotonic() - began))))])
    dist.broadcast(times, src=0)
    began = time.monotonic()
    for _ in range(int(times)):
        dist.all_reduce(tensor)
    return SIZE * int(times) / (time.monotonic() - began)


def _said(speed: float) -> str:
    return f"{speed / 1e9:.2f} GB/s"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
