"""A person at a desk: aims at what is on the screen, moves there on a curve, clicks, drags, types, rests."""

from collections import deque
from collections.abc import Iterator
from dataclasses import field
from typing import Any, Literal

import numpy as np

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.environment import Environment, Rect, Target
from wm.config import config

# How often a kind of target is taken where there is one. Far from equal, because the kinds are not equally often there:
# a window can be closed only after it was opened.
WEIGHTS = {
    "open": 2.0,
    "close": 0.9,
    "minimise": 0.7,
    "restore": 2.0,
    "raise": 1.0,
    "drag": 0.8,
    "type": 2.0,
    "click": 1.2,
}


@config
class HumanPolicyConfig:
    """The defaults are dense in events: a click every few frames, little rest, so that little data shows much."""

    kind: Literal["human"] = "human"
    pace: float = 1.0  # frames taken for a movement, relative to the default; larger is slower
    move_frames: tuple[int, int] = (2, 4)  # from one target to the next, least and most
    drag_frames: tuple[int, int] = (4, 8)
    rest: float = 0.12  # probability that an activity is doing nothing
    rest_frames: tuple[int, int] = (2, 5)
    wander: float = 0.04  # probability that an activity is a movement to anywhere, without a click
    burst: tuple[int, int] = (3, 6)  # keys typed in a row
    erase: float = 0.22  # probability that a burst deletes
    overshoot: float = 0.25  # probability that a movement goes too far and comes back
    same_frame: float = 0.15  # probability that press and release fall between the same two frames
    glide: float = 0.5  # probability that the button comes up on the way to the next thing
    double: float = 0.06  # probability that a click is a double click
    weights: dict[str, float] = field(
        default_factory=lambda: dict(WEIGHTS)
    )  # 0 is never; a kind that is not named has 1

    def __post_init__(self) -> None:
        for name in ("move_frames", "drag_frames", "rest_frames", "burst"):
            least, most = getattr(self, name)
            if not 1 <= least <= most:
                raise ValueError(f"{name} is ({least}, {most}): give the least and the most, both at least 1")
        if self.pace <= 0:
            raise ValueError(f"pace is {self.pace}: it multiplies the length of movements, so give more than 0")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError(f"weights are {self.weights}: give 0 for never, more for more often")

    def build(self) -> "HumanPolicy":
        return HumanPolicy(self)


class HumanPolicy:
    """Plans one activity at a time from what is on the screen, then plays it frame by frame."""

    name = "human"

    def __init__(self, config: HumanPolicyConfig) -> None:
        self.config = config
        self.seed = 0

    def reset(self, environment: Environment, seed: int) -> None:
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._plan: deque[Controls] = deque()
        self._owed: tuple[Event, ...] = ()  # releases that come with the next activity
        self._height, self._width = environment.render().shape[:2]

    def act(self, environment: Environment, info: dict[str, Any]) -> Controls:
        if not self._plan:
            self._at = (int(info["pointer"][0]), int(info["pointer"][1]))
            owed, self._owed = self._owed, ()
            first, *rest = self._activity(environment)
            self._plan.extend([Controls(first.pointer, owed + first.events), *rest])
        return self._plan.popleft()

    def _activity(self, environment: Environment) -> Iterator[Controls]:
        config, space = self.config, environment.action_space
        fate = self._rng.random()
        if fate < config.rest:
            yield from [Controls(self._at)] * self._count(config.rest_frames)
            return
        targets = environment.targets()
        target = self._choose(targets) if fate > config.rest + config.wander else None
        if target is None or "left" not in space.buttons:
            yield from (Controls(at) for at in self._path(self._point(self._screen()), config.move_frames))
        elif target.kind in ("drag", "resize"):
            yield from self._drag(target, self._screen())
        elif target.kind == "draw":
            yield from self._drag(target, target.rect)
        elif target.kind == "wheel":
            yield from self._scroll(target)
        elif target.kind == "type":
            yield from self._type(target, space.keys)
        else:
            yield from self._click(target, glide=bool(targets) and self._rng.random() < config.glide)

    def _choose(self, targets: list[Target]) -> Target | None:
        """First the kind by its weight, then one of that kind, so that many small things do not crowd out one.

        On a screen that names no targets anything may be anywhere.
        """
        targets = targets or [Target(kind, self._screen()) for kind in ("click", "drag", "type")]
        kinds = sorted({target.kind for target in targets})
        parts = np.array([self.config.weights.get(kind, 1.0) for kind in kinds])
        if not parts.any():
            return None
        kind = kinds[int(self._rng.choice(len(kinds), p=parts / parts.sum()))]
        of_kind = [target for target in targets if target.kind == kind]
        return of_kind[int(self._rng.integers(len(of_kind)))]

    def _click(self, target: Target, glide: bool) -> Iterator[Controls]:
        """A glide is for targets that are known to act on the press; an unknown screen might take it for a drag."""
        press, release = Event("press", "left"), Event("release", "left")
        *way, end = self._path(self._point(target.rect), self.config.move_frames)
        yield from (Controls(at) for at in way)
        together = self._rng.random() < self.config.same_frame
        once = [Controls(end, (press, release))] if together else [Controls(end, (press,)), Controls(end, (release,))]
        clicks = once * (2 if self._rng.random() < self.config.double else 1)
        if glide and not together:
            self._owed = clicks.pop().events
        yield from clicks

    def _drag(self, target: Target, to: Rect) -> Iterator[Controls]:
        *way, start = self._path(self._point(target.rect), self.config.move_frames)
        yield from (Controls(at) for at in way)
        yield Controls(start, (Event("press", "left"),))
        *way, end = self._path(self._point(to), self.config.drag_frames)
        yield from (Controls(at) for at in way)
        yield Controls(end, (Event("release", "left"),))

    def _scroll(self, target: Target) -> Iterator[Controls]:
        """The wheel turns a few notches in one direction, one a frame."""
        yield from (Controls(at) for at in self._path(self._point(target.rect), self.config.move_frames))
        notch = 1.0 if self._rng.random() < 0.6 else -1.0
        yield from [Controls(self._at, (Event("wheel", dy=notch),))] * self._count(self.config.burst)

    def _type(self, target: Target, keys: tuple[str, ...]) -> Iterator[Controls]:
        """Sometimes the pointer goes into the page first; a key is released when the next goes down."""
        if self._rng.random() < 0.3:
            yield from (Controls(at) for at in self._path(self._point(target.rect), self.config.move_frames))
        held: tuple[Event, ...] = ()
        for key in self._keys(keys):
            press, release = Event("press", key), Event("release", key)
            if self._rng.random() < self.config.same_frame:
                yield Controls(self._at, (*held, press, release))
                held = ()
            else:
                yield Controls(self._at, (*held, press))
                held = (release,)
        yield Controls(self._at, held)

    def _keys(self, keys: tuple[str, ...]) -> list[str]:
        """A burst: letters with an Enter now and then, or a run of Backspace."""
        letters = [key for key in keys if key not in ("Enter", "Backspace")]
        burst = self._count(self.config.burst)
        if "Backspace" in keys and (not letters or self._rng.random() < self.config.erase):
            return ["Backspace"] * burst
        writing = letters + (["Enter"] if "Enter" in keys else [])
        return [writing[int(self._rng.integers(len(writing)))] for _ in range(burst if writing else 0)]

    def _path(self, end: tuple[int, int], frames: tuple[int, int]) -> list[tuple[int, int]]:
        """Where the pointer is in each frame of a movement to `end`; from here on it is there."""
        count = max(1, round(self._count(frames) * self.config.pace))
        places = self._curve(self._at, end, count)
        if count > 2 and self._rng.random() < self.config.overshoot:
            beyond = np.array(end) + (np.array(end) - self._at) * self._rng.uniform(0.08, 0.2)
            places = [*self._curve(self._at, self._inside(beyond), count - 1), end]
        self._at = end
        return places

    def _curve(self, start: tuple[int, int], end: tuple[int, int], count: int) -> list[tuple[int, int]]:
        """A quadratic Bezier curve run with the minimum-jerk profile of Flash & Hogan 1985."""
        a, b = np.array(start, dtype=np.float64), np.array(end, dtype=np.float64)
        aside = np.array([a[1] - b[1], b[0] - a[0]]) * self._rng.uniform(-0.25, 0.25)
        middle = (a + b) / 2 + aside
        places = []
        for time in np.arange(1, count + 1) / count:
            s = time**3 * (10 - 15 * time + 6 * time**2)
            places.append(self._inside((1 - s) ** 2 * a + 2 * s * (1 - s) * middle + s**2 * b))
        return places

    def _point(self, rect: Rect) -> tuple[int, int]:
        return rect.x + int(self._rng.integers(rect.w)), rect.y + int(self._rng.integers(rect.h))

    def _screen(self) -> Rect:
        return Rect(0, 0, self._width, self._height)

    def _inside(self, place: np.ndarray) -> tuple[int, int]:
        x, y = np.rint(place)
        return int(min(max(x, 0), self._width - 1)), int(min(max(y, 0), self._height - 1))

    def _count(self, least_most: tuple[int, int]) -> int:
        return int(self._rng.integers(least_most[0], least_most[1] + 1))
