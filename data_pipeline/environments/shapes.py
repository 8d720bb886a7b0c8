"""Captioned clips with exact ground truth: "a red circle moves left behind a green square".

One figure moves past another that rests, in front of it or behind; the clip is drawn from a Scene, and shapes_parser.py
reads the Scene back out of the clip. Nothing in it can be controlled: the caption is what a model is given.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from data_pipeline.controls import Controls
from data_pipeline.environments.environment import CursorSprite, Target
from wm.batch import ActionSpace
from wm.config import config

BACKGROUND = (24, 24, 32)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 48, 48),
    "green": (40, 176, 72),
    "blue": (56, 88, 232),
    "yellow": (240, 208, 48),
    "purple": (160, 64, 208),
    "white": (240, 240, 240),
}
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x, y
DEPTHS = ("in front of", "behind")
SHAPES = ("circle", "square", "triangle", "cross")

_CAPTION = re.compile(
    rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) moves ({'|'.join(DIRECTIONS)}) "
    rf"({'|'.join(DEPTHS)}) a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
)


@dataclass(frozen=True)
class Figure:
    colour: str
    shape: str


@dataclass(frozen=True)
class Claim:
    """What a caption says."""

    mover: Figure
    other: Figure  # rests
    direction: str
    depth: str  # of the mover: "in front of" or "behind" the other

    def __str__(self) -> str:
        return (
            f"a {self.mover.colour} {self.mover.shape} moves {self.direction} {self.depth} "
            f"a {self.other.colour} {self.other.shape}"
        )

    @classmethod
    def of(cls, caption: str) -> Self:
        """The claim whose `str` is `caption`; ValueError where it is none."""
        found = _CAPTION.fullmatch(caption)
        if found is None:
            raise ValueError(
                f"{caption!r} is no caption of this world; one is 'a red circle moves left behind a green square', with "
                f"the colours {', '.join(COLOURS)}, the shapes {', '.join(SHAPES)} and the directions {', '.join(DIRECTIONS)}"
            )
        colour, shape, direction, depth, other_colour, other_shape = found.groups()
        return cls(Figure(colour, shape), Figure(other_colour, other_shape), direction, depth)


@dataclass(frozen=True)
class Scene:
    """All that a clip shows. Places are x, y of the upper left pixel of a figure's box."""

    claim: Claim
    start: tuple[int, int]  # of the mover in the first frame
    place: tuple[int, int]  # of the other

    def at(self, frame: int, speed: int) -> tuple[int, int]:
        """The mover's place in `frame`."""
        dx, dy = DIRECTIONS[self.claim.direction]
        return self.start[0] + dx * speed * frame, self.start[1] + dy * speed * frame


@config
class ShapesConfig:
    kind: Literal["shapes"] = "shapes"
    height: int = 32
    width: int = 32
    size: int = 9  # pixels of a figure, a side
    speed: int = 2  # pixels a frame
    snap: int = 1  # pixels between the places where figures begin: on a tokenizer's grid one looks the same anywhere
    num_frames: int = 8  # of an episode
    fps: float = 6.0
    colours: tuple[str, ...] = ("red", "green", "blue", "yellow")
    shapes: tuple[str, ...] = ("circle", "square", "triangle")

    def __post_init__(self) -> None:
        for name, given, known in (("colours", self.colours, COLOURS), ("shapes", self.shapes, SHAPES)):
            if set(given) - set(known) or len(set(given)) < len(given):
                raise ValueError(f"{name} {list(given)}: name each at most once, of {list(known)}")
        if len(self.colours) < 2 or not self.shapes:
            raise ValueError("two figures differ in colour: give at least two colours and one shape")
        if self.size < 8 or self.speed < 1 or self.fps <= 0:
            raise ValueError(
                f"size {self.size} (at least 8, or shapes look alike), speed {self.speed} (at least 1) or "
                f"fps {self.fps} (above 0) is too small"
            )
        if self.snap < 1 or (self.speed % self.snap and self.snap % self.speed):
            raise ValueError(
                f"snap {self.snap} must be at least 1, and divide speed {self.speed} or be a multiple of it: figures that begin "
                "on a grid meet on it"
            )
        if self.travel < self.furthest:
            raise ValueError(
                f"in {self.num_frames} frames at speed {self.speed} a figure of {self.size} pixels comes {self.travel} "
                f"pixels far and never wholly meets the other: give at least {-(-self.furthest // self.speed) + 1} frames"
            )
        if min(self.height, self.width) < self.room:
            raise ValueError(
                f"a {self.width}x{self.height} screen has no room for the way of a figure: give at least "
                f"{self.room}x{self.room}, or fewer frames"
            )

    @property
    def travel(self) -> int:
        """Pixels that the mover goes in an episode."""
        return self.speed * (self.num_frames - 1)

    @property
    def furthest(self) -> int:
        """Pixels from the mover to the other in the first frame, at most."""
        return -(-(self.size + 2) // self.snap) * self.snap

    @property
    def room(self) -> int:
        """Pixels that the way takes at most, a side; it begins on the grid."""
        return self.size + max(-(-self.travel // self.snap) * self.snap, self.furthest)

    def build(self) -> "Shapes":
        return Shapes(self)


def mask(shape: str, size: int) -> np.ndarray:
    """Which pixels of its box (size, size) a shape covers."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    match shape:
        case "circle":
            return x**2 + y**2 <= (size / 2) ** 2
        case "square":
            return np.ones((size, size), bool)
        case "triangle":  # on its base, the tip in the middle of the first row
            return np.abs(x) <= (y + (size + 1) / 2) / 2
        case "cross":
            return (np.abs(x) < size / 6) | (np.abs(y) < size / 6)
    raise ValueError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")


def draw_scene(config: ShapesConfig, rng: np.random.Generator) -> Scene:
    """A scene by chance: the boxes lie apart in the first frame, and later the figures meet, in front or behind."""
    first, second = (config.colours[i] for i in rng.permutation(len(config.colours))[:2])
    shapes = [config.shapes[int(rng.integers(len(config.shapes)))] for _ in range(2)]
    direction = list(DIRECTIONS)[int(rng.integers(len(DIRECTIONS)))]
    depth = DEPTHS[int(rng.integers(len(DEPTHS)))]
    dx, dy = DIRECTIONS[direction]
    snap = config.snap
    along, across = config.size + int(rng.integers(3)), int(rng.integers(-(config.size // 3), config.size // 3 + 1))
    along, across = -(-along // snap) * snap, int(across / snap) * snap  # never nearer, never further aside
    # From the mover to the other, and all places that must be on the screen, seen from the mover's start.
    offset = (dx * along + abs(dy) * across, dy * along + abs(dx) * across)
    needed = [(0, 0), offset, (dx * config.travel, dy * config.travel)]
    start = tuple(
        snap
        * int(
            rng.integers(
                -(min(n[axis] for n in needed) // snap),
                (length - config.size - max(n[axis] for n in needed)) // snap + 1,
            )
        )
        for axis, length in enumerate((config.width, config.height))
    )
    claim = Claim(Figure(first, shapes[0]), Figure(second, shapes[1]), direction, depth)
    return Scene(claim, (start[0], start[1]), (start[0] + offset[0], start[1] + offset[1]))


def draw_frame(config: ShapesConfig, scene: Scene, frame: int) -> np.ndarray:
    """Frame number `frame` of `scene`, (H, W, 3) uint8."""
    canvas = np.empty((config.height, config.width, 3), np.uint8)
    canvas[:] = BACKGROUND
    figures = [(scene.claim.other, scene.place), (scene.claim.mover, scene.at(frame, config.speed))]
    for figure, (x, y) in figures if scene.claim.depth == "in front of" else reversed(figures):
        canvas[y : y + config.size, x : x + config.size][mask(figure.shape, config.size)] = COLOURS[figure.colour]
    return canvas


def draw(config: ShapesConfig, scene: Scene) -> np.ndarray:
    """The clip of `scene`, (num_frames, H, W, 3) uint8."""
    return np.stack([draw_frame(config, scene, frame) for frame in range(config.num_frames)])


class Shapes:
    """An Environment in which a scene goes by; what the hand does changes nothing. `info` has its "caption"."""

    name = "shapes"
    version = "1"

    def __init__(self, config: ShapesConfig) -> None:
        self.config = config
        self.action_space = ActionSpace(pointer="none", fps=config.fps)
        self._rng = np.random.default_rng(0)
        self._scene, self._frame = draw_scene(config, self._rng), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A scene drawn from `seed`; without a seed, the next one of the last seed's stream."""
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; shapes takes none")
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._scene, self._frame = draw_scene(self.config, self._rng), 0
        return self.render(), self._info()

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The next frame, whatever `action` is; the last one of the episode comes truncated."""
        if self._frame + 1 >= self.config.num_frames:
            raise ValueError(f"the episode ended after {self.config.num_frames} frames: reset first")
        self._frame += 1
        return self.render(), 0.0, False, self._frame + 1 == self.config.num_frames, self._info()

    def render(self) -> np.ndarray:
        return draw_frame(self.config, self._scene, self._frame)

    def close(self) -> None:
        """Nothing is held open."""

    def cursors(self) -> list[CursorSprite]:
        return []

    def targets(self) -> list[Target]:
        return []

    def _info(self) -> dict[str, Any]:
        state = {**asdict(self._scene), "mover_at": list(self._scene.at(self._frame, self.config.speed))}
        return {"pointer": (0, 0), "events": [], "state": state, "caption": str(self._scene.claim)}
