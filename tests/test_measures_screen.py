"""Measures of screens on the simulated desktop: exact on itself, and each lost by what it is about and by nothing else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipeline.controls import Controls
from data_pipeline.environments.bitmap_font import GLYPHS, draw_text
from data_pipeline.environments.desktop_sim import DesktopSimConfig
from wm.cursor import Sprite, boxes
from wm.measures import PSNR_CAP_DB, psnr
from wm.measures_screen import cursor_psnr, legibility, line_retention

ALPHABET = {letter: torch.from_numpy(glyph) for letter, glyph in GLYPHS.items()}
NAMES = list(ALPHABET)


def page(lines: list[str], ink: int = 30, paper: int = 240) -> Tensor:
    canvas = np.full((30, 66, 3), paper, dtype=np.uint8)
    for row, line in enumerate(lines):
        draw_text(canvas, 2, 3 + 7 * row, line, (ink, ink + 5, ink + 9))
    return torch.from_numpy(canvas).permute(2, 0, 1)


def desktop() -> Tensor:
    """Frames with the pointer in the corner, (N, 3, H, W): it would cover letters."""
    env, frames = DesktopSimConfig().build(), []
    for seed in range(4):
        env.reset(seed=seed)
        frames.append(torch.from_numpy(env.step(Controls((95, 63)))[0].copy()).permute(2, 0, 1))
    return torch.stack(frames)


def blurred(frames: Tensor, side: int = 3) -> Tensor:
    return F.avg_pool2d(F.pad(frames.float() / 255, (side // 2,) * 4, mode="replicate"), side, stride=1)


def test_every_letter_of_a_page_is_found_once_and_reads_as_itself() -> None:
    lines = ["THE QUICK BROWN", "JUMPS 0123456", "LAZY DOGS V78"]
    frames = torch.stack([page(lines), page(lines[:1], ink=200, paper=10)])
    found = legibility(frames, frames, ALPHABET)
    words = ["".join(lines).replace(" ", ""), lines[0].replace(" ", "")]
    for number, word in enumerate(words):
        assert sorted(NAMES[i] for i in found.letter[found.frame == number]) == sorted(word)
    assert found.right.all()
    first = found.corner[found.letter == NAMES.index("T")][0]
    assert first.tolist() == [2, 3]


def test_another_text_reads_as_that_text_and_none_as_nothing() -> None:
    real, made, empty = (page([line]).unsqueeze(0) for line in ("ABC", "AXC", ""))
    found = legibility(made, real, ALPHABET)
    order = found.corner[:, 0].argsort()
    assert "".join(NAMES[i] for i in found.read[order]) == "AXC"
    assert found.right[order].tolist() == [True, False, True]
    assert {NAMES[i] for i in legibility(empty, real, ALPHABET).read} == {" "}
    assert len(legibility(real, empty, ALPHABET).read) == 0


def test_half_the_contrast_is_still_read_and_less_is_not() -> None:
    real = page(["ABCDEFGH"]).float().unsqueeze(0) / 255
    paper = page([""]).float().unsqueeze(0) / 255
    assert legibility(paper + 0.55 * (real - paper), real, ALPHABET).right.all()
    assert not legibility(paper + 0.45 * (real - paper), real, ALPHABET).right.any()


def test_the_desktop_is_legible_in_itself_and_its_blur_is_not() -> None:
    frames = desktop()
    found = legibility(frames, frames, ALPHABET)
    assert found.right.all()
    assert len(found.right) >= 4 * 5  # a window's title has five letters
    assert legibility(blurred(frames), frames, ALPHABET).right.float().mean() < 0.5
    noisy = frames + torch.randn(frames.shape, generator=torch.Generator().manual_seed(0)) * 8
    assert legibility(noisy.clamp(0, 255).byte(), frames, ALPHABET).right.all()


def lines_picture() -> Tensor:
    """A line across of 20 pixels and one down of 12, a thick one, a short one, and a border between two areas."""
    picture = torch.full((1, 3, 40, 50), 0.9)
    picture[..., 30:, :] = 0.6
    picture[..., 5, 4:24] = 0.1
    picture[..., 10:22, 40] = 0.2
    picture[..., 12:14, 4:24] = 0.1
    picture[..., 20, 4:10] = 0.1
    return picture


def test_lines_of_one_pixel_are_counted_and_nothing_else() -> None:
    real = lines_picture()
    kept, count = line_retention(real, real)
    assert (int(kept), int(count)) == (20 + 12, 20 + 12)
    assert int(line_retention(real, real, shortest=13)[1]) == 20
    assert int(line_retention(real, real, shortest=6)[1]) == 20 + 12 + 6


@pytest.mark.parametrize(("strength", "share"), [(0.6, 1.0), (0.4, 0.0), (-1.0, 0.0)])
def test_a_line_stays_while_it_has_half_its_contrast(strength: float, share: float) -> None:
    real, flat = lines_picture(), torch.full((1, 3, 40, 50), 0.9)
    flat[..., 30:, :] = 0.6
    kept, count = line_retention(flat + strength * (real - flat), real)
    assert float(kept / count) == share


def test_lines_are_lost_by_blur_and_by_a_shift_of_a_pixel() -> None:
    real = lines_picture()
    assert line_retention((real * 255).round().byte(), (real * 255).round().byte())[0] == 32
    assert line_retention(blurred(real * 255), real)[0] == 0
    assert line_retention(real.roll(1, -2).roll(1, -1), real)[0] == 0
    frames = desktop()
    kept, count = line_retention(frames, frames)
    assert torch.equal(kept, count)
    assert count.sum() > 50


def test_the_cursors_psnr_is_that_of_its_box_alone() -> None:
    real = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    sprite = Sprite("arrow", (1, 0), torch.full((5, 4, 4), 255, dtype=torch.uint8))
    box = boxes(torch.tensor([[10, 6], [28, 18]]), [sprite], 20, 30, 0)
    assert box[0, 6:11, 9:13].all()
    assert box[0].sum() == 20
    made = real.clone()
    made[0, :, 6:11, 9:13] += 0.1
    made[1, :, :10, :10] = 0.0
    found = cursor_psnr(made, real, box)
    assert found[0] == pytest.approx(20.0, abs=1e-3)
    assert found[1] == PSNR_CAP_DB
    everywhere = torch.ones(2, 20, 30, dtype=torch.bool)
    torch.testing.assert_close(cursor_psnr(made, real, everywhere), psnr(made, real))
