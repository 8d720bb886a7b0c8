"""What an application of the full desktop is, and what it may ask of the desktop around it.

Sizes and places are in units; a unit is `scale` pixels of the screen. A press acts when the button goes down.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from data_pipeline.environments.desktop_drawing import Color
from data_pipeline.environments.environment import Rect
from data_pipeline.environments.full_desktop.disk import Disk


class Part(NamedTuple):
    """Something in a window that answers to a press.

    `kind` is the transition that a press anywhere in `rect` causes now, empty where there is none; see transitions.py.
    """

    name: str
    rect: Rect
    kind: str = ""
    cursor: str = "hand"


class Item(NamedTuple):
    """A line of a menu."""

    name: str
    enabled: bool = True


@dataclass(frozen=True)
class Dialog:
    """A question over a window, which waits for its answer. With a `field`, text can be typed."""

    question: str  # name by which the application knows the answer
    lines: tuple[str, ...]
    buttons: tuple[str, ...]  # Enter is the first, Escape the last
    field: str | None = None


class Host(Protocol):
    """The desktop, as an application sees it. Each method returns the transitions that it caused."""

    disk: Disk

    def launch(self, app: str, document: str = "") -> list[str]: ...

    def launching(self, app: str, document: str = "") -> str:
        """The transition that `launch` would cause; empty where there is no room for another window."""
        ...

    def ask(self, app: "App", dialog: Dialog) -> list[str]: ...

    def close(self, app: "App") -> list[str]: ...


class App(abc.ABC):
    """What is inside one window: what it holds, how it looks, how it answers. Coordinates count from its top left.

    Methods that take input return the kinds of the transitions that they caused.
    """

    name: ClassVar[str]
    label: ClassVar[str]  # in menus and under icons
    color: ClassVar[Color]
    icon: ClassVar[tuple[str, ...]]
    usual: ClassVar[tuple[int, int]]  # width and height of a new window's inside
    least: ClassVar[tuple[int, int]]
    resizable: ClassVar[bool] = True

    def __init__(self, host: Host, document: str = "") -> None:
        self.host, self.document = host, document
        self.width, self.height = self.usual

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    @property
    @abc.abstractmethod
    def title(self) -> str: ...

    @abc.abstractmethod
    def contents(self) -> dict[str, Any]:
        """All that the picture depends on besides the size, JSON-able."""

    @abc.abstractmethod
    def draw(self, canvas: np.ndarray, hovered: str, focused: bool) -> None:
        """Paint `canvas` (height, width, 3) as a function of the size, the contents and the two arguments only."""

    @abc.abstractmethod
    def parts(self) -> list[Part]:
        """What answers to a press, none over another."""

    def wheel_area(self) -> Rect | None:
        """Where turning the wheel scrolls something now."""
        return None

    def menus(self) -> dict[str, tuple[Item, ...]]:
        return {"Help": (Item("About"),)}

    def press(self, part: str, x: int, y: int) -> list[str]:
        return []

    def drag(self, x: int, y: int) -> list[str]:
        """The pointer is at (x, y), perhaps outside, with the button held since a press in this application."""
        return []

    def release(self) -> list[str]:
        return []

    def wheel(self, notches: float) -> list[str]:
        return []

    def key(self, code: str, shift: bool) -> list[str]:
        return []

    def choose(self, menu: str, item: str) -> list[str]:
        if item == "About":
            return self.host.ask(self, Dialog("about", (self.label, "Version 1"), ("OK",)))
        return self.host.close(self) if item == "Close" else []

    def answer(self, question: str, button: str, text: str) -> list[str]:
        return []

    def closing(self) -> Dialog | None:
        """What to ask before the window closes."""
        return None

    def refresh(self) -> None:  # noqa: B027 (most applications show nothing of the disk)
        """Something happened somewhere: take note of a disk that may be another."""

    @abc.abstractmethod
    def vary(self, rng: np.random.Generator) -> None:
        """Take contents that a person could have made, drawn from `rng`."""
