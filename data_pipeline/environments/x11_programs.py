"""What runs on the recorded desktop: the window manager, the terminal, the calculator, their looks and their places.

Everything that a user's own settings could change is written here, so that the same machine image gives the same pixels.
The terminal's shell is restricted (`bash -r`: no paths, no output redirection, no other PATH), its PATH is an empty folder, and
the built-ins that reach other processes or files are switched off: random typing finds nothing to harm.
"""

import random
import shutil
from dataclasses import dataclass

# Program to look for -> Debian package that brings it.
PACKAGES = {
    "Xvfb": "xvfb",
    "openbox": "openbox",
    "xterm": "xterm",
    "xcalc": "x11-apps",
    "bash": "bash",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}

WINDOW_MANAGER = "openbox"
WINDOW_MANAGER_COMMAND = ["openbox", "--config-file", "openbox.xml", "--sm-disable"]
TERMINAL, CALCULATOR = "terminal", "calculator"
TITLES = {TERMINAL: "Terminal", CALCULATOR: "Calculator"}
BACKGROUND = 0x2F5D62  # of the desktop, 0xRRGGBB

TITLE_HEIGHT, BORDER = 15, 1  # pixels, as the theme below gives them
FONT_WIDTH, FONT_HEIGHT = 6, 13  # of "fixed", the one text font that every X server has built in
BUTTON_WIDTH, BUTTON_HEIGHT, GAP = 24, 17, 2
DISPLAY_WIDTH = 96
CALCULATOR_SIZE = 115, 136  # outer, as the settings below add up

# The calculator's buttons by their numbers in xcalc, row by row (7 8 9 * / 4 5 6 - / 1 2 3 + / 0 . C =), and all it has.
_BUTTONS = ((37, 38, 39, 40), (42, 43, 44, 45), (47, 48, 49, 50), (52, 53, 54, 55))
_CLEAR, _NUM_BUTTONS = 54, 55
_INDICATORS = ("M", "INV", "DEG", "RAD", "GRAD", "P", "HEX", "DEC", "OCT")

# What runs behind this sees no network; only where the kernel lets us make namespaces.
OFFLINE = ["unshare", "--user", "--map-current-user", "--net", "--"]

# Environment of every program. Core cursors only: themed ones differ from machine to machine.
VARIABLES = {"XCURSOR_PATH": "/nonexistent", "XAPPLRESDIR": "resources", "XENVIRONMENT": "/dev/null"}

_OPENBOX = """<?xml version="1.0" encoding="UTF-8"?>
<openbox_config xmlns="http://openbox.org/3.4/rc">
  <focus><focusNew>yes</focusNew><followMouse>no</followMouse></focus>
  <theme>
    <name>plain</name><titleLayout>L</titleLayout><keepBorder>yes</keepBorder><animateIconify>no</animateIconify>
    <font place="ActiveWindow"><name>DejaVu Sans</name><size>7</size><weight>Bold</weight></font>
    <font place="InactiveWindow"><name>DejaVu Sans</name><size>7</size><weight>Bold</weight></font>
  </theme>
  <desktops><number>1</number><popupTime>0</popupTime></desktops>
  <resize><drawContents>yes</drawContents><popupShow>Never</popupShow></resize>
  <resistance><strength>0</strength><screen_edge_strength>10000</screen_edge_strength></resistance>
  <keyboard></keyboard>
  <mouse>
    <dragThreshold>1</dragThreshold>
    <context name="Titlebar">
      <mousebind button="Left" action="Press"><action name="Focus"/><action name="Raise"/></mousebind>
      <mousebind button="Left" action="Drag"><action name="Move"/></mousebind>
    </context>
    <context name="Client">
      <mousebind button="Left" action="Press"><action name="Focus"/><action name="Raise"/></mousebind>
    </context>
  </mouse>
  <applications></applications>
</openbox_config>
"""

_THEME = f"""border.width: {BORDER}
padding.width: 2
padding.height: 1
window.client.padding.width: 0
window.handle.width: 0
border.color: #101820
window.active.title.bg: flat solid
window.active.title.bg.color: #2a6fdb
window.active.label.bg: parentrelative
window.active.label.text.color: #ffffff
window.inactive.title.bg: flat solid
window.inactive.title.bg.color: #8a8f98
window.inactive.label.bg: parentrelative
window.inactive.label.text.color: #e8e8e8
window.label.text.justify: left
"""

# Two presses are never a double click: stepped time runs faster than the hand's, so their distance would mean nothing.
_XTERM = """XTerm*cursorBlink: false
XTerm*multiClickTime: 1
XTerm*pointerShape: left_ptr
XTerm*pointerMode: 0
XTerm*scrollBar: false
XTerm*saveLines: 64
XTerm*internalBorder: 2
XTerm*utmpInhibit: true
XTerm*omitTranslation: popup-menu,fullscreen
XTerm*allowWindowOps: false
XTerm*renderFont: false
XTerm*background: #fbf7ea
XTerm*foreground: #141414
XTerm*cursorColor: #c0392b
XTerm*font: fixed
XTerm*boldFont: fixed
"""

_SHELL = """PATH=$HOME/empty
PS1='$ '
HISTFILE=
IGNOREEOF=1000
TERM=dumb
command_not_found_handle() { echo "$1?"; return 127; }
enable -n kill exec eval source . bind builtin command enable trap ulimit umask suspend history fc fg bg jobs disown exit logout
"""

_READLINE = "set bell-style none\nset enable-bracketed-paste off\n"


# What the calculator does with a key: digits and operators, nothing that ends it.
_CALCULATOR_KEYS = (
    *(f"None<Key>{digit}:digit({digit})" for digit in range(10)),
    ":<Key>+:add()",
    ":<Key>-:subtract()",
    ":<Key>/:divide()",
    ":<Key>=:equal()",
    ":<Key>.:decimal()",
    "<Key>Return:equal()",
    "<Key>BackSpace:clear()",
)


def _calculator_resources() -> str:
    """xcalc as a pocket calculator: the display, and sixteen of its buttons in four rows below it."""
    shown = {number for row in _BUTTONS for number in row}
    lines = [
        "XCalc*Font: fixed",
        "XCalc*background: #d7dbe0",
        "XCalc*Command.background: #f6f6f6",
        f"XCalc*Command.width: {BUTTON_WIDTH}",
        f"XCalc*Command.height: {BUTTON_HEIGHT}",
        f"XCalc*Command.horizDistance: {GAP}",
        f"XCalc*Command.vertDistance: {GAP}",
        "XCalc*ti.defaultDistance: 0",
        "XCalc*bevel.background: #30363d",
        "XCalc*bevel.horizDistance: 2",
        "XCalc*bevel.vertDistance: 2",
        "XCalc*bevel.borderWidth: 0",
        "XCalc*bevel.defaultDistance: 2",
        "XCalc*bevel.screen.background: #dfe8d0",
        "XCalc*bevel.screen.horizDistance: 2",
        "XCalc*bevel.screen.defaultDistance: 0",
        "XCalc*bevel.screen.LCD.background: #dfe8d0",
        "XCalc*bevel.screen.LCD.horizDistance: 0",
        "XCalc*bevel.screen.LCD.label: 00000000",
        f"XCalc*ti.bevel.screen.LCD.width: {DISPLAY_WIDTH}",
        "XCalc*ti.bevel.screen.LCD.translations: #replace" + "".join(f"\\n\\\n  {key}" for key in _CALCULATOR_KEYS),
        f"XCalc*ti.button{_CLEAR}.label: C",
        f"XCalc*ti.button{_CLEAR}.translations: #override<Btn1Down>,<Btn1Up>:clear()unset()",
        *(line for name in _INDICATORS for line in _hidden(f"bevel.screen.{name}")),
        *(line for n in range(1, _NUM_BUTTONS + 1) if n not in shown for line in _hidden(f"ti.button{n}")),
        *(f"XCalc*ti.button{row[0]}.horizDistance: {GAP}" for row in _BUTTONS),
    ]
    return "\n".join(lines) + "\n"


def _hidden(widget: str) -> list[str]:
    """Invisible, and so small that the chain of widgets it is in closes up."""
    settings = {"mappedWhenManaged": "false", "width": 1, "height": 1, "borderWidth": 0, "font": "fixed"}
    distances = {"horizDistance": 0, "vertDistance": 0}
    return [f"XCalc*{widget}.{name}: {value}" for name, value in (settings | distances).items()]


# Written into the private folder, which is also HOME.
FILES = {
    "openbox.xml": _OPENBOX,
    ".themes/plain/openbox-3/themerc": _THEME,
    "resources/XTerm": _XTERM,
    "resources/XCalc": _calculator_resources(),
    "shellrc": _SHELL,
    ".inputrc": _READLINE,
}


def missing() -> list[str]:
    """Names of the programs that are not installed here."""
    return [name for name in PACKAGES if shutil.which(name) is None]


@dataclass(frozen=True)
class Layout:
    """Where the windows' outer corners are when an episode begins, which one has the focus, where the pointer is."""

    terminal: tuple[int, int]
    calculator: tuple[int, int]
    focus: str
    pointer: tuple[int, int]


def layout(seed: int, width: int, height: int, columns: int, rows: int) -> Layout:
    """Places drawn from `seed` so that each window lies wholly on a screen of `width` x `height` pixels, and can be seen."""
    generator = random.Random(seed)
    size = terminal_size(columns, rows)
    for _ in range(100):
        terminal = _corner(generator, width, height, *size)
        calculator = _corner(generator, width, height, *CALCULATOR_SIZE)
        if _overlap(terminal, size, calculator, CALCULATOR_SIZE) <= 0.5:
            break
    return Layout(
        terminal=terminal,
        calculator=calculator,
        focus=generator.choice((TERMINAL, CALCULATOR)),
        pointer=(generator.randrange(width), generator.randrange(height)),
    )


def _corner(generator: random.Random, width: int, height: int, w: int, h: int) -> tuple[int, int]:
    if w > width or h > height:
        raise ValueError(f"a window of {w}x{h} pixels does not fit a screen of {width}x{height}: enlarge the screen")
    return generator.randint(0, width - w), generator.randint(0, height - h)


def _overlap(a: tuple[int, int], a_size: tuple[int, int], b: tuple[int, int], b_size: tuple[int, int]) -> float:
    """The part of the smaller rectangle that both cover."""
    sides = [min(a[i] + a_size[i], b[i] + b_size[i]) - max(a[i], b[i]) for i in range(2)]
    smaller = min(a_size[0] * a_size[1], b_size[0] * b_size[1])
    return max(sides[0], 0) * max(sides[1], 0) / smaller


def terminal_size(columns: int, rows: int) -> tuple[int, int]:
    """Outer width and height in pixels of a terminal of so many characters."""
    margin = 2 * BORDER + 4
    return columns * FONT_WIDTH + margin, rows * FONT_HEIGHT + margin + TITLE_HEIGHT


def commands(places: Layout, columns: int, rows: int, offline: bool) -> dict[str, list[str]]:
    """The argument lists of the two programs at their places; `offline` gives the shell a network with nothing in it."""
    shell = ["bash", "--noprofile", "--rcfile", "shellrc", "-r", "-i"]
    shell = [*OFFLINE, *shell] if offline else shell
    at = "+{}+{}".format(*places.terminal)
    return {
        TERMINAL: ["xterm", "-T", TITLES[TERMINAL], "-geometry", f"{columns}x{rows}{at}", "-e", *shell],
        CALCULATOR: ["xcalc", "-title", TITLES[CALCULATOR], "-geometry", "+{}+{}".format(*places.calculator)],
    }


def is_button(width: int, height: int) -> bool:
    """Whether a window of that size inside the calculator is one of its buttons, and not its display."""
    return (width, height) == (BUTTON_WIDTH, BUTTON_HEIGHT)
