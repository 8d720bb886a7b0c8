"""Who sees whom in a DiT: its masks followed through all layers, and a memory that gives what the whole clip gives."""

import dataclasses

import pytest
import torch
from test_dit import SMALL, T, changed, inputs, mixed, small
from torch import Tensor

from wm.conditioning.condition import Condition
from wm.models.dit import DiT, DiTConfig
from wm.models.memory import Past
from wm.models.sizes import block_operations, block_parameters, mean_keys
from wm.nn.frame_mask import FrameMask

PLAIN = dataclasses.replace(SMALL, recall=0, carry=False)
CONFIGS = {
    "factorised": SMALL,
    "global layers": dataclasses.replace(SMALL, depth=4, window=2, global_every=2),
    "global layers, every other looks back": dataclasses.replace(
        PLAIN, depth=4, window=2, global_every=2, time_every=2
    ),
    "sinks": dataclasses.replace(SMALL, window=2, sinks=2),
    "no window": dataclasses.replace(PLAIN, window=0),
    "full": dataclasses.replace(PLAIN, full=True, window=0),
    "full, window and sinks": dataclasses.replace(SMALL, full=True, window=2, sinks=1, recall=3),
    "full, global layers": dataclasses.replace(PLAIN, full=True, window=3, depth=3, global_every=3),
}
BOTH_WAYS = {
    "both ways": dataclasses.replace(PLAIN, causal=False, window=0),
    "full, both ways": dataclasses.replace(PLAIN, causal=False, window=0, full=True),
    "full, near ones both ways": dataclasses.replace(PLAIN, causal=False, window=2, full=True, depth=1),
}


def reach(config: DiTConfig) -> Tensor:
    """(T, T) bool: whether anything can come from the frame of a column to that of a row, by the patterns' tables."""
    tables = [FrameMask.of_clip(pattern, T).table for pattern in config.patterns()]
    recalled = tables.pop() if config.recall else torch.eye(T, dtype=torch.bool)  # what it copies passed no block
    seen = torch.eye(T)
    for table in tables:
        seen = (table.float() @ seen > 0).float()
    return seen.bool() | recalled


def piece(frames: slice) -> tuple[Tensor, Tensor, Past, Condition]:
    x_t, t, past, condition = inputs()
    cut = Condition(**{name: getattr(condition, name)[:, frames] for name in ("frames", "maps", "place", "moved")})
    return x_t[:, frames], t[:, frames], Past(past.x_t[:, frames], past.level[:, frames], past.x[:, frames]), cut


def remembered(dit: DiT, sizes: tuple[int, ...]) -> Tensor:
    """The clip a few frames at a time, each part after what was remembered of those before."""
    memory, made, first = dit.memory(), [], 0
    for size in sizes:
        part = piece(slice(first, first + size))
        made.append(dit(*part, memory))
        dit(*part, memory)  # as a sampler asks again: what is not held is not kept
        memory.hold()
        memory.commit()
        first += size
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("name", [*CONFIGS, *BOTH_WAYS])
def test_a_frame_is_changed_by_those_that_its_masks_lead_to_and_by_no_other(name: str) -> None:
    config = (CONFIGS | BOTH_WAYS)[name]
    dit, seen = small(config), reach(config)
    with torch.no_grad():
        out = dit(*inputs())
        for frame in (0, 1, 4, T - 1):
            assert changed(out, dit(*mixed([frame]))) == seen[:, frame].nonzero().flatten().tolist()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sizes", [(1,) * T, (4, 1, 1, 3)])
def test_a_memory_gives_what_the_whole_clip_gives(name: str, sizes: tuple[int, ...]) -> None:
    dit = small(CONFIGS[name])
    with torch.no_grad():
        torch.testing.assert_close(remembered(dit, sizes), dit(*inputs()), atol=2e-5, rtol=1e-4)


def test_a_memory_keeps_what_later_frames_see_and_nothing_else() -> None:
    dit = small(dataclasses.replace(SMALL, depth=2, window=3, sinks=2, global_every=2))
    memory = dit.memory()
    with torch.no_grad():
        for frame in range(T):
            dit(*piece(slice(frame, frame + 1)), memory)
            memory.hold()
            memory.commit()
    assert memory.numbers == [(0, 1, T - 2, T - 1), tuple(range(T)), (T - 2, T - 1)]  # sinks, global, recall
    assert [kept[0].shape[2] for kept in memory.frames] == [4, T, 2]


def test_a_clip_that_is_drawn_as_a_whole_is_shown_no_past_and_has_no_memory() -> None:
    dit = small(BOTH_WAYS["both ways"])
    x_t, t, past, condition = inputs()
    other = Past(past.x_t + 1, 0.5 * past.level, past.x + 1)
    assert torch.equal(dit(x_t, t, past, condition), dit(x_t, t, other, condition))
    with pytest.raises(ValueError, match="draws a clip as a whole"):
        dit.memory()


@pytest.mark.parametrize("name", ["full, both ways", "global layers", "full"])
def test_gradient_reaches_every_parameter(name: str) -> None:
    dit = small((CONFIGS | BOTH_WAYS)[name])
    dit(*inputs()).square().mean().backward()
    silent = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in silent if not name.startswith("past_level")] == []


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="recall and carry copy the frame before"):
        dataclasses.replace(SMALL, causal=False)
    with pytest.raises(ValueError, match="give window more than 0, or recall 0"):
        dataclasses.replace(SMALL, window=0)


def test_full_attention_costs_what_its_formula_says() -> None:
    full = dataclasses.replace(PLAIN, full=True, window=0, depth=3)
    assert sum(p.numel() for p in small(full).blocks.parameters()) == block_parameters(full)
    assert mean_keys(full, T) == (T + 1) / 2
    one, two = (block_operations(full, T, 6, keys=keys) for keys in (1, 2))
    assert two - one == T * 6 * full.depth * 4 * full.hidden_size * 6
