"""Where the cursor is in a frame, found by looking at the whole frame and never at the input."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm.measures import unit

# Pixels around the opaque ones whose mean is taken as the background.
RING_PX = 2
# A cursor cut by the frame's edge is looked for, and counted as a trial, while this much of it is visible.
MIN_VISIBLE = 0.5
# Variance of a flat background, in units of full scale squared; keeps flat regions from matching by their noise.
NOISE_FLOOR = 1e-3
# Bounds the memory for large frames.
FRAMES_AT_ONCE = 32


class Sprite(NamedTuple):
    """One shape of the cursor, as the environment draws it."""

    name: str
    hotspot: tuple[int, int]  # x, y of the pixel that points, from the sprite's top left corner
    rgba: Tensor  # (h, w, 4) uint8; pixels at least half opaque are compared


class Located(NamedTuple):
    """One row a frame."""

    pointer: Tensor  # (N, 2) x, y of the pixel that the best match points at
    score: Tensor  # (N,) 1 for an exact match, about 0 for none
    sprite: Tensor  # (N,) number of the sprite that matched


def locate(frames: Tensor, sprites: Sequence[Sprite]) -> Located:
    """The best match of any of `sprites` anywhere in each frame of `frames` (N, 3, H, W), uint8 or [0, 1]."""
    if not sprites:
        raise ValueError("no cursor sprites: the cursor cannot be looked for")
    height, width = frames.shape[-2:]
    best, place = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for part in frames.split(FRAMES_AT_ONCE):
        scores = torch.stack([match(part, sprite) for sprite in sprites], dim=1)
        highest, where = scores.flatten(1).max(1)
        best, place = torch.cat([best, highest.cpu()]), torch.cat([place, where.cpu()])
    which, place = place // (height * width), place % (height * width)
    return Located(torch.stack([place % width, place // width], -1), best, which)


def match(frames: Tensor, sprite: Sprite) -> Tensor:
    """How well `sprite` fits with its hotspot at each pixel, (N, 3, H, W) -> (N, H, W), at most 1; -1 where cut off.

    With F the frame, S the sprite and b the mean of the frame on a ring around it, over the sprite's opaque pixels:

        score = 1 - |F - S|^2 / (|F - b|^2 + |S - b|^2)

    The squared difference is measured against what stands out from the background, so a cursor that is only drawn to
    a part `a` still scores 2 a / (1 + a^2): 0.8 at one half. A flat region scores 0.
    """
    opaque, ring, colour = _kernels(sprite, frames.device)
    video = _padded(unit(frames), sprite)
    valid = _padded(torch.ones(1, 1, *frames.shape[-2:], device=frames.device), sprite)
    planes = torch.cat([video, video.square().sum(1, keepdim=True)], 1)
    sums = F.conv2d(planes, _weights(opaque, ring, colour))
    frame_sum, ring_sum, frame_square, product = sums.split((3, 3, 1, 1), dim=1)
    # The same sums of what lies inside the frame: they differ from a constant only where the sprite is cut.
    whole = torch.cat([opaque[None], ring[None], colour, colour.square().sum(0, keepdim=True)]).unsqueeze(1)
    count, ring_count, sprite_sum, sprite_square = F.conv2d(valid, whole).split((1, 1, 3, 1), dim=1)

    back = ring_sum / ring_count.clamp_min(1)
    back_square = count * back.square().sum(1, keepdim=True)
    difference = frame_square - 2 * product + sprite_square
    frame_contrast = frame_square - 2 * (back * frame_sum).sum(1, keepdim=True) + back_square
    sprite_contrast = sprite_square - 2 * (back * sprite_sum).sum(1, keepdim=True) + back_square
    score = 1 - difference / (frame_contrast + sprite_contrast + NOISE_FLOOR * count.clamp_min(1))
    return torch.where(count >= MIN_VISIBLE * opaque.sum(), score, -1.0).squeeze(1)


def _weights(opaque: Tensor, ring: Tensor, colour: Tensor) -> Tensor:
    """One dense convolution of (red, green, blue, their squares) for all sums: on a CPU much faster than grouped ones."""
    weights = torch.zeros(8, 4, *opaque.shape, device=opaque.device)
    for channel in range(3):
        weights[channel, channel] = opaque  # sums under the sprite
        weights[3 + channel, channel] = ring  # sums around it
    weights[6, 3] = opaque  # sum of squares
    weights[7, :3] = colour  # product with the sprite
    return weights


def visible(pointer: Tensor, sprites: Sequence[Sprite], height: int, width: int) -> Tensor:
    """Whether enough of every sprite lies inside the frame when it points at `pointer` (N, 2), -> (N,) bool."""
    enough = torch.ones(len(pointer), dtype=torch.bool)
    for sprite in sprites:
        rows, columns = torch.nonzero(sprite.rgba[..., 3] >= 128, as_tuple=True)
        x = pointer[:, :1] + columns - sprite.hotspot[0]
        y = pointer[:, 1:] + rows - sprite.hotspot[1]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        enough &= inside.float().mean(1) >= MIN_VISIBLE
    return enough


def boxes(pointer: Tensor, sprites: Sequence[Sprite], height: int, width: int, margin: int) -> Tensor:
    """The pixels within `margin` of where any sprite can be when it points at `pointer` (N, 2), -> (N, H, W) bool."""
    if not sprites:
        return torch.zeros(len(pointer), height, width, dtype=torch.bool)
    left = max(s.hotspot[0] for s in sprites) + margin
    up = max(s.hotspot[1] for s in sprites) + margin
    right = max(s.rgba.shape[1] - 1 - s.hotspot[0] for s in sprites) + margin
    down = max(s.rgba.shape[0] - 1 - s.hotspot[1] for s in sprites) + margin
    x, y = torch.arange(width), torch.arange(height)
    in_x = (x >= pointer[:, :1] - left) & (x <= pointer[:, :1] + right)
    in_y = (y >= pointer[:, 1:] - up) & (y <= pointer[:, 1:] + down)
    return in_y[:, :, None] & in_x[:, None, :]


def _kernels(sprite: Sprite, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Opaque pixels (h, w), ring around them (h, w), colours of the opaque ones (3, h, w), with a border of RING_PX."""
    rgba = F.pad(unit(sprite.rgba.to(device)).permute(2, 0, 1), (RING_PX,) * 4)
    opaque = (rgba[3] >= 0.5).float()
    if not opaque.any():
        raise ValueError(f"cursor sprite {sprite.name!r} has no opaque pixel")
    near = F.max_pool2d(opaque[None, None], 2 * RING_PX + 1, stride=1, padding=RING_PX)[0, 0]
    ring = near * (rgba[3] == 0)
    return opaque, ring, rgba[:3] * opaque


def _padded(values: Tensor, sprite: Sprite) -> Tensor:
    """`values` (N, C, H, W) with zeros around, so that a convolution gives one number for each place of the hotspot."""
    h, w, _ = sprite.rgba.shape
    x, y = sprite.hotspot
    return F.pad(values, (x + RING_PX, w - 1 - x + RING_PX, y + RING_PX, h - 1 - y + RING_PX))
