"""Mouse and keyboard as a Condition: the pointer's exact pixel in the maps, and nothing said when nothing is given."""

import dataclasses

import pytest
import torch
from einops import rearrange
from tiny_world import SPACE, some_action
from torch import Tensor

from wm.batch import HELD, PRESSED, RELEASED, Action, ActionSpace, Given
from wm.conditioning.action import ActionConditioner, ActionConditionerConfig, pointer_bump, pointer_offset
from wm.conditioning.condition import Condition, dropped

STRIDE, ROWS, COLUMNS, HIDDEN = 4, 3, 5, 8
HEIGHT, WIDTH = ROWS * STRIDE, COLUMNS * STRIDE
GAIN = 2.0
PIXELS = STRIDE * STRIDE  # channels that hold the pointer's map; after them the neighbourhood, the offset, the buttons
BUTTONS = PIXELS + 3


def small(space: ActionSpace = SPACE) -> ActionConditioner:
    torch.manual_seed(0)
    return ActionConditionerConfig(pointer_sigma=1.0, map_gain=GAIN, button_sigma=4.0).build(
        space, HIDDEN, STRIDE, ROWS, COLUMNS
    )


def at(x: int, y: int) -> Action:
    """The pointer on one pixel, nothing else."""
    action = Action.idle(SPACE, 1, 1)
    action.pointer[0, 0] = torch.tensor([(x + 0.5) / WIDTH, (y + 0.5) / HEIGHT])
    return action


def maps_of(action: Action) -> Tensor:
    return small().drawn(action)


def test_shapes() -> None:
    conditioner = small()
    condition = conditioner(Given(action=some_action(2, 7)))
    assert condition.frames is not None
    assert condition.maps is not None
    assert condition.frames.shape == (2, 7, HIDDEN)
    assert condition.maps.shape == (2, 7, conditioner.num_maps, ROWS, COLUMNS)
    assert conditioner.num_maps == conditioner.config.map_channels + PIXELS
    drawn = conditioner.drawn(some_action(2, 7))
    assert torch.equal(condition.maps[:, :, -PIXELS:], drawn[:, :, :PIXELS]), "the pointer's pixel goes on as it is"
    assert maps_of(Action.idle(conditioner.space, 2, 7)).shape[2] == BUTTONS + 3 * 2
    assert condition.tokens is None


def test_the_pointer_map_unfolds_to_a_peak_at_its_pixel() -> None:
    for x in range(WIDTH):
        for y in range(0, HEIGHT, 5):
            folded = maps_of(at(x, y))[:, :, :PIXELS] / GAIN
            pixels = rearrange(folded, "1 1 (p q) h w -> (h p) (w q)", p=STRIDE, q=STRIDE)
            assert pixels.max() == pytest.approx(1.0)
            assert divmod(int(pixels.argmax()), WIDTH) == (y, x)
            assert int((pixels > 0.99).sum()) == 1


def test_a_bump_is_a_gaussian_in_cells() -> None:
    bump = pointer_bump(torch.tensor([[[0.25, 0.75]]]), 8, 12, sigma=2.0)
    assert bump.shape == (1, 1, 8, 12)
    y, x = torch.meshgrid(torch.arange(8) + 0.5 - 6.0, torch.arange(12) + 0.5 - 3.0, indexing="ij")
    torch.testing.assert_close(bump[0, 0], torch.exp(-(x.square() + y.square()) / 8.0))


def test_the_offset_points_from_every_cell_to_the_pointer() -> None:
    offset = pointer_offset(torch.tensor([[[0.25, 0.75]], [[0.9, 0.1]]]), 8, 12)
    assert offset.shape == (2, 1, 2, 8, 12)
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(12) + 0.5, indexing="ij")
    torch.testing.assert_close(offset[0, 0], torch.stack([3.0 - x, 6.0 - y]))
    torch.testing.assert_close(offset[1, 0], torch.stack([10.8 - x, 0.8 - y]))


def test_the_neighbourhood_carries_the_offset() -> None:
    maps = maps_of(at(9, 2))[:, :, PIXELS:BUTTONS] / GAIN
    pointer = at(9, 2).pointer
    place = pointer_bump(pointer, ROWS, COLUMNS, 4.0 / STRIDE)
    torch.testing.assert_close(maps[:, :, 0], place)
    torch.testing.assert_close(maps[:, :, 1:], pointer_offset(pointer, ROWS, COLUMNS) * place.unsqueeze(2))


def test_a_click_is_an_event_at_the_pointer() -> None:
    quiet, clicked = at(9, 2), at(9, 2)
    clicked.buttons[0, 0, 1, PRESSED] = 1.0
    before, after = maps_of(quiet), maps_of(clicked)
    moved = torch.nonzero((after - before).abs().sum((0, 1, 3, 4))).flatten().tolist()
    assert moved == [BUTTONS + 3 * 1 + PRESSED]
    channel = after[0, 0, moved[0]]
    assert divmod(int(channel.argmax()), COLUMNS) == (2 // STRIDE, 9 // STRIDE)
    assert channel[2, 4] < 0.5 * channel.max()


def test_each_button_and_each_of_its_changes_has_a_map() -> None:
    for button in range(2):
        for change in (HELD, PRESSED, RELEASED):
            action = at(3, 3)
            action.buttons[0, 0, button, change] = 2.0
            shown = maps_of(action)[0, 0, BUTTONS:].flatten(1).amax(1)
            assert torch.nonzero(shown).flatten().tolist() == [3 * button + change]
            assert shown.max() > GAIN


@pytest.mark.parametrize("name", ["pointer", "buttons", "keys", "wheel", "axes"])
def test_every_channel_is_heard_in_its_own_frame(name: str) -> None:
    conditioner, action = small(), some_action(2, 5)
    other = dataclasses.replace(action, **{name: getattr(action, name).clone()})
    getattr(other, name)[1, 3] += 0.25
    one, two = conditioner(Given(action=action)).frames, conditioner(Given(action=other)).frames
    assert one is not None
    assert two is not None
    assert torch.nonzero((one - two).abs().sum(-1)).tolist() == [[1, 3]]


@pytest.mark.parametrize("pointer", ["relative", "none"])
def test_without_an_absolute_pointer_there_are_no_maps(pointer: str) -> None:
    space = dataclasses.replace(SPACE, pointer=pointer)
    conditioner, given = small(space), Given(action=some_action(2, 5, space))
    assert conditioner.num_maps == 0
    assert conditioner(given).maps is None
    assert conditioner.null(given).maps is None


def test_the_null_condition_has_the_shapes_of_the_real_one_and_says_nothing() -> None:
    conditioner = small()
    given, other = Given(action=some_action(2, 5)), Given(action=some_action(2, 5, seed=1))
    real, null = conditioner(given), conditioner.null(given)
    for name in ("frames", "maps"):
        assert getattr(null, name).shape == getattr(real, name).shape
        assert torch.equal(getattr(null, name), getattr(conditioner.null(other), name))


def test_dropping_takes_whole_samples() -> None:
    conditioner, given = small(), Given(action=some_action(3, 5))
    real, null = conditioner(given), conditioner.null(given)
    condition = dropped(real, null, torch.tensor([True, False, True]))
    for name in ("frames", "maps"):
        kept, one, nothing = getattr(condition, name), getattr(real, name), getattr(null, name)
        assert torch.equal(kept[[0, 2]], one[[0, 2]])
        assert torch.equal(kept[1], nothing[1])
    assert dropped(Condition(), Condition(), torch.tensor([True])) == Condition()


def test_no_action_is_refused() -> None:
    with pytest.raises(ValueError, match="conditioned on actions and none was given"):
        small()(Given())
