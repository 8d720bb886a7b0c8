"""Reads a clip of shapes: which figures, which moves where, which is in front. Exact on what shapes.py drew.

Pixels take the nearest colour of the palette. Each colour is then laid under every shape on every straight way, resting
or moving, and the two that cover the clip best are the figures: analysis by synthesis over the whole clip, so that a
figure that is hidden in some frames, or drawn badly by a model, is still found where it fits best.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from data_pipeline.environments.shapes import (
    BACKGROUND,
    COLOURS,
    DEPTHS,
    DIRECTIONS,
    Claim,
    Figure,
    Scene,
    ShapesConfig,
    draw,
    mask,
)

ASPECTS = ("colour", "shape", "direction", "depth")
LEAST_AGREEMENT = 0.5  # below it a clip shows no scene of this world, however its pixels are read
_RESTS = (0, 0)


@dataclass(frozen=True)
class Reading:
    """The scene that explains a clip best, None where nothing does; and how well, 1 for a drawn clip."""

    scene: Scene | None
    agreement: float  # of the pixels that are a figure in the clip or in the scene, the part in which they are the same


@dataclass(frozen=True)
class _Fit:
    """One colour, laid under the clip in the best of its shapes and places."""

    figure: Figure
    motion: tuple[int, int]
    start: tuple[int, int]
    score: float


def labels(video: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, H, W): 0 background, i the i-th of `colours`, whichever is nearest."""
    palette = np.array([BACKGROUND, *(COLOURS[name] for name in colours)], np.float32)
    return np.square(video[..., None, :].astype(np.float32) - palette).sum(-1).argmin(-1)


def parse(
    config: ShapesConfig,
    video: np.ndarray,  # (num_frames, H, W, 3) uint8
) -> Reading:
    """The Scene of a clip: `parse(config, draw(config, scene)).scene == scene`, for every scene of `draw_scene`."""
    wanted = (config.num_frames, config.height, config.width, 3)
    if video.shape != wanted or video.dtype != np.uint8:
        raise ValueError(f"a clip of {video.dtype} {video.shape} cannot be read here, it must be uint8 {wanted}")
    seen = labels(video, config.colours)
    resting, moving = [], []
    for number, colour in enumerate(config.colours, 1):
        fits = _fits(config, seen, number, colour)
        resting.append(max((fit for fit in fits if fit.motion == _RESTS), key=_score))
        moving.append(max((fit for fit in fits if fit.motion != _RESTS), key=_score))
    pairs = [(m, r) for m, r in itertools.product(moving, resting) if m.figure.colour != r.figure.colour]
    mover, other = max(pairs, key=lambda pair: pair[0].score + pair[1].score)
    # A colour that is nowhere scores nothing, at best: it would lie hidden under the other in every frame.
    if min(mover.score, other.score) <= 0:
        return Reading(None, 0.0)
    scene = _scene(config, seen, mover, other)
    drawn = labels(draw(config, scene), config.colours)
    agreement = float((drawn == seen)[(drawn > 0) | (seen > 0)].mean())
    return Reading(scene if agreement >= LEAST_AGREEMENT else None, agreement)


def matches(config: ShapesConfig, video: np.ndarray, caption: str) -> dict[str, bool]:
    """Which of ASPECTS of `caption` the clip (num_frames, H, W, 3) uint8 shows; both figures must be as it says."""
    said, scene = Claim.of(caption), parse(config, video).scene
    if scene is None:
        return dict.fromkeys(ASPECTS, False)
    shown = scene.claim
    both = ((said.mover, shown.mover), (said.other, shown.other))
    return {
        "colour": all(a.colour == b.colour for a, b in both),
        "shape": all(a.shape == b.shape for a, b in both),
        "direction": said.direction == shown.direction,
        "depth": said.depth == shown.depth,
    }


def _score(fit: _Fit) -> float:
    return fit.score


def _fits(config: ShapesConfig, seen: np.ndarray, number: int, colour: str) -> list[_Fit]:
    """The best place of every shape under every motion for one colour.

    A pixel of the colour under the shape counts 1, one beside it -1, background under the shape -1, and other colours
    under it nothing: there it may be hidden. So no wrong place of a drawn figure scores as high as the right one.
    """
    found = torch.from_numpy(seen == number).float().unsqueeze(1)
    empty = torch.from_numpy(seen == 0).float().unsqueeze(1)
    fits = []
    for shape in config.shapes:
        template = torch.from_numpy(mask(shape, config.size)).float()[None, None]
        beside = found.sum((1, 2, 3)).view(-1, 1, 1)
        maps = (2 * F.conv2d(found, template) - F.conv2d(empty, template))[:, 0] - beside
        for motion in (_RESTS, *DIRECTIONS.values()):
            start, score = _best_start(maps, (motion[0] * config.speed, motion[1] * config.speed))
            fits.append(_Fit(Figure(colour, shape), motion, start, score))
    return fits


def _best_start(maps: torch.Tensor, step: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """The place (x, y) in the first frame, and the sum of `maps` (T, H, W) along the way from it by `step` a frame."""
    last = len(maps) - 1
    height, width = maps.shape[1] - abs(step[1]) * last, maps.shape[2] - abs(step[0]) * last
    # The way must stay inside: a leftward one starts at least its own length from the left edge.
    x0, y0 = max(0, -step[0] * last), max(0, -step[1] * last)
    ways = [
        scores[y0 + i * step[1] : y0 + i * step[1] + height, x0 + i * step[0] : x0 + i * step[0] + width]
        for i, scores in enumerate(maps)
    ]
    total = torch.stack(ways).sum(0)
    best = int(total.argmax())
    return (x0 + best % width, y0 + best // width), float(total.flatten()[best])


def _scene(config: ShapesConfig, seen: np.ndarray, mover: _Fit, other: _Fit) -> Scene:
    """Both figures as a Scene; whose colour more of the pixels have that both claim is in front."""
    direction = next(name for name, motion in DIRECTIONS.items() if motion == mover.motion)
    number = {name: i for i, name in enumerate(config.colours, 1)}
    scene = Scene(Claim(mover.figure, other.figure, direction, DEPTHS[0]), mover.start, other.start)
    votes = 0
    for frame, shown in enumerate(seen):
        both = _covered(config, mover.figure.shape, scene.at(frame, config.speed))
        both &= _covered(config, other.figure.shape, scene.place)
        votes += int((shown[both] == number[mover.figure.colour]).sum())
        votes -= int((shown[both] == number[other.figure.colour]).sum())
    claim = Claim(mover.figure, other.figure, direction, DEPTHS[0] if votes > 0 else DEPTHS[1])
    return Scene(claim, mover.start, other.start)


def _covered(config: ShapesConfig, shape: str, place: tuple[int, int]) -> np.ndarray:
    """Where on the screen (H, W) a figure at `place` is."""
    covered = np.zeros((config.height, config.width), bool)
    x, y = place
    covered[y : y + config.size, x : x + config.size] = mask(shape, config.size)
    return covered
