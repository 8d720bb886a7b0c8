"""Counter-Strike recordings (Pearce & Zhu 2021, 2104.04258), which DIAMOND trains on: HDF5 files of about 1000 frames.

`frame_i_x` is a picture in blue, green, red; `frame_i_y` is what was done on seeing it, so it is the row of frame i + 1:
eleven keys, two buttons, and the mouse as one of 23 movements across and one of 15 up and down. The movements are spread
unevenly, finer near zero; their numbers, evenly from -1 to 1, are the two axes, and the manifest says what they were.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.importing.hdf5 import array, open_hdf5
from data_pipeline.importing.recording import (
    BadEpisode,
    Episode,
    Recording,
    Rows,
    Source,
    after_the_first,
    edges_of_held,
    even_times,
    idle_rows,
)
from wm.batch import ActionSpace

FPS = 16.0
MOUSE_X = (1000, 500, 300, 200, 100, 60, 30, 20, 10, 4, 2)  # in mouse counts, to either side of zero
MOUSE_Y = (200, 100, 50, 20, 10, 4, 2)
SPACE = ActionSpace(
    pointer="none",
    buttons=("left", "right"),
    keys=("KeyW", "KeyA", "KeyS", "KeyD", "Space", "ControlLeft", "ShiftLeft", "Digit1", "Digit2", "Digit3", "KeyR"),
    axes=("mouse.x", "mouse.y"),
    fps=FPS,
)
_KEYS, _BUTTONS = len(SPACE.keys), len(SPACE.buttons)
_X, _Y = 2 * len(MOUSE_X) + 1, 2 * len(MOUSE_Y) + 1
_SIZE = _KEYS + _BUTTONS + _X + _Y


def open_csgo(folder: Path) -> Source:
    """All `*.hdf5` files under `folder`, in the order of their numbers."""
    paths = sorted(folder.rglob("*.hdf5"), key=lambda path: (path.parent, _number(path), path.name))
    movements = {"mouse_x": _movements(MOUSE_X), "mouse_y": _movements(MOUSE_Y)}
    episodes = [_episode(str(path.relative_to(folder).with_suffix("")), path) for path in paths]
    return Source(SPACE, episodes, {"name": folder.name, **movements})


def _movements(to_one_side: tuple[int, ...]) -> list[int]:
    """What the mouse can do in the order of its numbers."""
    return [*(-x for x in to_one_side), 0, *reversed(to_one_side)]


def _number(path: Path) -> int:
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _episode(name: str, path: Path) -> Episode:
    return Episode(name, lambda: _open(path))


def _open(path: Path) -> Recording:
    with open_hdf5(path) as file:
        numbers = sorted(
            int(name[6:-2]) for name in file if name[:6] == "frame_" and name[-2:] == "_x" and name[6:-2].isdecimal()
        )
        if not numbers or numbers != list(range(len(numbers))):
            raise BadEpisode(f"has the frames {numbers[:1]} to {numbers[-1:]}, but not all of them in between")
        actions = np.stack([_action(file, i) for i in numbers])
    return Recording(FPS, even_times(len(numbers), FPS), lambda: _frames(path, len(numbers)), _rows(actions))


def _action(file: object, i: int) -> np.ndarray:
    vector = array(file, f"frame_{i}_y")
    mouse = vector[_KEYS + _BUTTONS :]
    is_one = vector.shape == (_SIZE,) and np.isin(vector, (0, 1)).all() and mouse[:_X].sum() == mouse[_X:].sum() == 1
    if not is_one:
        raise BadEpisode(
            f"frame_{i}_y, {vector.shape}, is not {_SIZE} zeros and ones with one movement across and one down"
        )
    return vector


def _rows(actions: np.ndarray) -> Rows:
    """Rows from what was done on seeing each frame (T, 51)."""
    keys, buttons, x, y = np.split(actions, np.cumsum([_KEYS, _BUTTONS, _X]), axis=1)
    rows = idle_rows(SPACE, len(actions))
    rows["keys"], rows["buttons"] = edges_of_held(keys > 0), edges_of_held(buttons > 0)
    places = np.stack([x.argmax(1) / (_X // 2) - 1, y.argmax(1) / (_Y // 2) - 1], axis=1)
    rows["axes"] = places.astype(np.float32)
    return after_the_first(rows, SPACE)


def _frames(path: Path, count: int) -> Iterator[np.ndarray]:
    with open_hdf5(path) as file:
        for i in range(count):
            picture = array(file, f"frame_{i}_x")
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise BadEpisode(f"frame_{i}_x is {picture.dtype} {picture.shape}, need uint8 (height, width, 3)")
            yield np.ascontiguousarray(picture[..., ::-1])
