"""The doctor: every fault that it looks for gives a line that says what to do; what is well gives none."""

import copy
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from launch import doctor, probes
from launch.plan_costs import memory
from launch.probes import Interface
from launch.run_config import RunConfig, load_run
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.optimizer import moments
from wm.engine.world import World

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path: Path) -> dict[str, Any]:
    return probes.facts(str(tmp_path)) | {"skew": 0.0}


def failing(found: list[dict[str, Any]], run: RunConfig | None = None) -> dict[str, str]:
    port = doctor.port
    try:
        doctor.port = lambda number: doctor.Finding("ports", True, "")
        return {f.probe: f.text for f in doctor.diagnose(found, run, Path("nowhere")) if not f.well}
    finally:
        doctor.port = port


@pytest.mark.case("L-14")
def test_this_machine_is_told_in_less_than_a_minute_and_left_as_it_was(tmp_path: Path, capsys):
    began = time.monotonic()
    code = doctor.main(["--root", str(tmp_path)])
    assert time.monotonic() - began < 60
    lines = capsys.readouterr().out.splitlines()
    names = ["versions", "GPUs", "network", "shared", "clock", "storage", "ports"]
    assert [line[5:].split()[0] for line in lines] == names
    assert code == int(any(line.startswith("FAIL") for line in lines))
    assert list(tmp_path.iterdir()) == []


def test_two_equal_nodes_are_well(here):
    assert failing([here, copy.deepcopy(here) | {"host": "other"}]).keys() <= {"shared memory", "storage"}


@pytest.mark.case("L-11", "L-12", "L-14")
@pytest.mark.parametrize(
    ("probe", "changed", "words"),
    [
        ("versions", {"versions": {"python": "3.99"}}, "python .* and 3.99.*run make setup on all"),
        (
            "network",
            {"interface": Interface("ib7", "10.0.0.7", False, ())},
            "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME",
        ),
        (
            "network",
            {"interface": Interface("ib7", "", True, ("lo", "eth3"))},
            "ib7 is not there: other has only lo, eth3",
        ),
        ("shared memory", {"shared_memory": 64 << 20}, "other: 0.1 GiB free in /dev/shm.*--shm-size"),
        ("clock", {"skew": 31.5}, "other: at most 31.5 s off.*NTP"),
        ("storage", {"storage": {"error": "Read-only file system"}}, "other: Read-only.*every node can write"),
        ("storage", {"storage": {"free": 1 << 30, "seconds": 0.1}}, "1 GiB free; checkpoints need more"),
    ],
)
def test_what_is_wrong_on_one_of_two_nodes_is_named(probe: str, changed: dict[str, Any], words: str, here, monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    here |= {"shared_memory": 8 << 30, "storage": {"free": 1 << 40, "seconds": 0.1}}
    found = failing([here, copy.deepcopy(here) | {"host": "other"} | changed])
    assert list(found) == [probe]
    assert re.search(words, found[probe])


def test_more_gpus_than_there_are(here):
    run = load_run(ROOT / "configs/smoke/dit.yaml", ["resources.gpus_per_worker=1", "resources.num_workers=9"])
    found = failing([here | {"gpus": [("H", 80 << 30)]}], run)
    assert "the file asks for 9" in found["GPUs"]
    assert "run the record stage" in found["shards"]


@pytest.mark.case("L-14")
def test_storage_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert "error" in probes.storage(tmp_path / "file" / "root")


def test_a_port_in_use_is_seen():
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))  # from now on nobody else is given it, and until somebody listens it can be bound
        number = held.getsockname()[1]
        assert doctor.port(number).well
        held.listen()
        assert not doctor.port(number).well


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_estimate_is_what_a_learner_holds(precision: str, average: float):
    """Alone, where ZeRO divides nothing: bytes of LocalLearner's tensors, each storage once. Its gradients are float32."""
    module = nn.Sequential(nn.Linear(30, 50), nn.Linear(50, 20))
    config = LearnerConfig(precision=precision, average_decay=average, zero_stage=1)
    learner = LocalLearner(module, config, num_steps=1, world=World.single())
    numel = sum(p.numel() for p in module.parameters())
    kept = [t for group in learner._groups for t in (group.master, group.low, group.gradient)]
    kept += [t for group in learner._groups for t in moments(learner._optimizer, group.master).values()]
    kept += learner._average.tensors if learner._average is not None else []
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept if isinstance(t, torch.Tensor)}
    alike = 0 if precision == "float32" else 1  # where it keeps masters, as ZeRO 1 does, and where not
    assert sum(held.values()) == memory(numel, config, alike, 1).total
