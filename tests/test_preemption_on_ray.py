"""Ray says that a node will be taken away: the training saves at once, and goes on without it or asks to be queued again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray._raylet
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from launch.entry import REQUEUE
from tests.waiting import wait_for
from wm.engine import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.case("L-05")]

HERE = Path(__file__).parent.parent
SMOKE = HERE / "configs" / "smoke"
PATIENCE = 300.0  # seconds, on a machine that does much else
NOTICE_SECONDS = 120  # from the notice until the node would go
TRAINING = ["loop.num_steps=100000", "loop.save_every=0", "loop.log_every=1", "loop.sample_every=0"]
WORKERS = ["resources.num_workers=2", "resources.cpus_per_worker=1"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and another node, with room for one worker each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    command = [sys.executable, "-m", "launch.run", str(SMOKE / "record.yaml"), "--root", str(tmp_path / "smoke")]
    subprocess.run([*command, "--local"], cwd=HERE, check=True, capture_output=True, timeout=PATIENCE)
    return tmp_path / "smoke"


def start(cluster: Cluster, root: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "launch.run", str(SMOKE / "vae.yaml"), "--root", str(root)]
    environment = os.environ | {"WM_FAILPOINTS": "loop.step=sleep:0.1@1+"}
    return subprocess.Popen(
        [*command, "--address", cluster.address, *TRAINING, *WORKERS, *more],
        cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def take_away(cluster: Cluster) -> None:
    """What a cloud's notice makes of the second node."""
    (node,) = cluster.worker_nodes
    client = ray._raylet.GcsClient(address=cluster.address)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    end = (time.time_ns() // 1_000_000) + NOTICE_SECONDS * 1000
    accepted, why = client.drain_node(node.node_id, reason, "a test", end)
    assert accepted, why


def wait_beside(driver: "subprocess.Popen[str]", what: str, condition: Callable[[], Any]) -> None:
    def said() -> str:
        driver.kill()
        return driver.communicate()[0]

    wait_for(condition, what, PATIENCE, said, lambda: driver.poll() is None)


def steps(root: Path) -> int:
    path = root / "vae" / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return json.loads(rows[-1])["step"] if rows else 0


def newest(root: Path) -> dict[str, Any] | None:
    path = checkpoint.latest(root / "vae" / "checkpoints")
    return None if path is None else checkpoint.manifest(path)


def test_a_training_that_needs_all_its_workers_asks_to_be_queued_again(cluster: Cluster, root: Path) -> None:
    driver = start(cluster, root)
    wait_beside(driver, "some steps", lambda: steps(root) > 5)
    began = time.monotonic()
    take_away(cluster)
    said = driver.communicate(timeout=NOTICE_SECONDS)[0]
    assert time.monotonic() - began < NOTICE_SECONDS / 2
    assert driver.returncode == REQUEUE, said
    saved = newest(root)
    assert saved is not None
    assert f"saved at step {saved['step']}: Ray takes a node away" in said
    assert "Go on with: python -m launch.run" in said
    assert saved["step"] == steps(root)


def test_one_that_may_shrink_goes_on_without_the_node(cluster: Cluster, root: Path) -> None:
    driver = start(cluster, root, "resources.min_workers=1")
    wait_beside(driver, "some steps", lambda: steps(root) > 5)
    take_away(cluster)
    wait_beside(driver, "a checkpoint", lambda: newest(root))
    saved = newest(root)
    assert saved is not None
    wait_beside(driver, "steps without the node", lambda: steps(root) > saved["step"] + 5)
    driver.terminate()
    said = driver.communicate(timeout=PATIENCE)[0]
    assert driver.returncode == REQUEUE, said
    after = newest(root)
    assert after is not None
    assert (saved["world_size"], after["world_size"]) == (2, 1)
    rows = [json.loads(line)["step"] for line in (root / "vae" / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, after["step"] + 1))  # no step was done twice, none left out
