"""Typed text made unreadable while a person wishes it: every letter becomes the same one before the world sees it.

So neither the rows nor the frames of a recording hold what was typed, and still each frame shows what its row did. How many
keys were pressed, and when, stays; which ones does not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from data_pipeline.controls import Event
from wm.batch import ActionSpace

_SIGNS: tuple[str, ...] = (
    "Space",
    "Minus",
    "Equal",
    "Comma",
    "Period",
    "Slash",
    "Semicolon",
    "Quote",
    "Backquote",
    "Backslash",
)
_SIGNS += ("BracketLeft", "BracketRight", "IntlBackslash", "IntlRo", "IntlYen")
_SHIFTS = ("ShiftLeft", "ShiftRight", "AltRight")  # they choose between signs, so they would tell of them


def writes(key: str) -> bool:
    """Whether the physical key `key` writes something."""
    return (key.startswith(("Key", "Digit", "Numpad")) and key != "NumpadEnter") or key in _SIGNS


@dataclass
class Redaction:
    """What one session's keys become. A switch that turns in the middle of a press changes nothing about that press."""

    space: ActionSpace
    on: bool = False
    behind: str = ""  # the key for which the stand-in is down
    dropped: set[str] = field(default_factory=set)  # keys that are down without the world's knowing

    @property
    def stand_in(self) -> str:
        """The key that all others become; empty where the world has none that writes."""
        return "KeyX" if "KeyX" in self.space.keys else next(filter(writes, self.space.keys), "")

    def event(self, event: Event, held: Iterable[str]) -> list[Event]:
        """What reaches a world in which `held` is down when a hand does `event`."""
        if event.kind == "press" and self.on and (writes(event.target) or event.target in _SHIFTS):
            return self._hide(event.target, set(held)) if event.target in self.space.keys else [event]
        if event.kind == "release" and event.target in self.dropped:
            self.dropped.discard(event.target)
            return []
        if event.kind == "release" and event.target == self.behind:
            self.behind = ""
            return [Event("release", self.stand_in)]
        return [event]

    def events(self, events: Iterable[Event], held: Iterable[str]) -> tuple[Event, ...]:
        """The same for the events of one frame, in order."""
        down, out = set(held), list[Event]()
        for event in events:
            for one in self.event(event, down):
                (down.add if one.kind == "press" else down.discard)(one.target)
                out.append(one)
        return tuple(out)

    def release_all(self) -> None:
        """Nothing is down any more."""
        self.behind = ""
        self.dropped.clear()

    def _hide(self, key: str, held: set[str]) -> list[Event]:
        if key == self.behind or key in self.dropped:  # a key that repeats
            return []
        if key in _SHIFTS:
            self.dropped.add(key)
            return []
        before = [Event("release", self.stand_in)] if self.stand_in in held else []
        if before:
            self.dropped.add(self.behind or self.stand_in)
        self.behind = key
        self.dropped.discard(key)
        return [*before, Event("press", self.stand_in)]
