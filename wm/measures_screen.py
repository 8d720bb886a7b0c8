"""What a person needs of a screen: that its small text is read, its thin lines stay, its cursor is seen. Functions of frames.

Where the text and the lines are is read out of the real frames, exactly, so no measure needs to be told. Frames are
(N, 3, H, W), uint8 or in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wm.measures import PSNR_CAP_DB, unit

MIN_CONTRAST = 0.1  # of full scale: less between ink and paper, or across a line, is no text and no line to look for
MIN_INK = 5  # pixels: a dot or a dash is found in too much that is no text


@dataclass(frozen=True)
class Readings:
    """One row a letter that stands in the real frames."""

    frame: Tensor  # (K,) which of the frames
    corner: Tensor  # (K, 2) x, y of its top left pixel
    letter: Tensor  # (K,) its number among the glyphs
    read: Tensor  # (K,) the number of the glyph that the made frame shows there

    @property
    def right(self) -> Tensor:
        """(K,) bool."""
        return self.letter == self.read


def legibility(made: Tensor, real: Tensor, glyphs: Mapping[str, Tensor]) -> Readings:
    """Which letters of the real frames are still read in the made ones; `glyphs` by letter, (h, w) bool, all of one size.

    A letter is found where the real frame has a glyph exactly: one colour of ink on one colour of paper, with paper on both
    sides. The made frame reads as the glyph, in that ink on that paper, that it is nearest to in squared error; to nothing,
    an empty glyph, where the paper is nearest. On the real frames every letter reads as itself.
    """
    shapes = torch.stack([*glyphs.values()])  # (G, h, w)
    if not bool((~shapes).flatten(1).all(1).any()):
        shapes = torch.cat([shapes, torch.zeros_like(shapes[:1])])
    found = [_letters(frame, shapes) for frame in unit(real)]
    frame = torch.cat([torch.full((len(corner),), i) for i, (corner, _) in enumerate(found)])
    corner, letter = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Readings(frame, corner, letter, _read(unit(made), unit(real), frame, corner, letter, shapes))


def _letters(frame: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """The corners (K, 2) and numbers (K,) of all glyphs that stand in `frame` (3, H, W) exactly."""
    height, width = shapes.shape[-2:]
    columns = frame.shape[-1] - width + 1
    wide = F.pad(shapes, (1, 1))  # with the paper on both sides
    around = F.unfold(F.pad(frame, (1, 1), mode="replicate")[None], (height, width + 2))[0]  # (3 h (w + 2), places)
    around = around.view(3, height * (width + 2), -1)
    corners, letters = [], []
    for number, shape in enumerate(wide.flatten(1)):
        if int(shape.sum()) < MIN_INK:
            continue
        ink, paper = around[:, shape], around[:, ~shape]
        even = (ink == ink[:, :1]).all(1).all(0) & (paper == paper[:, :1]).all(1).all(0)
        place = torch.nonzero(even & ((ink[:, 0] - paper[:, 0]).abs().amax(0) > MIN_CONTRAST))[:, 0]
        corners.append(torch.stack([place % columns, place // columns], -1))
        letters.append(torch.full((len(place),), number))
    return torch.cat(corners), torch.cat(letters)


def _read(made: Tensor, real: Tensor, frame: Tensor, corner: Tensor, letter: Tensor, shapes: Tensor) -> Tensor:
    """The nearest glyph (K,) at each place of the made frames, drawn in the real frame's ink and paper."""
    height, width = shapes.shape[-2:]
    x = corner[:, 0, None, None] + torch.arange(width)
    y = corner[:, 1, None, None] + torch.arange(height)[:, None]
    shown, true = (video[frame[:, None, None], :, y, x] for video in (made, real))  # (K, h, w, 3)
    own = shapes[letter][..., None]
    ink, paper = ((true * where).sum((1, 2)) / where.sum((1, 2)) for where in (own, ~own))  # (K, 3)
    # |shown - paper - (ink - paper) glyph|^2 without what is the same for all glyphs.
    contrast = (ink - paper)[:, None, None]
    along = ((shown - paper[:, None, None]) * contrast).sum(-1).flatten(1)  # (K, h w)
    masks = shapes.flatten(1).to(along)
    error = contrast.square().sum(-1).flatten(1) * masks.sum(1) - 2 * along @ masks.T
    return error.argmin(1)


def line_retention(made: Tensor, real: Tensor, shortest: int = 8) -> tuple[Tensor, Tensor]:
    """Of the pixels of lines one pixel thick, how many stay lines: (kept, all), each (N,) counts.

    A line is a run of at least `shortest` pixels of one colour, across or down, that stands out from both sides; a pixel of
    it is kept where the made frame has at least half of that contrast, in its direction, to both sides.
    """
    kept, count = torch.zeros(len(real)), torch.zeros(len(real))
    for turn in (False, True):
        one, other = (unit(v).transpose(-1, -2) if turn else unit(v) for v in (made, real))
        if min(other.shape[-2:]) < 3:
            continue
        above, below = (_contrast(other, shift) for shift in (1, -1))
        line = (above.abs().amax(1) > MIN_CONTRAST) & (below.abs().amax(1) > MIN_CONTRAST)
        line &= _runs(line, other, shortest)
        stays = [
            (_contrast(one, shift) * was).sum(1) >= 0.5 * was.square().sum(1)
            for shift, was in ((1, above), (-1, below))
        ]
        kept += (line & stays[0] & stays[1]).sum((-2, -1))
        count += line.sum((-2, -1))
    return kept, count


def _contrast(frames: Tensor, shift: int) -> Tensor:
    """Each pixel less the one `shift` rows above it; 0 where there is none."""
    difference = frames - frames.roll(shift, -2)
    difference[..., 0 if shift > 0 else -1, :] = 0
    return difference


def _runs(line: Tensor, frames: Tensor, shortest: int) -> Tensor:
    """Where `line` (N, H, W) goes on along a row in one colour for at least `shortest` pixels."""
    same = (frames[..., 1:] == frames[..., :-1]).all(1) & line[..., 1:] & line[..., :-1]
    links = F.pad(same, (1, 0)).float()  # from the pixel at the left
    if links.shape[-1] < shortest:
        return torch.zeros_like(line)
    whole = -F.max_pool1d(-links[..., 1:], shortest - 1, stride=1)  # 1 where a run begins that is long enough
    reach = F.pad(whole, (shortest - 1, shortest - 1))
    return F.max_pool1d(reach, shortest, stride=1) > 0


def cursor_psnr(made: Tensor, real: Tensor, boxes: Tensor) -> Tensor:
    """PSNR in dB of the pixels in `boxes` (N, H, W), where the cursor is (cursor.boxes), -> (N,); NaN where a box is empty."""
    error = (unit(made) - unit(real)).square().mean(1)
    inside = (error * boxes).sum((-2, -1)) / boxes.sum((-2, -1))
    return -10 * torch.log10(inside.clamp_min(10 ** (-PSNR_CAP_DB / 10)))
