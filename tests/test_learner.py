"""LocalLearner against plain torch, a float64 average, itself after a resume, and losses that are not finite."""

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wm.batch import Batch, Given
from wm.engine.learner import LearnerConfig, LocalLearner, learning_rate
from wm.engine.protocols import Metrics
from wm.engine.world import World


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 3)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.to(self.first.weight.dtype))).tanh()) * self.scale


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def batch(step: int, size: int = 8) -> Batch:
    """Latents are (B, 1, 1, 3, 3): six inputs and three targets of one sample, drawn from its step."""
    generator = torch.Generator().manual_seed(step)
    latents = torch.randn(size, 1, 1, 3, 3, generator=generator)
    ids = tuple(f"clip{step}@{i}" for i in range(size))
    return Batch(step=step, index=torch.arange(size), given=Given(), latents=latents, sample_ids=ids)


def loss_of(learner: LocalLearner):
    def loss(part: Batch) -> tuple[Tensor, Metrics]:
        values = part.latents.reshape(len(part), 9)
        error = (learner(values[:, :6]).float() - values[:, 6:]).square().mean()
        return error, {"twice": 2 * error.detach()}

    return loss


def make(settings: LearnerConfig, seed: int = 0) -> LocalLearner:
    return LocalLearner(net(seed), settings, num_steps=20, world=World.single())


FAST = LearnerConfig(learning_rate=1e-2, warmup_steps=3, weight_decay=0.1, decay="cosine", average_decay=0.9)


def test_the_norm_of_many_gradients_keeps_its_digits():
    gradient = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    gradient[0] = 1000.0  # squares of the others are then a few bits of a float32 sum
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros_like(gradient))
    learner = LocalLearner(module, FAST, num_steps=20, world=World.single())
    metrics = learner.update(lambda part: ((module.weight * gradient).sum(), {}), batch(0))
    assert float(metrics["grad_norm"]) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


def test_agrees_with_plain_adamw():
    learner, reference = make(FAST), net()
    groups = [
        {"params": [p for p in reference.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in reference.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=FAST.betas)
    for step in range(20):
        metrics = learner.update(loss_of(learner), batch(step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(FAST, step, 20)
        values = batch(step).latents.reshape(8, 9)
        optimizer.zero_grad()
        error = (reference(values[:, :6]) - values[:, 6:]).square().mean()
        error.backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), FAST.gradient_clip)
        optimizer.step()
        assert float(metrics["loss"]) == pytest.approx(error.item(), rel=1e-5)
        assert float(metrics["twice"]) == pytest.approx(2 * error.item(), rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-5)
    for mine, theirs in zip(learner.module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.case("T-03")
@pytest.mark.parametrize("size", [2, 3, 8])
def test_accumulation_equals_a_large_batch(size: int):
    whole, parts = make(FAST), make(dataclasses.replace(FAST, micro_batch_size=size))
    for step in range(5):
        one, other = whole.update(loss_of(whole), batch(step)), parts.update(loss_of(parts), batch(step))
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)
    for mine, theirs in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.case("T-07")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_average_equals_a_float64_reference(precision: str):
    learner = make(dataclasses.replace(FAST, precision=precision))
    reference = {name: p.detach().double() for name, p in net().named_parameters()}
    for step in range(100):
        learner.update(loss_of(learner), batch(step))
        for name, weight in _masters(learner).items():
            reference[name] = 0.9 * reference[name] + 0.1 * weight.double()
    for name, value in learner.weights().items():
        if name in reference:
            torch.testing.assert_close(value.double(), reference[name], rtol=1e-6, atol=1e-7)


def _masters(learner: LocalLearner) -> dict[str, Tensor]:
    return {name: tensor.clone().view(-1).view_as(p) for (name, tensor), p in _paired(learner)}


def _paired(learner: LocalLearner):
    parameters = dict(learner.module.named_parameters())
    return [((name, tensor), parameters[name]) for name, tensor in learner._whole(None).items()]


def test_averaged_shows_the_average_and_restores_exactly():
    learner = make(FAST)
    for step in range(3):
        learner.update(loss_of(learner), batch(step))
    before = {name: tensor.clone() for name, tensor in learner.module.state_dict().items()}
    with learner.averaged() as module:
        for name, value in learner.weights().items():
            assert torch.equal(module.state_dict()[name], value)
        assert not torch.equal(module.first.weight, before["first.weight"])
    for name, tensor in learner.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    learner.update(loss_of(learner), batch(3))  # the parameters are still the optimizer's
    assert not torch.equal(learner.module.first.weight, before["first.weight"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_three_steps_and_a_resume_equal_six(tmp_path: Path, precision: str):
    settings = dataclasses.replace(FAST, precision=precision, micro_batch_size=3)
    straight, first, second = make(settings), make(settings), make(settings, seed=1)
    for step in range(6):
        straight.update(loss_of(straight), batch(step))
    for step in range(3):
        first.update(loss_of(first), batch(step))
    first.save(tmp_path)
    second.load(tmp_path)
    for step in range(3, 6):
        second.update(loss_of(second), batch(step))
    assert _same(straight, second)


def _same(one: LocalLearner, other: LocalLearner) -> bool:
    pairs = zip(one._fragments(), other._fragments(), strict=True)
    tensors = [(a.tensors[kind], b.tensors[kind]) for a, b in pairs for kind in a.tensors]
    tensors += list(zip(one.module.parameters(), other.module.parameters(), strict=True))
    return all(torch.equal(a, b) for a, b in tensors)


@pytest.mark.case("C-12")
def test_saved_before_any_step_and_loaded_is_the_same(tmp_path: Path):
    one, other = make(FAST), make(FAST, seed=1)
    one.save(tmp_path)
    other.load(tmp_path)
    assert _same(one, other)


def test_state_of_another_module_is_refused(tmp_path: Path):
    make(FAST).save(tmp_path)
    wide = LocalLearner(nn.Linear(6, 10), FAST, num_steps=20, world=World.single())
    with pytest.raises(ValueError, match="names differ"):
        wide.load(tmp_path)


@pytest.mark.case("T-04")
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_samples(where: str, tmp_path: Path, caplog):
    learner, twin = make(FAST), make(FAST)
    for step in range(2):
        learner.update(loss_of(learner), batch(step))
        twin.update(loss_of(twin), batch(step))

    def broken(part: Batch) -> tuple[Tensor, Metrics]:
        value, metrics = loss_of(learner)(part)
        bad = value + math.inf if where == "loss" else value + (value - value.detach()).sqrt()
        return bad, metrics

    with caplog.at_level(logging.WARNING):
        metrics = learner.update(broken, batch(7))
    assert metrics["skipped_steps"] == 1
    assert "step 7" in caplog.text
    assert "clip7@0" in caplog.text
    assert _same(learner, twin)
    learner.update(loss_of(learner), batch(2))
    twin.update(loss_of(twin), batch(2))
    assert _same(learner, twin)


def test_five_skipped_in_a_row_end_the_run():
    learner = make(FAST)

    def broken(part: Batch) -> tuple[Tensor, Metrics]:
        value, metrics = loss_of(learner)(part)
        return value * math.nan, metrics

    for step in range(4):
        learner.update(broken, batch(step))
    with pytest.raises(FloatingPointError, match="5 steps in a row, the last at step 4"):
        learner.update(broken, batch(4))


def test_bfloat16_keeps_small_updates_in_the_masters():
    learner = make(dataclasses.replace(FAST, precision="bfloat16", learning_rate=1e-6, weight_decay=0.0))
    assert learner.module.first.weight.dtype == torch.bfloat16
    before = _masters(learner)["first.weight"]
    for step in range(3):
        learner.update(loss_of(learner), batch(step))
    assert not torch.equal(_masters(learner)["first.weight"], before)


@pytest.mark.parametrize(("decay", "middle"), [("constant", 1.0), ("linear", 0.55), ("cosine", 0.55)])
def test_the_rate_rises_and_falls(decay: str, middle: float):
    settings = LearnerConfig(learning_rate=2.0, warmup_steps=4, decay=decay, final_learning_rate=0.1)
    rates = [learning_rate(settings, step, 24) for step in range(25)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[14] == pytest.approx(2.0 * middle)
    assert rates[24] == pytest.approx(2.0 if decay == "constant" else 0.2)


def test_frozen_parameters_stay_and_are_in_the_weights():
    module = net()
    module.last.requires_grad_(False)
    kept = module.last.weight.clone()
    learner = LocalLearner(module, FAST, num_steps=20, world=World.single())
    learner.update(loss_of(learner), batch(0))
    assert torch.equal(learner.weights()["last.weight"], kept)
    assert set(learner.weights()) == set(module.state_dict())


@pytest.mark.parametrize("field", ["learning_rate", "average_decay", "micro_batch_size"])
def test_a_value_out_of_range_is_refused(field: str):
    with pytest.raises(ValueError, match=field):
        LearnerConfig(**{field: -1})
