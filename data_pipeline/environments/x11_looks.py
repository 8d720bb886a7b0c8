"""How the applications and the bus of the recorded desktop look and behave: the files of their settings.

Everything that a user's own settings could change is written here, so that the same machine image gives the same pixels.
The terminal's shell is restricted (`bash -r`: no paths, no output redirection, no other PATH), its PATH is an empty folder, and
the built-ins that reach other processes or files are switched off: random typing finds nothing to harm.
"""

FONT_WIDTH, FONT_HEIGHT = 6, 13  # of "fixed", the one text font that every X server has built in
BUTTON_WIDTH, BUTTON_HEIGHT, GAP = 24, 17, 2
DISPLAY_WIDTH = 96
CALCULATOR_INSIDE = 113, 119  # as the settings below add up

# The calculator's buttons by their numbers in xcalc, row by row (7 8 9 * / 4 5 6 - / 1 2 3 + / 0 . C =), and all it has.
_BUTTONS = ((37, 38, 39, 40), (42, 43, 44, 45), (47, 48, 49, 50), (52, 53, 54, 55))
_CLEAR, _NUM_BUTTONS = 54, 55
_INDICATORS = ("M", "INV", "DEG", "RAD", "GRAD", "P", "HEX", "DEC", "OCT")

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

_SHELL = """PATH=$HOME/.empty
PS1='$ '
HISTFILE=
IGNOREEOF=1000
TERM=dumb
command_not_found_handle() { echo "$1?"; return 127; }
enable -n kill exec eval source . bind builtin command enable trap ulimit umask suspend history fc fg bg jobs disown exit logout
"""

_READLINE = "set bell-style none\nset enable-bracketed-paste off\n"


# A bus of the desktop's own. It starts no services but the window manager's: who wants another finds it absent, on every machine.
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type><listen>unix:path=.bus</listen><auth>EXTERNAL</auth>
  <servicedir>.services</servicedir>
  <policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
"""

_GTK2 = """gtk-theme-name="Raleigh"
gtk-icon-theme-name="Adwaita"
gtk-font-name="DejaVu Sans 7"
gtk-cursor-blink=0
gtk-enable-animations=0
gtk-double-click-time=1
gtk-enable-tooltips=0
"""
_GTK3 = """[Settings]
gtk-theme-name=Adwaita
gtk-icon-theme-name=Adwaita
gtk-font-name=DejaVu Sans 7
gtk-xft-dpi=98304
gtk-cursor-blink=false
gtk-enable-animations=false
gtk-overlay-scrolling=false
gtk-double-click-time=1
gtk-recent-files-enabled=false
gtk-primary-button-warps-slider=false
"""
_EDITOR = """[org/xfce/mousepad/preferences/view]
use-default-monospace-font=false
font-name='DejaVu Sans Mono 7'
[org/xfce/mousepad/preferences/window]
statusbar-visible=false
remember-size=false
remember-state=false
path-in-title=false
[org/xfce/mousepad/preferences/file]
session-restore='never'
"""
# One click opens, for the same reason.
_FILE_MANAGER = """[config]
single_click=1
use_trash=0
confirm_del=1
auto_selection_delay=0
[ui]
big_icon_size=32
small_icon_size=16
show_thumbnail=0
"""
_FILE_WINDOW = """[volume]
mount_on_startup=0
mount_removable=0
autorun=0
[ui]
always_show_tabs=0
side_pane_mode=hidden;places
view_mode=icon
show_statusbar=0
toolbar=
"""
# Without the toolbars for files and brushes and the line of numbers: the tools, the colours and the paper stay.
_PAINT = "toolbar1 = false\ntoolbar3 = false\ntoolbar5 = false\n"
_PAPER_COLOURS = ("#ffffff", "#c0392b", "#2a6fdb", "#2e8b57", "#f1c40f", "#141414", "#8e44ad", "#d7dbe0")
PAPER = "paper.xpm"

_DOCUMENTS = {
    "documents/letter.txt": "Dear reader,\n\nthis letter is yours to write.\n",
    "documents/list.txt": "bread\nmilk\napples\n",
    "documents/trips/sea.txt": "sand\nwind\n",
    "documents/trips/hills.txt": "stones\n",
    "documents/empty/": "",
}

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


def _paper(width: int = 150, height: int = 96) -> str:
    """An empty picture (XPM) with a few colours to paint in."""
    colours = [f'"{number} c {colour}",' for number, colour in enumerate(_PAPER_COLOURS)]
    rows = [f'"{"0" * width}",'] * height
    return "\n".join(
        ["/* XPM */", "static char *paper[] = {", f'"{width} {height} {len(colours)} 1",', *colours, *rows, "};\n"]
    )


FILES = {
    ".resources/XTerm": _XTERM,
    ".resources/XCalc": _calculator_resources(),
    ".shellrc": _SHELL,
    ".inputrc": _READLINE,
    ".bus.conf": _BUS,
    ".run/": "",
    ".gtkrc-2.0": _GTK2,
    ".config/gtk-3.0/settings.ini": _GTK3,
    ".config/glib-2.0/settings/keyfile": _EDITOR,
    ".config/libfm/libfm.conf": _FILE_MANAGER,
    ".config/pcmanfm/default/pcmanfm.conf": _FILE_WINDOW,
    ".mtpaint": _PAINT,
    PAPER: _paper(),
    **_DOCUMENTS,
}
