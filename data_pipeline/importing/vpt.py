"""Minecraft as OpenAI's contractors played it (VPT, 2206.11795): `name.mp4` at 20 frames a second and `name.jsonl`, a line a frame.

Line t is what was done on seeing frame t, so it is the row of frame t + 1. The mouse moves the view, so the pointer is
relative, in parts of the 1280x720 window that was recorded. Two faults of the recorder are put right as VPT's own loader
does it: a left button that is down from the first line on and was never pressed, and a turned wheel, of which only the
chosen slot is known: its key counts as tapped.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.importing.films import open_film
from data_pipeline.importing.recording import (
    BadEpisode,
    Episode,
    Recording,
    Rows,
    Source,
    after_the_first,
    edges_of_held,
    idle_rows,
)
from wm.batch import PRESSED, RELEASED, ActionSpace

WINDOW = (1280, 720)  # pixels that the mouse moved over
SLOTS = 9
# Minecraft's name of a key, after "key.keyboard.", and the code of it. Others are not used by the game.
_KEYS = {
    **{letter: f"Key{letter.upper()}" for letter in "wasdeqf"},
    **{str(digit): f"Digit{digit}" for digit in range(1, SLOTS + 1)},
    "space": "Space",
    "left.shift": "ShiftLeft",
    "left.control": "ControlLeft",
    "escape": "Escape",
}
_PREFIX = "key.keyboard."
_BUTTONS = (0, 1, 2)
SPACE = ActionSpace(
    pointer="relative", buttons=("left", "right", "middle"), keys=tuple(_KEYS.values()), wheel=True, fps=20.0
)


def open_vpt(folder: Path) -> Source:
    """The recordings in `folder`; one whose video or lines are missing is an episode that does not open."""
    stems = {path.stem for path in (*folder.glob("*.mp4"), *folder.glob("*.jsonl"))}
    return Source(SPACE, [_episode(folder, stem) for stem in sorted(stems)], {"name": folder.name})


def _episode(folder: Path, stem: str) -> Episode:
    return Episode(stem, lambda: _open(folder / f"{stem}.mp4", folder / f"{stem}.jsonl"))


def _open(video: Path, lines: Path) -> Recording:
    for path in (video, lines):
        if not path.exists():
            raise BadEpisode(f"{path.name} is missing")
    film, rows = open_film(video), _rows(_steps(lines))
    given = len(rows["pointer"])
    if abs(len(film) - given) > 1:  # the recorder may stop between a frame and its line
        raise BadEpisode(f"{len(film)} frames but {given} lines")
    count = min(len(film), given)
    return Recording(
        film.fps,
        film.times[:count],
        lambda: film.frames(0, count),
        {name: values[:count] for name, values in rows.items()},
    )


def _steps(path: Path) -> list[dict[str, Any]]:
    steps = []
    for i, line in enumerate(path.read_bytes().splitlines()):
        try:
            step = json.loads(line)
            mouse, slot = step["mouse"], step.get("hotbar", 0)
            down = [_KEYS.get(str(key).removeprefix(_PREFIX)) for key in step["keyboard"]["keys"]]
            moved = [float(mouse["dx"]) / WINDOW[0], float(mouse["dy"]) / WINDOW[1]]
            if not np.isfinite(moved).all() or not 0 <= int(slot) < SLOTS:
                raise ValueError(f"mouse {moved} or hotbar {slot} is out of range")
            steps.append(
                {
                    "keys": set(down) - {None},
                    "buttons": list(mouse["buttons"]),
                    "new": list(mouse.get("newButtons", ())),
                    "moved": moved,
                    "wheel": -float(mouse.get("dwheel", 0.0)),  # theirs counts upwards
                    "slot": int(slot),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadEpisode(f"line {i} is not as VPT writes it: {type(error).__name__} {error}") from None
    if not steps:
        raise BadEpisode(f"{path.name} has no lines")
    return steps


def _rows(steps: Sequence[dict[str, Any]]) -> Rows:
    rows = idle_rows(SPACE, len(steps))
    rows["pointer"][:] = [step["moved"] for step in steps]
    rows["wheel"][:, 1] = [step["wheel"] for step in steps]
    rows["keys"] = edges_of_held(np.array([[key in step["keys"] for key in SPACE.keys] for step in steps]))
    rows["buttons"] = edges_of_held(_buttons(steps))
    _tap_slots(rows["keys"], steps)
    return after_the_first(rows, SPACE)


def _buttons(steps: Sequence[dict[str, Any]]) -> np.ndarray:
    """(T, 3) bool, without a left button that hangs from the first line until it is really pressed."""
    held = np.array([[button in step["buttons"] for button in _BUTTONS] for step in steps])
    if steps[0]["new"] == [0]:
        pressed = [i for i, step in enumerate(steps) if i and 0 in step["new"]]
        held[: pressed[0] if pressed else len(steps), 0] = False
    return held


def _tap_slots(keys: np.ndarray, steps: Sequence[dict[str, Any]]) -> None:
    """Where another slot is chosen without its key, count the key as tapped."""
    for i in range(1, len(steps)):
        slot = steps[i]["slot"]
        column = SPACE.keys.index(f"Digit{slot + 1}")
        if slot != steps[i - 1]["slot"] and not keys[i - 1 : i + 1, column].any():
            keys[i, column, [PRESSED, RELEASED]] += 1
