"""A hand that looks for what it has seen least: a tree of screens, and what was already tried on each of them.

Traces that go everywhere teach more than as many random ones, so at each screen the explorer takes what it took least often
there, or what leads, as far as it knows, to a screen where something is left to try.
"""

from collections import Counter, defaultdict
from typing import Any, Literal

import numpy as np

from data_pipeline.controls import Controls
from data_pipeline.environments.environment import Environment, Rect, Target
from data_pipeline.human_policy import HumanPolicy, HumanPolicyConfig
from wm.config import config

_GRID = (12, 16)  # rows and columns of the coarse picture that a screen is known by
_LEVELS = 16  # of brightness, in it
_FADES = 0.8  # what can be tried one step further on is worth so much less

Place = tuple[str, ...]  # what makes a target the same one again


@config
class ExplorerPolicyConfig:
    kind: Literal["explore"] = "explore"
    hand: HumanPolicyConfig = HumanPolicyConfig(wander=0.0)  # how it moves; its weights of 0 are never
    depth: int = 3  # screens that it looks ahead in the tree
    random: float = 0.1  # probability that it takes anything

    def __post_init__(self) -> None:
        if self.depth < 1 or not 0 <= self.random <= 1:
            raise ValueError(f"depth {self.depth}, random {self.random}: give at least 1, and a probability")

    def build(self) -> "ExplorerPolicy":
        return ExplorerPolicy(self)


class ExplorerPolicy(HumanPolicy):
    """Moves like the human policy and chooses by what was seen least since the last reset."""

    name = "explore"

    def __init__(self, config: ExplorerPolicyConfig) -> None:
        super().__init__(config.hand)
        self.explorer = config

    def reset(self, environment: Environment, seed: int) -> None:
        super().reset(environment, seed)
        self._tried: dict[bytes, Counter[Place]] = defaultdict(Counter)  # on each screen
        self._ever: Counter[Place] = Counter()  # on any
        self._offered: dict[bytes, tuple[Place, ...]] = {}
        self._leads: dict[tuple[bytes, Place], bytes] = {}  # the screen that came last time
        self._before: tuple[bytes, Place] | None = None
        self._look = np.zeros(_GRID, np.uint8)

    def act(self, environment: Environment, info: dict[str, Any]) -> Controls:
        if not self._plan:
            self._frame = environment.render()
            self._look = coarse(self._frame, (int(info["pointer"][0]), int(info["pointer"][1])), self._look)
        return super().act(environment, info)

    def _choose(self, targets: list[Target]) -> Target | None:
        targets = targets or _cells(self._frame)
        targets = [target for target in targets if self.config.weights.get(target.kind, 1.0) > 0]
        places = [_place(target) for target in targets]
        screen = self._look.tobytes() + repr(sorted({place[0] for place in places})).encode()
        if self._before is not None:
            self._leads[self._before] = screen
        self._offered[screen] = tuple(dict.fromkeys(places))
        if not targets:
            return None
        chosen = self._least_seen(screen, places)
        self._tried[screen][places[chosen]] += 1
        self._ever[places[chosen]] += 1
        self._before = (screen, places[chosen])
        return targets[chosen]

    def _least_seen(self, screen: bytes, places: list[Place]) -> int:
        """Number of the place to take; by chance among equals."""
        if self._rng.random() < self.explorer.random:
            return int(self._rng.integers(len(places)))
        worth = {place: self._worth(screen, place, self.explorer.depth) for place in dict.fromkeys(places)}
        most = max(worth.values())
        best = [number for number, place in enumerate(places) if worth[place] >= most - 1e-9]
        return best[int(self._rng.integers(len(best)))]

    def _worth(self, screen: bytes, place: Place, depth: int) -> float:
        """How new taking `place` is, or what follows it: 1 for what was never taken anywhere."""
        here = 1 / (1 + self._tried[screen][place]) / (1 + self._ever[place]) ** 0.5
        there = self._leads.get((screen, place))
        if there is None or there == screen or depth == 1:
            return here
        return max([here, *(_FADES * self._worth(there, further, depth - 1) for further in self._offered[there])])


def coarse(frame: np.ndarray, pointer: tuple[int, int], before: np.ndarray) -> np.ndarray:
    """(rows, columns) uint8 brightness of `frame` (H, W, 3); where the cursor is, what was seen `before` stays."""
    rows, columns = _GRID
    height, width = frame.shape[0] // rows * rows, frame.shape[1] // columns * columns
    cells = frame[:height, :width].reshape(rows, height // rows, columns, width // columns, 3)
    look = (cells.mean((1, 3, 4)) * (_LEVELS / 256)).astype(np.uint8)
    y, x = pointer[1] * rows // frame.shape[0], pointer[0] * columns // frame.shape[1]
    near = (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
    look[near] = before[near]
    return look


def _place(target: Target) -> Place:
    return (target.kind, target.name or ",".join(map(str, target.rect)))


def _cells(frame: np.ndarray) -> list[Target]:
    """On a screen that names no targets: the cells of a grid in which there is something to see, and the keyboard."""
    rows, columns = _GRID
    h, w = frame.shape[0] // rows, frame.shape[1] // columns
    found = [Target("type", Rect(0, 0, frame.shape[1], frame.shape[0]), "keyboard")]
    for row in range(rows):
        for column in range(columns):
            cell = frame[row * h : (row + 1) * h, column * w : (column + 1) * w].astype(np.int16)
            if np.ptp(cell, axis=(0, 1)).max() > 60:  # text and edges have more contrast, wallpaper has less
                found.append(Target("click", Rect(column * w, row * h, w, h), f"cell {row} {column}"))
    return found if len(found) > 1 else [*found, Target("click", found[0].rect, "screen")]
