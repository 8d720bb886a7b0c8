"""Sizes by name: formulas against built networks and torch's counter, and recomputation by its gradients and its price."""

import dataclasses

import pytest
import torch
from test_dit import SMALL, B, C, H, M, T, W, inputs, small
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wm.conditioning.condition import Condition
from wm.models.dit import DiT, DiTConfig, Past
from wm.models.sizes import (
    SIZES,
    block_operations,
    block_parameters,
    mean_keys,
    num_parameters,
    on_meta,
    sized,
)

PLAIN = dataclasses.replace(SMALL, attention="plain")
CONFIGS = [
    SMALL,
    dataclasses.replace(SMALL, depth=5, time_every=2, hidden_size=24, num_heads=3),
    sized("tiny", widths=(16,), window=4),
    dataclasses.replace(PLAIN, full=True),
    dataclasses.replace(PLAIN, depth=3, text="cross", time_every=2),
    dataclasses.replace(PLAIN, depth=3, text="joint", time_every=2, action_window=2),
    dataclasses.replace(PLAIN, text="joint", full=True),
    dataclasses.replace(PLAIN, text="cross", action_window=3),
]
WORDS, ACTIONS = 5, 4  # tokens of a text, and of a frame's action


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_of_the_blocks_by_formula(config: DiTConfig) -> None:
    blocks = on_meta(config, C, M).blocks
    assert all(p.is_meta for p in blocks.parameters())
    assert block_parameters(config) == sum(p.numel() for p in blocks.parameters())


@pytest.mark.parametrize(("name", "millions"), [("tiny", 1), ("small", 9), ("base", 54), ("large", 320), ("xl", 1940)])
def test_sizes_are_as_large_as_they_say(name: str, millions: float) -> None:
    assert num_parameters(sized(name), 16, 0) == pytest.approx(millions * 1e6, rel=0.1)


def test_heads_are_of_a_size_that_kernels_know() -> None:
    assert all(size.hidden_size // size.num_heads in (32, 64, 128) for size in SIZES.values())
    with pytest.raises(ValueError, match="size 'huge' is not one of tiny, small"):
        sized("huge")


def on_meta_inputs(size: int) -> tuple[Tensor, Tensor, Past, Condition]:
    x_t, t, past, condition = inputs()
    past = Past(past.x_t.to("meta"), past.level.to("meta"), past.x.to("meta"))
    assert condition.maps is not None
    frames = torch.empty(B, T, size, device="meta")
    assert condition.place is not None
    assert condition.moved is not None
    maps, place, moved = (part.to("meta") for part in (condition.maps, condition.place, condition.moved))
    tokens = torch.empty(B, WORDS, size, device="meta")
    actions = torch.empty(B, T, ACTIONS, size, device="meta")
    given = Condition(tokens=tokens, frames=frames, maps=maps, place=place, moved=moved, actions=actions)
    return x_t.to("meta"), t.to("meta"), past, given


def counted(dit: DiT) -> tuple[float, float]:
    """Operations of the blocks in a forward, and of all in a forward and backward, by torch's counter."""
    given = on_meta_inputs(dit.config.hidden_size)
    dit(*given)  # attention tries its kernels on the first call, which is not to be counted
    with FlopCounterMode(display=False) as counter:
        out = dit(*given)
        found = counter.get_flop_counts()
        of_blocks = sum(sum(found[f"DiT.blocks.{i}"].values()) for i in range(dit.config.depth))
        out.sum().backward()
    return of_blocks, counter.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS)
def test_operations_of_the_blocks_by_formula(config: DiTConfig) -> None:
    tokens = (H // config.patch_size) * (W // config.patch_size)
    of_blocks, _ = counted(on_meta(config, C, M))
    assert of_blocks == B * block_operations(config, T, tokens, words=WORDS, action_tokens=ACTIONS)


def test_keys_that_a_window_leaves() -> None:
    assert mean_keys(dataclasses.replace(SMALL, window=3), 9) == pytest.approx((1 + 2 + 7 * 3) / 9)
    assert mean_keys(dataclasses.replace(SMALL, window=9), 9) == pytest.approx(5)
    assert block_operations(SMALL, 9, 6, keys=2.0) < block_operations(SMALL, 9, 6)
    assert block_operations(SMALL, 9, 6, training=True) == 3 * block_operations(SMALL, 9, 6)


@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputed_gradients_are_the_same(how: str) -> None:
    gradients = []
    for mode in ("none", how):
        dit = small(dataclasses.replace(SMALL, recompute=mode))
        dit(*inputs()).square().sum().backward()
        gradients.append([p.grad for p in dit.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_full_costs_another_forward_and_selective_no_product_with_weights() -> None:
    spent = {}
    for mode in ("none", "selective", "full"):
        of_blocks, spent[mode] = counted(on_meta(dataclasses.replace(SMALL, recompute=mode), C, M))
    tokens = (H // SMALL.patch_size) * (W // SMALL.patch_size)
    attention = B * T * tokens * 4 * SMALL.hidden_size * SMALL.depth * (tokens + T)
    assert spent["full"] - spent["none"] <= of_blocks
    assert spent["full"] - spent["none"] > 0.9 * of_blocks  # the last product of a block is not needed again
    assert 0 <= spent["selective"] - spent["none"] <= attention
