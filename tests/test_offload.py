"""Moments and averages off the device: piece by piece the same steps, in files that nobody has to clean up."""

from pathlib import Path

import pytest
import torch
from torch import nn

from wm.engine import offload
from wm.engine.average import Average
from wm.engine.learner import LearnerConfig
from wm.engine.offload import Shelf
from wm.engine.optimizer import build_optimizer, moments, parameter_groups


@pytest.fixture(params=["host", "files"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(offload, "PIECE", 64)
    return Shelf(str(tmp_path / "files") if request.param == "files" else "")


def test_steps_in_pieces_are_steps(shelf: Shelf) -> None:
    """Flats of several pieces with a rest, of one, and of less than one; average included, bit for bit."""
    settings = {"rate": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.2, "momentum": 0.9, "iterations": 3}
    runs = []
    for kept in (None, shelf):
        torch.manual_seed(7)
        module = nn.ParameterDict({str(n): nn.Parameter(torch.randn(n, 1)) for n in (199, 64, 5)})
        groups = parameter_groups(module)
        flats = [p for group in groups for _, p in group.named]
        optimizer = build_optimizer(
            groups,
            [[p for _, p in g.named] for g in groups],
            muon=False,
            iterate_in=torch.float32,
            shelf=kept,
            **settings,
        )
        average = Average(flats, 0.7, kept)
        for _ in range(4):
            for flat in flats:
                flat.grad = torch.randn_like(flat)
            optimizer.step()
            average.update(flats)
        held = [*flats, *average.tensors, *(m for flat in flats for m in moments(optimizer, flat).values())]
        runs.append([tensor.detach().clone() for tensor in held])
        assert {float(optimizer.state[flat]["step"]) for flat in flats} == {4.0}
    assert len(runs[0]) == 12
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_file_is_memory_that_leaves_nothing_behind(tmp_path: Path) -> None:
    values = torch.arange(5000.0).view(50, 100)
    kept = Shelf(str(tmp_path / "files")).keep(values)
    assert torch.equal(kept, values)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "files" / "wm-offload-") in maps
    assert not list((tmp_path / "files").iterdir())
    del kept
    assert str(tmp_path / "files" / "wm-offload-") not in Path("/proc/self/maps").read_text()


def test_a_disk_without_the_room_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"for \S+ GB of moments; give offload_folder a larger disk"):
        offload._mapped(torch.Size([1 << 55]), torch.float32, tmp_path)


@pytest.mark.parametrize(("offload", "folder"), [("nvme", ""), ("cpu", "disk"), ("none", "disk")])
def test_only_files_have_a_folder(offload: str, folder: str) -> None:
    with pytest.raises(ValueError, match="nvme needs a folder, and only nvme has one"):
        LearnerConfig(offload=offload, offload_folder=folder)
