"""Clips of different lengths in one row: each is drawn, and its loss taken, as if it were alone."""

import dataclasses

import pytest
import torch
from tiny_world import COLUMNS, DENOISER, ROWS, SHAPE, some_action
from torch import Tensor, nn

from wm.batch import Action, Given
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.caption import TextConditionerConfig
from wm.conditioning.text import ByteTextConfig
from wm.flow import FlowConfig
from wm.models.denoiser import Denoiser, DenoiserConfig
from wm.models.dit import DiTConfig
from wm.models.memory import Past
from wm.models.packing import pasts_in_a_row
from wm.objectives import flow_matching

LENGTHS = (3, 1, 5)
TEXT = ("a red circle", "", "two blue squares")
WORDS = ByteTextConfig(width=12, depth=1, num_heads=2, max_tokens=24)
DIT = dataclasses.replace(DENOISER.dit, window=3, carry=True, action_window=2)
CONFIGS = {
    "recall, carry, actions": DIT,
    "text across": dataclasses.replace(DIT, text="cross"),
    "two streams": dataclasses.replace(DIT, text="joint", global_every=2),
    "full": dataclasses.replace(DIT, full=True, text="cross", sinks=1),
    "full, two streams": dataclasses.replace(DIT, full=True, text="joint"),
    "both ways": dataclasses.replace(DIT, causal=False, recall=0, carry=False, text="cross"),
}


def denoiser(dit: DiTConfig) -> Denoiser:
    torch.manual_seed(0)
    acting = ActionConditionerConfig(tokens=True)
    built = DenoiserConfig(
        dit=dit, conditioner=acting if dit.text == "none" else TextConditionerConfig(encoder=WORDS, action=acting)
    ).build(SHAPE)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return built


def clip(number: int) -> tuple[Tensor, Tensor, Tensor, Past, Given]:
    """(x, noise, t, past, given) of one clip, B = 1."""
    generator, length = torch.Generator().manual_seed(number), LENGTHS[number]
    x, noise, shown = torch.randn(3, 1, length, 3, ROWS, COLUMNS, generator=generator)
    t, level = torch.rand(2, 1, length, generator=generator)
    given = Given(some_action(1, length, seed=number), TEXT[number : number + 1])
    return x, noise, t, Past.of(shown, 0.1 * level, x), given


def row() -> tuple[Tensor, Tensor, Tensor, Past, Given]:
    x, noise, t, pasts, givens = zip(*(clip(number) for number in range(len(LENGTHS))), strict=True)
    given = Given(Action.concatenate([one.action for one in givens], 1), TEXT)
    return torch.cat(x, 1), torch.cat(noise, 1), torch.cat(t, 1), pasts_in_a_row(pasts), given


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_the_clips_alone(name: str) -> None:
    model, flow = denoiser(CONFIGS[name]), FlowConfig().build()
    keep = torch.tensor([True, True, False])
    x, noise, t, past, given = row()
    packed, _ = flow_matching(flow, lambda x_t, t: model(x_t, t, past, given, keep, lengths=LENGTHS), x, t, noise)
    wanted = torch.autograd.grad(packed, list(model.parameters()), allow_unused=True)
    total = 0.0
    for number, length in enumerate(LENGTHS):
        x, noise, t, past, given = clip(number)

        def predict(x_t: Tensor, t: Tensor, past: Past = past, given: Given = given, number: int = number) -> Tensor:
            return model(x_t, t, past, given, keep[number : number + 1])

        total = total + flow_matching(flow, predict, x, t, noise)[0] * length / sum(LENGTHS)
    torch.testing.assert_close(packed, total, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(1 + one.abs().max()))


def test_a_row_that_does_not_hold_its_clips_is_refused() -> None:
    model, (x, _, t, past, given) = denoiser(CONFIGS["text across"]), row()
    with pytest.raises(ValueError, match=r"actions of \(1, 9\) given for a row of 8 frames"):
        model(x, t, past, given, lengths=(3, 5))
    with pytest.raises(ValueError, match="3 captions given for a row of 2 clips"):
        model(x, t, past, given, lengths=(4, 5))
