"""NeuralOS's raw recordings (2507.08800): `videos/record_N.mp4` and `actions/record_N.csv`, one row a frame.

Their recorder acts, waits until the frame is due and grabs it, so row i is what led to frame i: as ours. A click in a
row is a whole one, pressed and released before the frame. Key events are Python literals, `[('keydown', 'a')]`, and are
parsed as such: a csv is somebody else's file, and nothing in it is evaluated.
"""

import ast
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.importing.films import open_film
from data_pipeline.importing.key_names import CODES, PYAUTOGUI, PYAUTOGUI_SILENT, SHIFTED
from data_pipeline.importing.recording import BadEpisode, Episode, Recording, Rows, Source, idle_rows
from wm.batch import HELD, PRESSED, RELEASED, ActionSpace

SPACE = ActionSpace(buttons=("left", "right"), keys=CODES, fps=15.0)
_CLICKS = {"Left Click": "left", "Right Click": "right"}
_COLUMNS = ("X", "Y", *_CLICKS, "Key Events")
_LONGEST = 10_000  # characters of a row's key events: a literal that is longer was not recorded
_KEY = {code: i for i, code in enumerate(CODES)}


def open_neuralos(folder: Path) -> Source:
    """The recordings under `folder`; one whose video or csv is missing is an episode that does not open."""
    stems = {path.stem for path in (*folder.glob("videos/*.mp4"), *folder.glob("actions/*.csv"))}
    episodes = [_episode(folder, stem) for stem in sorted(stems, key=_number)]
    return Source(SPACE, episodes, {"name": folder.name})


def _episode(folder: Path, stem: str) -> Episode:
    return Episode(stem, lambda: _open(folder / "videos" / f"{stem}.mp4", folder / "actions" / f"{stem}.csv"))


def _number(stem: str) -> tuple[int, str]:
    digits = stem.rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else 0, stem)


def _open(video: Path, actions: Path) -> Recording:
    for path in (video, actions):
        if not path.exists():
            raise BadEpisode(f"{path.parent.name}/{path.name} is missing")
    film = open_film(video)
    lines = _lines(actions)
    if len(lines) != len(film):
        raise BadEpisode(f"{len(film)} frames but {len(lines)} rows in {actions.name}")
    rows = _rows(lines, film.height, film.width)
    return Recording(film.fps, film.times, film.frames, rows)


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = set(_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise BadEpisode(f"{path.name} has no column {', '.join(sorted(missing))}")
            return list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadEpisode(f"{path.name} is not a csv file: {error}") from None


def _rows(lines: list[dict[str, str]], height: int, width: int) -> Rows:
    rows = idle_rows(SPACE, len(lines))
    held: set[str] = set()
    for i, line in enumerate(lines):
        try:
            rows["pointer"][i] = _pointer(line, height, width)
            for button, column in enumerate(_CLICKS):
                rows["buttons"][i, button, [PRESSED, RELEASED]] = _is_true(line[column])
            _fold(rows["keys"][i], held, _key_events(line["Key Events"]))
        except ValueError as error:
            raise BadEpisode(f"row {i}: {error}") from None
    return rows


def _pointer(line: Mapping[str, str], height: int, width: int) -> tuple[float, float]:
    x, y = float(line["X"]), float(line["Y"])
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"the pointer ({x:g}, {y:g}) is outside the {width}x{height} screen")
    return (int(x) + 0.5) / width, (int(y) + 0.5) / height


def _is_true(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(f"a click is {text!r}, need True or False")
    return text == "True"


def _key_events(text: Any) -> list[tuple[str, str]]:
    """The (kind, key) pairs of a literal; ValueError for anything that is none."""
    try:
        events = ast.literal_eval(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        events = None
    if not isinstance(events, list | tuple | set) or not all(_is_event(event) for event in events):
        raise ValueError(f"key events {str(text)[:60]!r} are not a list of ('keydown' or 'keyup', key)")
    return list(events)


def _is_event(event: object) -> bool:
    if not isinstance(event, tuple | list) or len(event) != 2 or event[0] not in ("keydown", "keyup"):
        return False
    return event[1] in PYAUTOGUI or event[1] in PYAUTOGUI_SILENT


def _fold(row: np.ndarray, held: set[str], events: list[tuple[str, str]]) -> None:
    """Count one row's events in `row` (n, 3) and follow what is `held`."""
    for kind, key in events:
        if key in PYAUTOGUI_SILENT:
            continue
        code, down = PYAUTOGUI[key], kind == "keydown"
        if key in SHIFTED and "ShiftLeft" not in held:  # pyautogui taps shift around such a key
            row[_KEY["ShiftLeft"], [PRESSED, RELEASED]] += 1
        if (code in held) == down:  # a key that repeats, or one that was down before the recording began
            continue
        row[_KEY[code], PRESSED if down else RELEASED] += 1
        held ^= {code}
    row[:, HELD] = [code in held for code in CODES]
