"""Ray tasks: how many Ray is given, what they share, and the order of what comes back."""

from collections.abc import Iterator
from typing import Any

import pytest
from ray.cluster_utils import Cluster as RayCluster

from launch.cluster import Cluster
from launch.prepare import AHEAD
from launch.resources import Resources
from tests.waiting import slept

pytestmark = pytest.mark.slow
CORES = 6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Ray is told of six cores and one GPU; nothing computes on it."""
    head = {"num_cpus": CORES, "num_gpus": 1, "include_dashboard": False}
    made = RayCluster(initialize_head=True, head_node_args=head)
    try:
        with Cluster(made.address) as connected:
            yield connected
    finally:
        made.shutdown()


class Taken(list[tuple[Any, ...]]):
    """Tasks that count how many were taken so far."""

    count = 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for task in super().__iter__():
            self.count += 1
            yield task


def test_ray_is_given_a_few_tasks_more_than_it_can_run_and_answers_keep_their_order(cluster: Cluster) -> None:
    tasks = Taken((number, 0.05 * (number % 3)) for number in range(40))
    ahead: list[int] = []
    places = Resources(cpus_per_worker=2)
    answers = cluster.map_tasks(slept, tasks, places, lambda done: ahead.append(tasks.count - done))
    assert [answer["number"] for answer in answers] == list(range(40))
    assert max(ahead) == AHEAD * CORES // 2 - 1  # one has just ended
    assert ahead[-1] == 0


def test_four_tasks_share_a_gpu_where_each_asks_for_a_quarter(cluster: Cluster) -> None:
    quarter = Resources(cpus_per_worker=0.5, gpus_per_worker=0.25)
    answers = cluster.map_tasks(slept, [(number, 2.0) for number in range(8)], quarter, lambda done: None)
    assert {answer["gpus"] for answer in answers} == {"0"}
    spans = [answer["span"] for answer in answers]
    at_once = [sum(began <= moment < ended for began, ended in spans) for moment, _ in spans]
    assert max(at_once) == 4  # there are cores for twelve
