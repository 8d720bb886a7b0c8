"""Laws of Action, Given and Batch: parts put together again are the whole, and fields stay in step."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from wm.batch import Action, ActionSpace, Batch, Given
from wm.config import ConfigError, from_dict, to_dict

SPACE = ActionSpace(
    buttons=("left", "right"), keys=("KeyA", "KeyB", "Enter", "Tab", "Space"), wheel=True, axes=("x",) * 4
)
B, T = 7, 3


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def some_action(batch: int = B, frames: int = T) -> Action:
    return Action(
        pointer=normal(batch, frames, 2),
        buttons=normal(batch, frames, 2, 3),
        keys=normal(batch, frames, 5, 3),
        wheel=normal(batch, frames, 2),
        axes=normal(batch, frames, 4),
    )


def some_batch() -> Batch:
    return Batch(
        step=11,
        index=torch.arange(100, 100 + B),
        given=Given(action=some_action(), text=tuple(f"caption {i}" for i in range(B))),
        video=torch.randint(256, (B, T, 3, 6, 10), dtype=torch.uint8),
        latents=normal(B, T, 4, 6, 10),
        sample_ids=tuple(f"clip{i}@0" for i in range(B)),
    )


def assert_equal_actions(left: Action | None, right: Action | None) -> None:
    assert left is not None
    assert right is not None
    for field in dataclasses.fields(Action):
        assert torch.equal(getattr(left, field.name), getattr(right, field.name)), field.name


@pytest.mark.parametrize(("dim", "cuts"), [(0, (0, 2, 3, 7)), (1, (0, 1, 3))])
def test_concatenated_parts_are_the_action(dim: int, cuts: tuple[int, ...]) -> None:
    action = some_action()
    slices = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    parts = [action[part] if dim == 0 else action[:, part] for part in slices]
    assert_equal_actions(Action.concatenate(parts, dim), action)


def test_an_action_is_indexed_alike_in_all_fields() -> None:
    action, rows = some_action(), torch.tensor([5, 0, 5])
    taken = action[rows, 1:]
    for field in dataclasses.fields(Action):
        assert torch.equal(getattr(taken, field.name), getattr(action, field.name)[rows, 1:])


def test_idle_has_the_channels_of_its_space_and_does_nothing() -> None:
    idle, like = Action.idle(SPACE, B, T), some_action()
    for field in dataclasses.fields(Action):
        value = getattr(idle, field.name)
        assert value.shape == getattr(like, field.name).shape, field.name
        assert value.dtype == torch.float32
        if field.name != "pointer":
            assert not value.any(), field.name
    assert bool((idle.pointer == 0.5).all())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_split_parts_are_the_batch_in_order(size: int) -> None:
    batch = some_batch()
    parts = list(batch.split(size))
    assert sum(len(part) for part in parts) == len(batch) == B
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size
    assert {part.step for part in parts} == {11}
    for name in ("index", "video", "latents"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name
    assert sum((part.sample_ids for part in parts), ()) == batch.sample_ids
    assert sum((part.given.text or () for part in parts), ()) == batch.given.text
    actions = [part.given.action for part in parts]
    assert_equal_actions(Action.concatenate([a for a in actions if a is not None], 0), batch.given.action)


def test_a_slice_of_a_slice_is_a_slice() -> None:
    twice, once = some_batch()[2:6][1:3], some_batch()[3:5]
    assert torch.equal(twice.index, once.index)
    assert twice.sample_ids == once.sample_ids
    assert twice.given.text == once.given.text
    assert_equal_actions(twice.given.action, once.given.action)


def test_what_is_absent_stays_absent() -> None:
    bare = Batch(step=0, index=torch.arange(4), given=Given())
    for part in (*bare.split(3), bare[1:2], bare.to("cpu")):
        assert part.video is None
        assert part.latents is None
        assert part.given == Given()
        assert part.sample_ids == ()


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    batch = some_batch().to("meta")
    assert batch.given.action is not None
    tensors = [getattr(batch.given.action, field.name) for field in dataclasses.fields(Action)]
    tensors += [batch.video, batch.latents]
    assert {x.device.type for x in tensors} == {"meta"}
    # The index keys the random draws, which are made on the CPU.
    assert batch.index.device.type == "cpu"
    assert (batch.step, batch.sample_ids) == (11, some_batch().sample_ids)


def test_an_action_space_travels_through_its_config() -> None:
    assert from_dict(ActionSpace, to_dict(SPACE)) == SPACE
    with pytest.raises(ConfigError, match="pointer"):
        from_dict(ActionSpace, {"pointer": "polar"})
