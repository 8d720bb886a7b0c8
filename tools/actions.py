"""The action file: where a session began and what was done, one JSON line a frame. Live play and batch share it."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_pipeline.controls import Controls, Event
from wm.config import ConfigError, config, from_dict, to_dict

T = TypeVar("T")

MAX_SEED = (1 << 31) - 1
MAX_NUM_STEPS = 128
MAX_EVENTS = 256  # of one frame
MAX_NOTCHES = 100.0


@config
class Beginning:
    """What a session begins from. The same beginning and the same controls give the same frames."""

    seed: int = 0  # of the model's noise, and of the real environment where that is where it starts
    start: int | None = None  # number of a start in the artifact; null is the real environment, reset with the seed
    model: Literal["student", "teacher"] = "student"
    num_steps: int | None = None  # null is the model's own

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}: from 0 to {MAX_SEED}")
        if self.start is not None and not 0 <= self.start < 1 << 16:
            raise ValueError(f"start is {self.start}: null or the number of a start, from 0")
        if self.num_steps is not None and not 1 <= self.num_steps <= MAX_NUM_STEPS:
            raise ValueError(f"num_steps is {self.num_steps}: from 1 to {MAX_NUM_STEPS}")


@config
class Header:
    """The first line of an action file."""

    begin: Beginning
    skip: int = 0  # frames at the beginning that are computed but not part of the clip
    world: str = ""  # name of the world it was played in, for people
    format_version: Literal[1] = 1


@config
class Row:
    """One frame: where the pointer ends, and ["press", target], ["release", target], ["wheel", dx, dy] in order."""

    pointer: tuple[int, int]
    events: tuple[tuple[str | float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.events) > MAX_EVENTS:
            raise ValueError(f"{len(self.events)} events in one frame: at most {MAX_EVENTS}")
        for event in self.events:
            _event(event)

    def controls(self) -> Controls:
        return Controls(pointer=self.pointer, events=tuple(_event(event) for event in self.events))

    @classmethod
    def of(cls, controls: Controls) -> "Row":
        return cls(pointer=controls.pointer, events=tuple(_words(event) for event in controls.events))


def _event(words: tuple[str | float, ...]) -> Event:
    match words:
        case ("press" | "release" as kind, str() as target) if 0 < len(target) <= 32:
            return Event(kind, target)
        case ("wheel", int() | float() as dx, int() | float() as dy) if _notches(dx) and _notches(dy):
            return Event("wheel", dx=float(dx), dy=float(dy))
    text = json.dumps(words)[:80]
    raise ValueError(f'event {text} is none of ["press", target], ["release", target], ["wheel", dx, dy]')


def _notches(turn: float) -> bool:
    return math.isfinite(turn) and abs(turn) <= MAX_NOTCHES


def _words(event: Event) -> tuple[str | float, ...]:
    return ("wheel", event.dx, event.dy) if event.kind == "wheel" else (event.kind, event.target)


def write(path: Path, header: Header, controls: Iterable[Controls]) -> None:
    """An action file at `path`, under another name until it is whole."""
    unfinished = path.with_name(path.name + ".partial")
    with unfinished.open("w") as file:
        file.write(json.dumps(to_dict(header)) + "\n")
        for one in controls:
            file.write(json.dumps(to_dict(Row.of(one))) + "\n")
    unfinished.rename(path)


def read(path: Path) -> tuple[Header, list[Controls]]:
    """The header and one Controls a frame; ValueError that names the line otherwise."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"no action file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as an action file: {error}") from None
    numbered = list(_trees(path, lines))
    if not numbered:
        raise ValueError(f'{path} is empty: its first line is a header such as {{"begin": {{"seed": 0}}}}')
    header = _line(Header, path, *numbered[0])
    return header, [_line(Row, path, number, tree).controls() for number, tree in numbered[1:]]


def _trees(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(tree, dict):
            raise ValueError(f"{path} line {number} is not a JSON object")
        yield number, tree


def _line(cls: type[T], path: Path, number: int, tree: dict[str, Any]) -> T:
    try:
        return from_dict(cls, tree)
    except ConfigError as error:
        raise ValueError(f"{path} line {number}: {error}") from None
