"""A hand that repeats an action file, as play in the browser and `tools.rollout` write it: one JSON line a frame."""

import json
from pathlib import Path
from typing import Any, Literal

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.environment import Environment
from data_pipeline.schema import DataError
from wm.config import config


@config
class ReplayPolicyConfig:
    """After the last line the hand rests. The screens are those of the recording's seed, not those of the file's session."""

    kind: Literal["replay"] = "replay"
    file: str
    repeat: bool = False  # begin again after the last line

    def build(self) -> "ReplayPolicy":
        """DataError that names the line where the file is not one of actions."""
        return ReplayPolicy(self.kind, tuple(read(Path(self.file))), self.repeat)


class ReplayPolicy:
    """Does `steps`, one a frame; after the last one it rests, or begins again."""

    def __init__(self, name: str, steps: tuple[Controls, ...], repeat: bool) -> None:
        self.name, self.seed = name, 0
        self._steps, self._repeat = steps, repeat

    def reset(self, environment: Environment, seed: int) -> None:
        self.seed = seed
        self._next = 0

    def act(self, environment: Environment, info: dict[str, Any]) -> Controls:
        if self._repeat and self._next == len(self._steps):
            self._next = 0
        if self._next >= len(self._steps):
            return Controls((int(info["pointer"][0]), int(info["pointer"][1])))
        self._next += 1
        return self._steps[self._next - 1]


def read(path: Path) -> list[Controls]:
    """One Controls a frame; the header, the file's first line, is for whoever plays it in a model."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as an action file: {error}") from None
    found = []
    for number, line in enumerate(lines[1:], 2):
        try:
            found.append(_controls(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{path} line {number} is no frame of actions: {error}") from None
    if not found:
        raise DataError(f"{path} has no frames: an action file is a header and one line a frame")
    return found


def _controls(tree: dict[str, Any]) -> Controls:
    return Controls.from_dict({**tree, "events": [_event(words) for words in tree.get("events", ())]})


def _event(words: list[Any]) -> dict[str, Any]:
    kind, *rest = words
    if kind == "wheel":
        dx, dy = rest
        return {"kind": kind, "dx": dx, "dy": dy}
    (target,) = rest
    return {"kind": Event(kind, target).kind, "target": target}
