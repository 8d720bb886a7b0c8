"""What an environment is: Gymnasium's reset, step and render, and what measures and policies ask of a screen."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipeline.controls import Controls
from data_pipeline.schema import DataError
from wm.batch import ActionSpace


class EnvironmentDied(DataError):
    """What is recorded ended in the middle of an episode: discard the episode, reset, go on."""


class Rect(NamedTuple):
    """Pixels x .. x+w-1, y .. y+h-1."""

    x: int
    y: int
    w: int
    h: int

    def contains(self, x: int, y: int) -> bool:
        return self.x <= x < self.x + self.w and self.y <= y < self.y + self.h

    def intersects(self, other: "Rect") -> bool:
        across = self.x < other.x + other.w and other.x < self.x + self.w
        return across and self.y < other.y + other.h and other.y < self.y + self.h


@dataclass(frozen=True)
class CursorSprite:
    """One cursor shape; drawn so that the pixel `hotspot` of it lies on the pointer."""

    name: str
    hotspot: tuple[int, int]  # x, y
    rgba: np.ndarray  # (h, w, 4) uint8


@dataclass(frozen=True)
class Target:
    """Something on the screen that a hand can use; every pixel of `rect` is it and nothing else.

    `kind` is the transition that a press there causes: "open", "close", "minimise", "restore", "raise", "click";
    "drag" can be dragged, "type" has the keyboard's attention and takes text. An environment may know more kinds; of these
    "draw" and "resize" are dragged too, and over "wheel", which may lie over others, the wheel scrolls something.
    """

    kind: str
    rect: Rect
    name: str = ""  # what it is, the same wherever it is; empty where the environment does not say


class Environment(Protocol):
    """A screen that takes input. The same seed and the same Controls give the same frames where it is simulated.

    `info` holds "pointer" (x, y); "events", the kinds of the transitions that this step caused, as far as known;
    "state", a JSON-able mapping of the hidden truth, as far as known; "caption", after a reset, what the episode shows
    in words, where there are some; "time", the seconds since the first frame at which this one was taken, where frames come
    by a clock. An environment may have `transitions`, what each kind of event means by kind; it goes into the manifest and
    into the report of an evaluation.
    """

    name: str
    version: str
    action_space: ActionSpace

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first frame (H, W, 3) uint8 and info."""
        ...

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The frame after `action`, reward 0.0, terminated, truncated, info."""
        ...

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8, the caller's own."""
        ...

    def close(self) -> None: ...

    def cursors(self) -> list[CursorSprite]:
        """Every shape that the cursor can take, for finding it in frames."""
        ...

    def targets(self) -> list[Target]:
        """What is on the screen now; empty where the environment cannot know."""
        ...
