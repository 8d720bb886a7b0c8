"""What a person's hand did since the last frame, folded into one Controls a frame.

Moves keep only the last place; presses and releases are never lost and never change their order. A click belongs to the
pixel where it happened: a move after a press begins the next frame's controls.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from data_pipeline.controls import Controls, Event
from wm.batch import ActionSpace

MAX_PARTS = 4  # frames that input may wait; a faster hand than that has its clicks moved to its last place
MAX_EVENTS = 256  # that wait for a frame; beyond it the hand is `full` and its owner must stop reading


@dataclass
class _Part:
    """One frame's worth: the pointer goes to its place, then the events happen there."""

    pointer: tuple[int, int]
    events: list[Event] = field(default_factory=list)
    at: float = math.nan  # the page's clock at the oldest input in it
    touched: bool = False  # whether there was any input
    anchored: bool = False  # a button or the wheel was used here, so the pointer may not go on within this frame

    def saw(self, at: float) -> None:
        self.touched = True
        if not self.at <= at:  # also where there is none yet: no number is at most NaN
            self.at = at


class Hand:
    """The input of one session. Every method raises ValueError for input that this world does not have."""

    def __init__(self, space: ActionSpace, width: int, height: int) -> None:
        self.space, self.width, self.height = space, width, height
        self.held: set[str] = set()
        self._parts: deque[_Part] = deque()
        self.begin((width // 2, height // 2))

    def begin(self, pointer: tuple[int, int]) -> None:
        """Nothing held, nothing waiting, the pointer at its place in the frame that a session begins from."""
        self.held.clear()
        self._parts = deque([_Part(pointer)])

    @property
    def moved(self) -> bool:
        """Whether any input waits."""
        return self._parts[-1].touched

    @property
    def full(self) -> bool:
        return sum(len(part.events) for part in self._parts) >= MAX_EVENTS

    def move(self, x: int, y: int, at: float) -> None:
        """The pointer is at pixel (x, y)."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise ValueError(f"pointer ({x}, {y}) is outside the {self.width}x{self.height} frame")
        last = self._parts[-1]
        if last.pointer != (x, y) and last.anchored and len(self._parts) < MAX_PARTS:
            last = _Part((x, y))
            self._parts.append(last)
        last.pointer = (x, y)
        last.saw(at)

    def edge(self, kind: str, target: str, at: float) -> None:
        """A press or release; one that changes nothing (a key that repeats, a release without press) is no event."""
        if target not in self.space.buttons and target not in self.space.keys:
            names = ", ".join((*self.space.buttons, *self.space.keys)) or "none"
            raise ValueError(f"this world has no button or key {target!r}; it has {names}")
        down = kind == "press"
        if (target in self.held) == down:
            return
        (self.held.add if down else self.held.discard)(target)
        last = self._parts[-1]
        last.events.append(Event("press" if down else "release", target))
        last.anchored |= target in self.space.buttons
        last.saw(at)

    def wheel(self, dx: float, dy: float, at: float) -> None:
        """The wheel turns by notches to the right and down; turns in a row become one."""
        if not self.space.wheel:
            raise ValueError("this world has no wheel")
        last = self._parts[-1]
        if last.events and last.events[-1].kind == "wheel":
            before = last.events.pop()
            dx, dy = before.dx + dx, before.dy + dy
        last.events.append(Event("wheel", dx=dx, dy=dy))
        last.anchored = True
        last.saw(at)

    def release_all(self, at: float = math.nan) -> None:
        """Let go of everything that is held, in a fixed order."""
        for target in sorted(self.held):
            self.edge("release", target, at)

    def take(self) -> tuple[Controls, float]:
        """The controls of the next frame, and the page's clock at their oldest input (NaN for none)."""
        part = self._parts.popleft()
        if not self._parts:
            self._parts.append(_Part(part.pointer))
        return Controls(pointer=part.pointer, events=tuple(part.events)), part.at
