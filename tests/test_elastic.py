"""How many workers a training takes: the global batch divides among them, they have room, and there are enough of them."""

import itertools
import logging
import random
import threading
from pathlib import Path

import pytest

from launch import elastic
from launch.entry import StageError
from launch.resources import Resources
from launch.run_config import RunConfig, load_run
from wm.config import ConfigError

SMOKE = Path(__file__).parent.parent / "configs" / "smoke"


def training(batch: int, most: int, fewest: int = 0, *more: str) -> RunConfig:
    limits = [f"resources.num_workers={most}", f"resources.min_workers={fewest}", "resources.cpus_per_worker=1"]
    return load_run(SMOKE / "vae.yaml", [f"data.global_batch_size={batch}", *limits, *more])


@pytest.mark.parametrize("batch", [1, 6, 8, 30])
def test_the_most_workers_that_divide_the_batch_and_have_room(batch: int) -> None:
    for most, fewest, places in itertools.product(range(1, 9), range(1, 9), range(10)):
        good = [n for n in range(fewest, most + 1) if batch % n == 0]
        if not good:
            continue
        run = training(batch, most, fewest)
        assert elastic.sizes(run) == sorted(good, reverse=True)
        assert elastic.largest(run, places) == max((n for n in good if n <= places), default=0)


def test_room_is_what_fits_on_single_nodes() -> None:
    """Against placing workers one by one where there is room: a worker is never on two nodes."""
    draw = random.Random(3)
    for _ in range(200):
        nodes = [
            {"CPU": float(draw.randint(0, 9)), "GPU": float(draw.randint(0, 3))} for _ in range(draw.randint(0, 4))
        ]
        wants = Resources(cpus_per_worker=draw.choice([1.0, 1.5, 2.0]), gpus_per_worker=draw.choice([0.0, 1.0]))
        left, placed = [dict(node) for node in nodes], 0
        for node in left:
            while node["CPU"] >= wants.cpus and node["GPU"] >= wants.gpus_per_worker:
                node["CPU"] -= wants.cpus
                node["GPU"] -= wants.gpus_per_worker
                placed += 1
        assert elastic.room(nodes, wants) == placed
    assert elastic.room([{"CPU": 1.0}], Resources(cpus_per_worker=1 / 3)) == 3
    assert elastic.room([{"CPU": 64.0}], Resources(cpus_per_worker=1.0, gpus_per_worker=1.0)) == 0


def test_a_run_without_limits_takes_all_its_workers_or_none() -> None:
    run = training(6, 3)
    assert not run.resources.elastic
    assert elastic.sizes(run) == [3]
    assert elastic.largest(run, 2) == 0
    assert training(6, 3, 2).resources.elastic


def test_limits_that_no_run_can_keep_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_workers 4 must be from 0 to num_workers, 3"):
        training(6, 3, 4)
    with pytest.raises(
        ConfigError, match="global_batch_size 7 does not divide among any number of workers from 2 to 5"
    ):
        elastic.sizes(training(7, 5, 2))


def test_it_waits_for_the_fewest_and_says_so_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(elastic, "LOOK_SECONDS", 0.01)
    places = iter([0, 1, 1, 5])
    with caplog.at_level(logging.WARNING):
        assert elastic.settle(training(12, 6, 2), lambda: next(places)) == 4
    waits, trains = [record.getMessage() for record in caplog.records]
    assert waits == "the nodes that answer have room for 0 workers of 1 cores, needed are 2; waits for nodes"
    assert trains == "trains on 4 of at most 6 workers"


def test_it_does_not_wait_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(elastic, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(elastic, "WAIT_SECONDS", 0.05)
    with pytest.raises(StageError, match="room for 1 workers of 1 cores, needed are 2, for 0 s; add nodes"):
        elastic.settle(training(12, 6, 2), lambda: 1)


@pytest.mark.parametrize(
    ("nodes", "grown"), [([3], True), ([2, 3, 3], True), ([2], False), ([2, 3, 2, 3, 2], False)], ids=str
)
def test_it_grows_when_room_lasts_and_stops_watching_at_the_end(
    nodes: list[int], grown: bool, tmp_path: Path, monkeypatch
) -> None:
    """Looks that find these many nodes of one core each, one after the other; the last goes on."""
    looks = itertools.chain(nodes, itertools.repeat(nodes[-1]))
    monkeypatch.setattr(elastic, "answering", lambda: [{"CPU": 1.0}] * next(looks))
    monkeypatch.setattr(elastic, "_free", lambda wants, more: True)
    monkeypatch.setattr(elastic, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(elastic, "STAY_SECONDS", 0.05)
    stop = tmp_path / "stop"
    with elastic.growing(training(6, 3, 1), 2, stop) as asked:
        assert asked.wait(20.0 if grown else 0.5) == grown
    watch = next((t for t in threading.enumerate() if t.name == "growing"), None)
    if watch is not None:
        watch.join(20)
        assert not watch.is_alive()
    assert stop.exists() == grown
