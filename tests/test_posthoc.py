"""Averages of any length afterwards: profiles against numerical integration, reconstruction against direct tracking."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_learner import FAST, batch, loss_of, make
from torch import Tensor

from wm.engine.average import PowerAverages
from wm.engine.partition import Fragment, Reader
from wm.engine.posthoc import LONGEST, Profile, coefficients, power_exponent, power_kind, power_length, reconstructed

LENGTHS = (0.05, 0.1)


@pytest.mark.parametrize("length", [0.02, 0.05, 0.1, 0.25])
def test_the_length_is_the_standard_deviation_of_the_weight(length: float) -> None:
    exponent = power_exponent(length)
    assert power_length(exponent) == pytest.approx(length)
    tau = np.linspace(0, 1, 200_001)
    weight = (exponent + 1) * tau**exponent
    mean = np.trapezoid(weight * tau, tau)
    assert math.sqrt(np.trapezoid(weight * (tau - mean) ** 2, tau)) == pytest.approx(length, rel=1e-3)


def test_inner_products_are_integrals() -> None:
    one, other = Profile(70, 3.5), Profile(100, 6.9)
    tau = np.linspace(0, 70, 200_001)
    weights = [(p.exponent + 1) * (tau / p.step) ** p.exponent / p.step for p in (one, other)]
    assert one.inner(other) == pytest.approx(np.trapezoid(weights[0] * weights[1], tau), rel=1e-4)
    assert one.inner(other) == pytest.approx(other.inner(one), rel=1e-12)


def test_a_kept_profile_is_itself() -> None:
    kept = [Profile(step, power_exponent(length)) for step in (50, 100) for length in LENGTHS]
    assert coefficients(kept, kept[2]) == pytest.approx([0, 0, 1, 0], abs=1e-8)


def test_a_power_average_is_the_weighted_sum_of_all_steps() -> None:
    torch.manual_seed(0)
    weights = torch.randn(300, 7).cumsum(0)
    averages = PowerAverages([torch.zeros(7)], [0.1])
    for step, value in enumerate(weights, 1):
        averages.update([value], step)
    exponent = power_exponent(0.1)
    edges = (torch.arange(301, dtype=torch.float64) / 300) ** (exponent + 1)
    expected = ((edges[1:] - edges[:-1])[:, None] * weights.double()).sum(0)
    torch.testing.assert_close(averages.tensors[power_kind(0.1)][0].double(), expected, rtol=1e-4, atol=1e-4)


def trained(folder: Path, lengths: tuple[float, ...], save_every: int, num_steps: int) -> list[Path]:
    learner = make(dataclasses.replace(FAST, average_lengths=lengths, decay="constant"))
    parts = []
    for step in range(1, num_steps + 1):
        learner.update(loss_of(learner), batch(step))
        if step % save_every == 0:
            parts.append(folder / f"step-{step}")
            parts[-1].mkdir(parents=True)
            learner.save(parts[-1])
    return parts


def tracked(part: Path, length: float) -> dict[str, Tensor]:
    reader = Reader(part)
    kind = power_kind(length)
    fragments = [Fragment(name, numel, 0, {kind: torch.empty(numel)}) for name, numel in reader.numels.items()]
    reader.fill(fragments)
    return {fragment.name: fragment.tensors[kind] for fragment in fragments}


def test_reconstruction_matches_the_directly_tracked_average(tmp_path: Path) -> None:
    """At lengths that were not kept, at the end and before; the more snapshots, the nearer. The longest needs the most."""
    asked = (0.07, 0.13, 0.2)
    kept = trained(tmp_path / "kept", LENGTHS, 10, 240)
    direct = trained(tmp_path / "direct", asked, 40, 240)
    for step in (160, 240):
        right = {length: tracked(direct[step // 40 - 1], length) for length in asked}
        for length in asked:
            nearest = min(_distance(right[length], right[other]) for other in asked if other != length)
            error = _distance(reconstructed(kept, length, step), right[length])
            assert error < (0.1 if length == 0.2 else 0.01) * nearest
            assert error < 0.1 * _distance(reconstructed(kept[3::4], length, step), right[length])


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


def test_lengths_that_cannot_be_and_checkpoints_without_averages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and"):
        make(dataclasses.replace(FAST, average_lengths=(LONGEST,)))
    with pytest.raises(ValueError, match=r"train with learner\.average_lengths"):
        reconstructed(trained(tmp_path / "none", (), 3, 3), 0.1, 3)
    with pytest.raises(ValueError, match=r"no checkpoint at step 5, .+ there are \[2, 4\]"):
        reconstructed(trained(tmp_path / "some", LENGTHS, 2, 6), 0.1, 5)


def test_power_averages_survive_a_resume(tmp_path: Path) -> None:
    settings = dataclasses.replace(FAST, average_lengths=LENGTHS)
    straight, first, second = make(settings), make(settings), make(settings, seed=1)
    for step in range(6):
        straight.update(loss_of(straight), batch(step))
        if step < 3:
            first.update(loss_of(first), batch(step))
    first.save(tmp_path)
    second.load(tmp_path)
    for step in range(3, 6):
        second.update(loss_of(second), batch(step))
    for kind, tensors in straight._powers.tensors.items():
        for one, other in zip(tensors, second._powers.tensors[kind], strict=True):
            assert torch.equal(one, other)
