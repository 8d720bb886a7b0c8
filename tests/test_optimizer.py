"""Muon against torch's own and against singular values, schedules at their corners, and tags that decide the groups."""

import dataclasses
import math

import pytest
import torch
from test_learner import FAST, batch, loss_of, net
from torch import nn

from wm.engine.learner import LearnerConfig, LocalLearner, learning_rate
from wm.engine.optimizer import orthogonalised, parameter_groups
from wm.engine.world import World
from wm.nn.layers import LevelEmbedding, zero_initialised
from wm.tags import decays, is_hidden_matrix, tagged

MUON = dataclasses.replace(FAST, optimizer="muon", learning_rate=2e-2, average_decay=0.0)


@pytest.mark.parametrize(("shape", "iterations"), [((6, 10), 5), ((10, 6), 5), ((7, 7), 5), ((10, 6), 3)])
def test_orthogonalised_has_the_same_directions_and_singular_values_near_one(
    shape: tuple[int, int], iterations: int
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    made = orthogonalised(matrix, iterations)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ made @ right.T
    torch.testing.assert_close(inner, torch.diag(torch.diag(inner)), rtol=0, atol=1e-4)
    assert bool(((torch.diag(inner) > 0.6) & (torch.diag(inner) < 1.3)).all())
    torch.testing.assert_close(orthogonalised(1000 * matrix, iterations), made, rtol=1e-4, atol=1e-5)
    assert bool((orthogonalised(torch.zeros(shape)) == 0).all())


def test_muon_agrees_with_torchs_muon_and_adamw() -> None:
    """torch iterates in bfloat16, so a step agrees to about a hundredth of itself."""
    learner, reference = LocalLearner(net(), MUON, num_steps=20, world=World.single()), net()
    matrices = [p for p in reference.parameters() if p.ndim == 2]
    rest = [p for p in reference.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1.0, betas=MUON.betas, weight_decay=0.0)
    start = [p.detach().clone() for p in reference.parameters()]
    for step in range(10):
        learner.update(loss_of(learner), batch(step))
        values = batch(step).latents.reshape(8, 9)
        for optimizer in (muon, adamw):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = learning_rate(MUON, step, 20)
        (reference(values[:, :6]) - values[:, 6:]).square().mean().backward()
        nn.utils.clip_grad_norm_(reference.parameters(), MUON.gradient_clip)
        muon.step()
        adamw.step()
    for mine, theirs, first in zip(learner.module.parameters(), reference.parameters(), start, strict=True):
        assert float((mine - theirs).detach().norm()) <= 0.03 * float((theirs - first).detach().norm())


def test_muon_learns_and_its_first_step_is_a_fifth_of_adamws() -> None:
    """AdamW's first step is all signs, of root mean square 1; five iterations leave Muon's between 0.7 and 1.2 of 0.2."""
    sizes = {}
    for kind in ("adamw", "muon"):
        settings = dataclasses.replace(MUON, optimizer=kind, weight_decay=0.0, warmup_steps=0, decay="constant")
        learner = LocalLearner(net(), settings, num_steps=60, world=World.single())
        first = float(learner.update(loss_of(learner), batch(0))["loss"])
        change = learner.module.first.weight.detach() - net().first.weight.detach()
        sizes[kind] = float(change.square().mean().sqrt()) / MUON.learning_rate
        last = [float(learner.update(loss_of(learner), batch(0))["loss"]) for _ in range(60)][-1]
        assert last < 0.5 * first
    assert sizes["adamw"] == pytest.approx(1.0, rel=0.01)
    assert 0.14 < sizes["muon"] < 0.25


def test_tags_decide_the_groups() -> None:
    module = nn.ModuleDict({
        "in": tagged(nn.Linear(3, 4), hidden=False),
        "mid": nn.Linear(4, 5),
        "free": tagged(nn.Linear(5, 6, bias=False), decay=False),
        "norm": nn.LayerNorm(6),
        "convolution": nn.Conv2d(2, 3, 3),
    })  # fmt: skip
    module["constant"] = nn.ParameterList([tagged(nn.Parameter(torch.zeros(7)), decay=True)])
    groups = {(g.muon, g.decays): [name for name, _ in g.named] for g in parameter_groups(module, muon=True)}
    assert groups == {
        (True, True): ["mid.weight", "convolution.weight"],
        (True, False): ["free.weight"],
        (False, True): ["in.weight", "constant.0"],
        (False, False): ["in.bias", "mid.bias", "norm.weight", "norm.bias", "convolution.bias"],
    }
    assert [(g.muon, g.decays) for g in parameter_groups(module)] == [(False, True), (False, False)]


def test_inputs_and_outputs_of_the_model_are_tagged_where_they_are_made() -> None:
    assert not is_hidden_matrix(zero_initialised(nn.Linear(3, 4)).weight)
    embedding = LevelEmbedding(8)
    assert [is_hidden_matrix(p) for p in embedding.parameters()] == [False, False, True, False]
    assert [decays(p) for p in embedding.parameters()] == [True, False, True, False]


def test_wsd_stands_still_and_then_falls_as_one_minus_a_root() -> None:
    settings = LearnerConfig(learning_rate=2.0, warmup_steps=4, decay="wsd", decay_share=0.25, final_learning_rate=0.1)
    rates = [learning_rate(settings, step, 40) for step in range(41)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4:31] == pytest.approx([2.0] * 27)
    assert rates[35] == pytest.approx(2.0 * (0.1 + 0.9 * (1 - math.sqrt(0.5))))
    assert rates[40] == pytest.approx(0.2)
    whole = dataclasses.replace(settings, decay_share=1.0)
    assert learning_rate(whole, 3, 40) == pytest.approx(2.0)  # the fall begins after the warm-up


@pytest.mark.parametrize(("field", "value"), [("decay_share", 0.0), ("momentum", 1.0), ("orthogonal_iterations", 0)])
def test_values_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        LearnerConfig(**{field: value})
