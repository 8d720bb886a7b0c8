"""Places copy what they showed, and look closer at one place: against slow references, exactly where they should."""

import pytest
import torch
from torch import Tensor, nn

from wm.conditioning.action import bilinear
from wm.models.look import Look
from wm.models.memory import Memory
from wm.models.recall import Recall, carried
from wm.nn.frame_mask import FrameMask, Pattern

B, T, C, H, W, WINDOW, KEYS = 2, 5, 3, 4, 6, 3, 7
WIDTHS = (8, 10)
CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def window_mask(queries: int, keys: int) -> Tensor:
    return FrameMask.of_clip(Pattern(window=WINDOW), keys, num_queries=queries).dense(CPU)


def recall(scale: float) -> Recall:
    """With weights of this size; the ages keep the head start that they begin with."""
    torch.manual_seed(0)
    built = Recall(WIDTHS, KEYS, WINDOW)
    for name, parameter in built.named_parameters():
        if name != "age":
            nn.init.normal_(parameter, std=scale)
    return built


def inputs(batch: int = B) -> tuple[Tensor, list[Tensor], Tensor]:
    """Features, levels and the frames before."""
    levels = [noise(batch * T, w, H >> i, W >> i, seed=i) for i, w in enumerate(WIDTHS)]
    return noise(batch * T, WIDTHS[0], H, W, seed=2), levels, noise(batch, T, C, H, W, seed=3)


def test_it_begins_by_showing_the_frame_before() -> None:
    features, levels, before = inputs()
    held = recall(0.0)(features, levels, before, window_mask(T, T), None)
    torch.testing.assert_close(held[:, 0], before[:, 0])
    assert (held - before).norm() < 0.05 * before.norm()


def test_what_it_shows_is_the_weighted_past_of_the_same_place() -> None:
    built, (features, levels, before) = recall(0.4), inputs()
    held = built(features, levels, before, window_mask(T, T), None)
    query, fine = (part.unflatten(0, (B, T)) for part in (built.query(features), built.key(levels[0])))
    coarse = built.around[0](levels[1])  # type: ignore[index]
    for b, t, y, x in [(0, 0, 0, 0), (1, 1, 2, 5), (0, 4, 3, 2), (1, 3, 1, 4)]:
        seen = range(max(0, t - WINDOW + 1), t + 1)
        # A coarse cell holds the keys of 2 x 2 places one after the other, row by row.
        corner = (y % 2) * 2 + x % 2
        keys = [
            fine[b, s, :, y, x] + coarse[b * T + s, corner * KEYS : (corner + 1) * KEYS, y // 2, x // 2] for s in seen
        ]
        scores = torch.stack([query[b, t, :, y, x] @ key / KEYS**0.5 for key in keys])
        scores = scores + torch.stack([built.age[t - s] for s in seen])
        expected = sum(w * before[b, s, :, y, x] for w, s in zip(scores.softmax(0), seen, strict=True))
        torch.testing.assert_close(held[b, t, :, y, x], expected)


def test_a_memory_gives_frame_by_frame_what_the_clip_gives_at_once() -> None:
    built, (features, levels, before) = recall(0.4), inputs(batch=1)
    whole = built(features, levels, before, window_mask(T, T), None)
    memory = Memory(1, WINDOW - 1)
    for t in range(T):
        one = slice(t, t + 1)
        mask = window_mask(1, 1 + len(memory))
        held = built(features[one], [level[one] for level in levels], before[:, one], mask, memory)
        torch.testing.assert_close(held, whole[:, one])
        memory.hold()
        memory.commit()


def test_a_pointer_reads_a_grid_between_its_cells() -> None:
    """A linear function of the place is read exactly, up to half a cell from the edges."""
    rows, columns = 4, 6
    pointer = torch.rand(B, T, 2) * (1 - 1 / torch.tensor([columns, rows])) + 0.5 / torch.tensor([columns, rows])
    weights = bilinear(pointer, rows, columns)
    torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(B, T))
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    torch.testing.assert_close((weights * x).sum((-2, -1)), pointer[..., 0])
    torch.testing.assert_close((weights * y).sum((-2, -1)), pointer[..., 1])


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.999, 0.999)])
def test_a_pointer_at_the_edge_reads_the_last_cell(corner: tuple[float, float]) -> None:
    weights = bilinear(torch.tensor(corner).view(1, 1, 2), 4, 6)
    assert weights[0, 0, -1, -1] + weights[0, 0, 0, 0] == 1


def test_a_look_reads_each_level_at_its_place_and_nowhere_else() -> None:
    torch.manual_seed(0)
    look = Look(WIDTHS, 16)
    for parameter in look.parameters():
        nn.init.normal_(parameter, std=0.3)
    _, levels, _ = inputs()
    place = torch.zeros(B, T, H, W)
    place[..., 2, 5] = 1.0
    seen = look(levels, place)
    assert seen.shape == (B, T, 16)
    at = torch.cat([levels[0][:, :, 2, 5], levels[1][:, :, 1, 2]], dim=1)
    torch.testing.assert_close(seen.flatten(0, 1), look.read(look.norm(at)))


def test_what_is_carried_is_the_frame_shifted_and_nothing_wraps_around() -> None:
    x = noise(1, 3, C, H, W)
    moved = torch.tensor([[[0, 0], [1, -2], [-3, 9]]])
    shifted = carried(x, moved)
    assert torch.equal(shifted[:, 0], x[:, 0])
    assert torch.equal(shifted[:, 1, :, 1:, :-2], x[:, 1, :, :-1, 2:])
    assert not shifted[:, 1, :, :1].any()
    assert not shifted[:, 1, :, :, -2:].any()
    assert not shifted[:, 2].any()
