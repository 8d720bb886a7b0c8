"""The window managers that a recorded desktop can have: what each needs, how it starts, and what its frames measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data_pipeline.environments import x11_openbox, x11_xfwm4
from data_pipeline.environments.environment import Rect


@dataclass(frozen=True)
class WindowManager:
    """One window manager. Sizes are in pixels of the screen."""

    command: tuple[str, ...]
    packages: Mapping[str, str]  # program to look for, or a file by its whole path -> Debian package that brings it
    border: int
    title_height: int
    files: Callable[[Mapping[str, Rect]], dict[str, str]]  # its part of HOME, from places of windows by their class
    places_windows: bool  # whether its files say where windows begin; where not, they are moved when they are there
    has_title_menu: bool  # whether the other buttons do on a title bar what a hand cannot undo

    @property
    def program(self) -> str:
        return self.command[0]


MANAGERS = {
    "openbox": WindowManager(
        command=("openbox", "--config-file", ".openbox.xml", "--sm-disable"),
        packages={"openbox": "openbox"},
        border=x11_openbox.BORDER,
        title_height=x11_openbox.TITLE_HEIGHT,
        files=x11_openbox.files,
        places_windows=True,
        has_title_menu=False,
    ),
    "xfce4": WindowManager(
        command=("xfwm4", "--sm-client-disable", "--compositor=off"),
        packages={"xfwm4": "xfwm4", x11_xfwm4.SERVICE: "xfconf"},
        border=x11_xfwm4.BORDER,
        title_height=x11_xfwm4.TITLE_HEIGHT,
        files=lambda places: x11_xfwm4.files(),
        places_windows=False,
        has_title_menu=True,
    ),
}
OPENBOX, XFCE4 = MANAGERS["openbox"], MANAGERS["xfce4"]
