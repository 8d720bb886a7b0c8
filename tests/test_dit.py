"""The transformer: who sees whom in time, positions that are relative, gradients everywhere."""

import dataclasses

import pytest
import torch
from tiny_world import SPACE, some_action
from torch import Tensor, nn

from wm.batch import ActionSpace, Given
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.condition import Condition
from wm.models.denoiser import Denoiser, DenoiserConfig, WorldShape
from wm.models.dit import DiT, DiTConfig
from wm.models.memory import Past
from wm.nn.layers import LevelEmbedding

SMALL = DiTConfig(
    hidden_size=16,
    depth=2,
    num_heads=2,
    mlp_ratio=1.5,
    patch_size=2,
    widths=(6,),
    window=3,
    recall=5,
    carry=True,
    aim=2,
    guess=True,
)
B, T, C, M, H, W = 2, 9, 3, 5, 4, 6


def small(config: DiTConfig = SMALL, num_maps: int = M) -> DiT:
    """A DiT whose every weight matters: what begins at zero is drawn too."""
    torch.manual_seed(0)
    dit = config.build(C, num_maps)
    for parameter in dit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return dit


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Past, Condition]:
    t, level = torch.rand(2, B, T, generator=torch.Generator().manual_seed(seed))
    past = Past(normal(B, T, C, H, W, seed=seed + 3), level, normal(B, T, C, H, W, seed=seed + 4))
    condition = Condition(
        frames=normal(B, T, 16, seed=seed + 1),
        maps=normal(B, T, M, H, W, seed=seed + 2),
        place=normal(B, T, H, W, seed=seed + 5).flatten(2).softmax(-1).view(B, T, H, W),
        moved=normal(B, T, 2, seed=seed + 6).round().long(),
    )
    return normal(B, T, C, H, W, seed=seed), t, past, condition


def mixed(frames: list[int]) -> tuple[Tensor, Tensor, Past, Condition]:
    """`inputs`, with everything about `frames` different."""
    x_t, t, past, condition = inputs()
    other_x, other_t, other_past, other = inputs(seed=10)
    assert condition.frames is not None
    assert condition.maps is not None
    assert other.frames is not None
    assert other.maps is not None
    assert condition.place is not None
    assert other.place is not None
    pairs = [(x_t, other_x), (t, other_t), (condition.frames, other.frames), (condition.maps, other.maps)]
    pairs += [(past.x_t, other_past.x_t), (past.level, other_past.level), (past.x, other_past.x)]
    assert condition.moved is not None
    assert other.moved is not None
    pairs += [(condition.place, other.place), (condition.moved, other.moved)]
    for one, another in pairs:
        one[:, frames] = another[:, frames]
    return x_t, t, past, condition


def changed(one: Tensor, other: Tensor) -> list[int]:
    """The frames in which two outputs differ at all."""
    return [i for i in range(one.shape[1]) if not torch.equal(one[:, i], other[:, i])]


def test_the_shape_is_that_of_the_latents() -> None:
    assert small()(*inputs()).shape == (B, T, C, H, W)


def test_a_frame_ignores_later_frames_exactly() -> None:
    dit = small()
    out = dit(*inputs())
    for frame in range(1, T):
        found = changed(out, dit(*mixed(list(range(frame, T)))))
        assert found == list(range(frame, T))


def test_only_the_blocks_that_look_back_carry_anything_on() -> None:
    dit = small(dataclasses.replace(SMALL, depth=3, window=3, time_every=2))
    assert changed(dit(*inputs()), dit(*mixed([1]))) == [1, 2, 3, 4, 5]  # two blocks look back, two frames each
    assert len(dit.memory().frames) == 2 + 1  # and what places recall


@pytest.mark.parametrize(("depth", "window"), [(1, 3), (2, 3), (3, 2), (2, 1)])
def test_a_frame_sees_its_window_in_every_layer_and_no_further(depth: int, window: int) -> None:
    dit = small(dataclasses.replace(SMALL, depth=depth, window=window))
    out = dit(*inputs())
    for frame in range(3):
        last = frame + (window - 1) * depth
        assert changed(out, dit(*mixed([frame]))) == list(range(frame, min(last + 1, T)))


def test_what_a_frame_is_depends_on_the_distance_to_others_and_not_on_where_the_clip_starts() -> None:
    dit = small()
    whole = dit(*inputs())
    x_t, t, past, condition = inputs()
    first = 3
    cut = dit(
        x_t[:, first:],
        t[:, first:],
        Past(past.x_t[:, first:], past.level[:, first:], past.x[:, first:]),
        Condition(**{name: getattr(condition, name)[:, first:] for name in ("frames", "maps", "place", "moved")}),
    )
    # Frames whose whole past, over all layers, is still there.
    seen = (SMALL.window - 1) * SMALL.depth
    torch.testing.assert_close(cut[:, seen:], whole[:, first + seen :], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(cut[:, 0], whole[:, first], atol=1e-3)


def test_the_level_of_a_frame_changes_it_and_what_comes_after() -> None:
    dit = small()
    x_t, t, past, condition = inputs()
    other = t.clone()
    other[:, 4] = 0.5 * t[:, 4]
    found = changed(dit(x_t, t, past, condition), dit(x_t, other, past, condition))
    assert found[0] == 4
    assert 5 in found


def test_the_level_of_the_past_changes_a_frame() -> None:
    dit = small()
    x_t, t, past, condition = inputs()
    level = past.level.clone()
    level[:, 4] = 0.5 * level[:, 4]
    assert changed(dit(x_t, t, past, condition), dit(x_t, t, Past(past.x_t, level, past.x), condition))[0] == 4


def test_the_past_of_a_clip_is_the_clip_one_frame_later() -> None:
    x_t, t, *_ = inputs()
    past = Past.of(x_t, t, x_t)
    assert torch.equal(past.x_t[:, 1:], x_t[:, :-1])
    assert torch.equal(past.level[:, 1:], t[:, :-1])
    assert not past.x_t[:, 0].any()
    assert torch.equal(past.x, past.x_t)
    assert (past.level[:, 0] == 1).all()


def test_samples_are_independent() -> None:
    dit = small()
    x_t, t, past, condition = inputs()
    one = Condition(**{name: getattr(condition, name)[1:] for name in ("frames", "maps", "place", "moved")})
    alone = dit(x_t[1:], t[1:], Past(past.x_t[1:], past.level[1:], past.x[1:]), one)
    torch.testing.assert_close(alone, dit(x_t, t, past, condition)[1:], atol=1e-5, rtol=1e-4)


def test_order_in_time_and_place_matters() -> None:
    """Without positions an attention is blind to the order of what it sees."""
    dit = small(dataclasses.replace(SMALL, depth=1, window=T))
    x_t = normal(B, T, C, H, W)
    t, nothing = torch.full((B, T), 0.5), Condition(maps=torch.zeros(B, T, M, H, W))
    past = Past(torch.zeros_like(x_t), t, torch.zeros_like(x_t))
    out = dit(x_t, t, past, nothing)
    swapped = x_t.clone()
    swapped[:, [T - 3, T - 2]] = x_t[:, [T - 2, T - 3]]
    assert not torch.allclose(dit(swapped, t, past, nothing)[:, -1], out[:, -1], atol=2e-5)
    rows = dit(x_t.flip(-2).roll(2, -2), t, past, nothing).flip(-2)
    assert not torch.allclose(rows, out.roll(-2, -2), atol=1e-3)


def test_gradient_reaches_every_parameter() -> None:
    dit = small()
    dit(*inputs()).square().mean().backward()
    assert [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_new_one_says_nothing_until_it_has_learned() -> None:
    torch.manual_seed(0)
    x_t, t, past, _ = inputs()
    mute = dataclasses.replace(SMALL, recall=0, carry=False)
    assert not mute.build(C, 0)(x_t, t, past, Condition()).any()
    # What the maps stamp begins almost as nothing, but as a different one for each stamp.
    assert 0 < mute.build(C, M)(*inputs()).abs().max() < 0.5


def test_no_condition_at_all_is_a_condition() -> None:
    dit = small(num_maps=0)
    x_t, t, past, _ = inputs()
    out = dit(x_t, t, past, Condition())
    assert out.shape == x_t.shape
    torch.testing.assert_close(dit(x_t, t, past, Condition(frames=torch.zeros(B, T, 16))), out)


@pytest.mark.parametrize("size", [(5, 6), (4, 7)])
def test_latents_that_do_not_divide_into_patches_are_refused(size: tuple[int, int]) -> None:
    x_t, t = torch.zeros(B, T, C, *size), torch.zeros(B, T)
    dit, past = small(num_maps=0), Past(x_t, t, x_t)
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} do not divide into patches of 2x2"):
        dit(x_t, t, past, Condition())


def test_heads_that_rotary_positions_cannot_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size 20 is not a multiple of 4 x num_heads 2"):
        DiTConfig(hidden_size=20, num_heads=2)


def test_levels_that_differ_a_little_are_told_apart() -> None:
    torch.manual_seed(0)
    embedding = LevelEmbedding(16).to(torch.bfloat16)
    near = embedding(torch.tensor([[0.996, 1.0]]))
    assert near.shape == (1, 2, 16)
    assert not torch.allclose(near[0, 0], near[0, 1], atol=1e-2)


def denoiser(space: ActionSpace) -> Denoiser:
    torch.manual_seed(0)
    shape = WorldShape(action_space=space, channels=C, rows=H, columns=W, stride=2)
    built = DenoiserConfig(dit=SMALL).build(shape)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def test_a_denoiser_drops_its_condition_by_the_sample() -> None:
    built = denoiser(SPACE)
    x_t, t, past, _ = inputs()
    given = Given(action=some_action(B, T))
    keep = torch.tensor([True, False])
    out = built(x_t, t, past, given, keep)
    torch.testing.assert_close(out[:1], built(x_t, t, past, given)[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out[1:], built.dit(x_t, t, past, built.null(given))[1:], atol=1e-5, rtol=1e-4)
    out.square().mean().backward()
    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_bfloat16_weights_take_float32_latents() -> None:
    given = Given(action=some_action(B, T))
    out = denoiser(SPACE).to(torch.bfloat16)(*inputs()[:3], given)
    assert out.dtype == torch.bfloat16
    reference = denoiser(SPACE)(*inputs()[:3], given)
    assert (out.float() - reference).norm() < 0.1 * reference.norm()


def test_a_large_denoiser_has_its_shapes_on_the_meta_device() -> None:
    shape = WorldShape(action_space=SPACE, channels=16, rows=48, columns=64, stride=8)
    dit = DiTConfig(hidden_size=1024, depth=18, num_heads=16, patch_size=2, widths=(256,))
    with torch.device("meta"):
        built = DenoiserConfig(dit=dit, conditioner=ActionConditionerConfig()).build(shape)
        x_t, t = torch.empty(1, 3, 16, 48, 64), torch.empty(1, 3)
        out = built(x_t, t, Past(x_t, t, x_t), Given(action=some_action(1, 3).to("meta")))
    assert out.shape == (1, 3, 16, 48, 64)
    assert out.device.type == "meta"
    parameters = sum(p.numel() for p in built.parameters())
    assert 250e6 < parameters < 400e6
