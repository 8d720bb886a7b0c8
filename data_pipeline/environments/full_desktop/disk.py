"""The files of the full desktop: folders, texts and pictures, by path. Home is the empty path."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

PICTURE_SIZE = (96, 64)  # width and height of every picture
PALETTE: tuple[tuple[int, int, int], ...] = (
    (255, 255, 255),
    (24, 24, 28),
    (128, 130, 138),
    (196, 48, 44),
    (238, 130, 40),
    (250, 214, 60),
    (56, 160, 74),
    (60, 190, 196),
    (44, 92, 204),
    (126, 68, 176),
    (232, 128, 178),
    (128, 84, 52),
)

_STORY = "the quick fox draws a small house near some water and writes down what it saw before the day ended"
_TEXTS = ("Notes", "Ideas", "Letter", "List", "Diary", "Plan", "Recipe", "Report", "Draft", "Poem")
_PICTURES = ("Hills", "House", "Face", "Tree", "Boat", "Map", "Star", "Cat")
FOLDERS = ("Documents", "Pictures")
MOST_FILES = 24  # in a folder

Kind = Literal["folder", "text", "picture"]


@dataclass
class File:
    kind: Kind
    text: str = ""
    picture: np.ndarray | None = field(default=None, repr=False)  # (height, width) uint8, places in PALETTE


class Disk:
    """Everything that is stored. A path is names joined by '/'."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {name: File("folder") for name in FOLDERS}

    def entries(self, folder: str) -> list[str]:
        """Paths of what is directly in `folder`: folders first, then by name."""
        inside = [path for path in self.files if path.rpartition("/")[0] == folder]
        return sorted(inside, key=lambda path: (self.files[path].kind != "folder", path))

    def has_room(self, folder: str) -> bool:
        return len(self.entries(folder)) < MOST_FILES

    def free_name(self, folder: str, stem: str, ending: str = "") -> str:
        """A path in `folder` that is not taken: `stem`, or `stem` with the first number that makes it new."""
        names = [f"{stem}{n or ''}{ending}" for n in (0, *range(2, MOST_FILES + 3))]
        paths = [f"{folder}/{name}" if folder else name for name in names]
        return next(path for path in paths if path not in self.files)

    def remove(self, path: str) -> None:
        """Delete `path` and everything in it."""
        for name in [name for name in self.files if name == path or name.startswith(path + "/")]:
            del self.files[name]

    def vary(self, rng: np.random.Generator) -> None:
        """Fill the folders with texts and pictures."""
        for name in rng.permutation(_TEXTS)[: int(rng.integers(2, 9))]:
            self.files[f"Documents/{name}.txt"] = File("text", text=_text(rng))
        for name in rng.permutation(_PICTURES)[: int(rng.integers(1, 6))]:
            self.files[f"Pictures/{name}.pic"] = File("picture", picture=_picture(rng))
        for name in rng.permutation(("Work", "Old", "Travel"))[: int(rng.integers(0, 3))]:
            self.files[f"Documents/{name}"] = File("folder")
            self.files[f"Documents/{name}/Letter.txt"] = File("text", text=_text(rng))
        if rng.random() < 0.5:
            self.files["Readme.txt"] = File("text", text=_text(rng))

    def state(self) -> dict[str, Any]:
        """Names and kinds, JSON-able; what files hold is in the windows that show them."""
        return {path: self.files[path].kind for path in sorted(self.files)}


def blank() -> np.ndarray:
    """A white picture."""
    return np.zeros(PICTURE_SIZE[::-1], dtype=np.uint8)


def _text(rng: np.random.Generator) -> str:
    lines = []
    for _ in range(int(rng.integers(1, 14))):
        words = [str(word) for word in rng.choice(_STORY.split(), size=int(rng.integers(1, 8)))]
        lines.append(" ".join(words).capitalize() + str(rng.choice([".", "!", "?", ""])))
    return "\n".join(lines)


def _picture(rng: np.random.Generator) -> np.ndarray:
    """Boxes and discs."""
    picture = blank()
    height, width = picture.shape
    ys, xs = np.mgrid[:height, :width]
    for _ in range(int(rng.integers(2, 7))):
        x, y, size = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(5, 20))
        round_ = rng.random() < 0.5
        far = np.hypot(xs - x, ys - y) if round_ else np.maximum(abs(xs - x), abs(ys - y))
        picture[far <= size] = int(rng.integers(1, len(PALETTE)))
    return picture


def name_of(path: str) -> str:
    """The last name of a path; Home for the empty one."""
    return path.rpartition("/")[2] or "Home"
