"""What a hand does between two frames, and the rows that a recording keeps of it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from wm.batch import HELD, PRESSED, RELEASED, ActionSpace

_FIELDS: dict[str, set[str]] = {"press": {"target"}, "release": {"target"}, "wheel": set()}  # what a kind needs


@dataclass(frozen=True)
class Event:
    """One press or release of a button or key, or one turn of the wheel by (dx, dy) notches to the right and down."""

    kind: Literal["press", "release", "wheel"]
    target: str = ""  # a button ("left") or a physical key code ("KeyA"); empty for the wheel
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Controls:
    """One frame interval: the pointer goes to its place first, then the events happen there, in order."""

    pointer: tuple[int, int]  # pixel x, y at the end of the interval
    events: tuple[Event, ...] = ()
    axes: tuple[float, ...] = ()  # where each axis is, in [-1, 1]; empty is all of them at rest, at 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` of it is equal to this."""
        axes = {"axes": list(self.axes)} if self.axes else {}
        return {"pointer": list(self.pointer), "events": [dataclasses.asdict(event) for event in self.events], **axes}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Controls":
        """What `{"pointer": [x, y], "events": [{"kind": "press", "target": "left"}]}` says; ValueError otherwise."""
        pointer, events, axes = tree.get("pointer"), tree.get("events", []), tree.get("axes", [])
        lists = isinstance(events, list | tuple) and isinstance(axes, list | tuple)
        if (
            set(tree) - {"pointer", "events", "axes"}
            or not _is_pair(pointer)
            or not lists
            or not all(map(_is_number, axes))
        ):
            raise ValueError(
                f"controls {dict(tree)!r} need 'pointer' [x, y] and may have 'events' [...] and 'axes' [numbers], nothing else"
            )
        x, y = cast("Sequence[int]", pointer)
        events = tuple(_event(event) for event in events)
        return cls(pointer=(int(x), int(y)), events=events, axes=tuple(map(float, axes)))


def _is_pair(value: object) -> bool:
    """Whether `value` is two finite numbers."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(part) for part in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _event(tree: Mapping[str, Any]) -> Event:
    if not isinstance(tree, Mapping) or tree.get("kind") not in _FIELDS:
        raise ValueError(f"event {tree!r} needs a 'kind', one of {', '.join(_FIELDS)}")
    needed = _FIELDS[tree["kind"]]
    numbers = all(_is_number(tree.get(name, 0.0)) for name in ("dx", "dy"))
    if not set(tree) <= {"kind", "target", "dx", "dy"} or not numbers or not needed <= set(tree):
        raise ValueError(
            f"event {dict(tree)!r} needs {sorted(needed)} and may have 'target' (text), 'dx', 'dy' (numbers)"
        )
    return Event(tree["kind"], str(tree.get("target", "")), float(tree.get("dx", 0.0)), float(tree.get("dy", 0.0)))


class ControlsLog:
    """Folds the Controls of successive frames into rows; remembers what is held from one to the next."""

    def __init__(self, space: ActionSpace, width: int, height: int) -> None:
        if space.pointer == "relative":
            raise ValueError(
                "Controls say where the pointer is: an ActionSpace with a relative pointer has no row for it"
            )
        self.space = space
        self.size = np.array([width, height], dtype=np.float32)
        self.held: dict[str, bool] = dict.fromkeys((*space.buttons, *space.keys), False)

    def row(self, controls: Controls) -> dict[str, np.ndarray]:
        """pointer (2,), buttons (num_buttons, 3), keys (num_keys, 3), wheel (2,), axes (num_axes,), all float32.

        ValueError for a button or key that is not in the space, a press of what is held, a release of what is not:
        then held would no longer be the sum of presses minus releases.
        """
        counts = {name: [0, 0] for name in self.held}
        wheel = np.zeros(2, dtype=np.float32)
        for event in controls.events:
            if event.kind == "wheel":
                wheel += np.array([event.dx, event.dy], dtype=np.float32)
            else:
                self._turn(event)
                counts[event.target][event.kind == "release"] += 1
        return {
            "pointer": self._pointer(controls.pointer),
            "buttons": self._rows(self.space.buttons, counts),
            "keys": self._rows(self.space.keys, counts),
            "wheel": wheel,
            "axes": self._axes(controls.axes),
        }

    def _turn(self, event: Event) -> None:
        if event.target not in self.held:
            raise ValueError(
                f"{event.kind} of {event.target!r}, which is not in the action space; it has {list(self.held)}"
            )
        down = event.kind == "press"
        if self.held[event.target] == down:
            raise ValueError(f"{event.kind} of {event.target!r}, which is {'already' if down else 'not'} held")
        self.held[event.target] = down

    def _pointer(self, pixel: tuple[int, int]) -> np.ndarray:
        if self.space.pointer == "none":
            return np.full(2, 0.5, dtype=np.float32)
        if not (0 <= pixel[0] < self.size[0] and 0 <= pixel[1] < self.size[1]):
            width, height = (int(n) for n in self.size)
            raise ValueError(f"pointer {pixel} is outside the {width}x{height} screen")
        return ((np.array(pixel, dtype=np.float32) + 0.5) / self.size).astype(np.float32)

    def _axes(self, values: tuple[float, ...]) -> np.ndarray:
        if values and (len(values) != len(self.space.axes) or max(map(abs, values)) > 1):
            raise ValueError(f"axes {values}: the action space has {list(self.space.axes)}, each in [-1, 1]")
        return np.array(values or [0.0] * len(self.space.axes), dtype=np.float32)

    def _rows(self, names: tuple[str, ...], counts: Mapping[str, list[int]]) -> np.ndarray:
        rows = np.zeros((len(names), 3), dtype=np.float32)
        for i, name in enumerate(names):
            rows[i, HELD] = self.held[name]
            rows[i, PRESSED], rows[i, RELEASED] = counts[name]
        return rows
