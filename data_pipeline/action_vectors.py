"""Action rows as one vector a frame and back, for formats that know an action as a list of named numbers."""

import numpy as np

from wm.batch import ActionSpace

OWN_SPACE = "wm.action_space"  # where an export says which ActionSpace its vectors are of, so that an import knows
_EDGES = ("held", "pressed", "released")


def vector_names(space: ActionSpace) -> list[str]:
    """What each number of a vector is: "pointer.x", "left.pressed", "KeyA.held", "wheel.y", "steer", ..."""
    switches = [f"{name}.{edge}" for name in (*space.buttons, *space.keys) for edge in _EDGES]
    return ["pointer.x", "pointer.y", *switches, "wheel.x", "wheel.y", *space.axes]


def to_vectors(rows: dict[str, np.ndarray]) -> np.ndarray:
    """(T, n) float32 from rows (T, ...), in the order of `vector_names`."""
    parts = [rows[name].reshape(len(rows[name]), -1) for name in ("pointer", "buttons", "keys", "wheel", "axes")]
    return np.concatenate(parts, axis=1).astype(np.float32)


def from_vectors(vectors: np.ndarray, space: ActionSpace) -> dict[str, np.ndarray]:
    """The rows of `to_vectors`; ValueError where the vectors are of another space."""
    if vectors.ndim != 2 or vectors.shape[1] != len(vector_names(space)):
        raise ValueError(f"actions are {vectors.shape}, need (frames, {len(vector_names(space))})")
    buttons, keys = len(space.buttons), len(space.keys)
    edges = np.cumsum([2, 3 * buttons, 3 * keys, 2])
    pointer, pressed, typed, wheel, axes = np.split(vectors.astype(np.float32), edges, axis=1)
    return {
        "pointer": pointer,
        "buttons": pressed.reshape(-1, buttons, 3),
        "keys": typed.reshape(-1, keys, 3),
        "wheel": wheel,
        "axes": axes,
    }
