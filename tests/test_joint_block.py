"""Two streams: one attention over both by its equations, causal, cached as uncached, words that only fill up never read."""

import dataclasses
import math

import pytest
import torch
from einops import rearrange
from test_dit import SMALL, B, T, changed, inputs, normal, small
from torch import Tensor, nn

from wm.conditioning.condition import Condition
from wm.models.dit import DiT, DiTConfig
from wm.models.joint_block import JointBlock
from wm.models.memory import Past
from wm.models.view import View
from wm.nn.frame_mask import Pattern
from wm.nn.rope import apply_rope, grid_angles

L = 4
JOINT = dataclasses.replace(SMALL, text="joint", recall=0, carry=False)
CONFIGS = {
    "factorised": JOINT,
    "full": dataclasses.replace(JOINT, full=True),
    "sinks": dataclasses.replace(JOINT, window=2, sinks=1),
    "with recall": dataclasses.replace(JOINT, recall=3),
}


def said(seed: int = 0) -> tuple[Tensor, Past, Tensor, Condition]:
    x_t, t, past, condition = inputs()
    mask = torch.arange(L) < torch.tensor([[2], [L]])
    return x_t, t, past, dataclasses.replace(condition, tokens=normal(B, L, 16, seed=seed + 20), mask=mask)


def remembered(dit: DiT) -> Tensor:
    (x_t, t, past, condition), memory, made = said(), dit.memory(), []
    for frame in range(T):
        cut = slice(frame, frame + 1)
        parts = {name: getattr(condition, name)[:, cut] for name in ("frames", "maps", "place", "moved")}
        shown = Past(past.x_t[:, cut], past.level[:, cut], past.x[:, cut])
        made.append(dit(x_t[:, cut], t[:, cut], shown, dataclasses.replace(condition, **parts), memory))
        memory.hold()
        memory.commit()
    return torch.cat(made, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_memory_gives_what_the_whole_clip_gives_and_later_frames_change_none_before(name: str) -> None:
    dit = small(CONFIGS[name])
    with torch.no_grad():
        whole = dit(*said())
        torch.testing.assert_close(remembered(dit), whole, atol=5e-5, rtol=1e-4)
        x_t, t, past, condition = said()
        x_t = torch.cat([x_t[:, :4], x_t[:, 4:] + 1], dim=1)
        assert changed(whole, dit(x_t, t, past, condition))[0] == 4


@pytest.mark.parametrize("name", CONFIGS)
def test_words_are_read_and_those_that_fill_up_are_not(name: str) -> None:
    dit, (x_t, t, past, condition) = small(CONFIGS[name]), said()
    with torch.no_grad():
        out = dit(x_t, t, past, condition)
        filled = torch.where(condition.mask[..., None], condition.tokens, 9.0)
        torch.testing.assert_close(dit(x_t, t, past, dataclasses.replace(condition, tokens=filled)), out)
        other = dit(x_t, t, past, dataclasses.replace(condition, tokens=said(seed=1)[3].tokens))
        assert changed(out, other) == list(range(T))
    with pytest.raises(ValueError, match="reads text beside its frames and none was given"):
        dit(*inputs())


@pytest.mark.parametrize("recompute", ["none", "full", "selective"])
def test_gradient_reaches_every_parameter(recompute: str) -> None:
    dit = small(dataclasses.replace(JOINT, recompute=recompute))
    dit(*said()).square().mean().backward()
    silent = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == ["blocks.1.words.query_norm.weight"]  # what the last words ask is not asked further


def test_the_meeting_is_one_softmax_over_both_streams() -> None:
    size, heads, rows, columns = 24, 3, 2, 3
    block = JointBlock(size, heads, 1.5, "auto", looks_back=False, writes=True)
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    block = block.double()
    frames, words = normal(1, 1, rows * columns, size).double(), normal(1, 1, L, size, seed=1).double()
    mask = torch.tensor([[[True, True, True, False]]])
    view = View([Pattern()], 1, rows, columns, size // heads, torch.device("cpu"), num_words=L, words_mask=mask)
    modulation = normal(1, 1, 9 * size, seed=2).double()
    found = block(torch.cat([frames, words], 2), modulation, 0, view)

    def standard(v: Tensor) -> Tensor:
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    def stream(x: Tensor, attention: nn.Module, shift: Tensor, scale: Tensor) -> list[Tensor]:
        q, k, v = rearrange(attention.qkv(standard(x) * (1 + scale) + shift), "n (k h d) -> k h n d", k=3, h=heads)
        return [standard(q) * attention.query_norm.weight, standard(k) * attention.key_norm.weight, v]

    of_frames = (modulation[0, 0, : 6 * size] + block.modulation).split(size)  # feed-forward's, then attention's
    of_words = (modulation[0, 0, : 6 * size] + block.word_modulation).split(size)  # attention's, then feed-forward's
    ours, theirs = stream(frames[0, 0], block.space, *of_frames[3:5]), stream(words[0, 0], block.words, *of_words[:2])
    grid = grid_angles(rows, columns, size // heads).double()
    ours[:2] = [apply_rope(part, grid) for part in ours[:2]]
    query, key, value = (torch.cat(pair, 1) for pair in zip(ours, theirs, strict=True))
    scores = (query @ key.transpose(1, 2) / math.sqrt(size // heads)).masked_fill(
        torch.arange(rows * columns + L) == rows * columns + L - 1, -math.inf
    )
    read = rearrange(scores.softmax(-1) @ value, "h n d -> n (h d)")
    n = rows * columns
    x = frames[0, 0] + of_frames[5] * block.space.out(read[:n])
    y = words[0, 0] + of_words[2] * block.words.out(read[n:])
    x = x + of_frames[2] * block.mlp(standard(x) * (1 + of_frames[1]) + of_frames[0])
    y = y + of_words[5] * block.word_mlp(standard(y) * (1 + of_words[4]) + of_words[3])
    torch.testing.assert_close(found[0, 0], torch.cat([x, y]))


def test_a_config_chooses_it() -> None:
    assert isinstance(small(JOINT).blocks[0], JointBlock)
    assert DiTConfig(text="joint").text == "joint"
