"""xfwm4's settings on the recorded desktop: a title bar with a label only, no keys, no compositing, no workspaces.

xfwm4 asks a daemon, xfconfd, for its settings; the bus starts that one when it is first asked for.
"""

from collections.abc import Mapping
from pathlib import Path

# Where Debian says how xfconfd is started: its own place differs from architecture to architecture.
SERVICE = "/usr/share/dbus-1/services/org.xfce.Xfconf.service"
TITLE_HEIGHT = 15  # pixels, as the pictures below are
# Whatever xfwm4 has around a window shows the cursors for pulling at edges, even where a window has one size only: so a window
# has no border. So does a strip at the top, which comes where the bar is so high that its label begins below the second row.
BORDER = 0

_DARK, _ACTIVE, _INACTIVE = "#101820", "#2a6fdb", "#8a8f98"
_THEME = """active_text_color=#ffffff
inactive_text_color=#e8e8e8
title_horizontal_offset=4
"""

_SETTINGS: Mapping[str, str | int | bool] = {
    "theme": "plain",
    "title_font": "DejaVu Sans Bold 7",
    "title_alignment": "left",
    "full_width_title": True,
    "button_layout": "|",
    "click_to_focus": True,
    "focus_new": True,
    "raise_on_click": True,
    "raise_on_focus": False,
    "raise_with_any_button": True,
    "prevent_focus_stealing": False,
    # A window that wants to be larger than the screen comes maximised, and must be movable to its place all the same.
    "borderless_maximize": False,
    "box_move": False,
    "box_resize": False,
    "snap_to_border": False,
    "snap_to_windows": False,
    "tile_on_move": False,
    "restore_on_move": False,
    "easy_click": "none",
    "mousewheel_rollup": False,
    "horiz_scroll_opacity": False,
    # Until this many milliseconds after a press it could become a double click, and the window is not dragged.
    "double_click_time": 1,
    "double_click_action": "none",
    "workspace_count": 1,
    "scroll_workspaces": False,
    "wrap_workspaces": False,
    "wrap_windows": False,
    "use_compositing": False,
    "vblank_mode": "off",
    "zoom_desktop": False,
    "urgent_blink": False,
    "repeat_urgent_blink": False,
}
_CHANNELS = ".config/xfce4/xfconf/xfce-perchannel-xml"


def files() -> dict[str, str]:
    """xfwm4's files in HOME, by path; OSError where xfconfd is not installed."""
    shortcuts = '<property name="custom" type="empty"><property name="override" type="bool" value="true"/></property>'
    return {
        ".themes/plain/xfwm4/themerc": _THEME,
        **{f".themes/plain/xfwm4/{name}.xpm": text for name, text in _pictures().items()},
        f"{_CHANNELS}/xfwm4.xml": _channel("xfwm4", "general", "".join(map(_property, _SETTINGS))),
        f"{_CHANNELS}/xfce4-keyboard-shortcuts.xml": _channel("xfce4-keyboard-shortcuts", "xfwm4", shortcuts),
        ".services/org.xfce.Xfconf.service": _service(Path(SERVICE).read_text()),
    }


def _service(text: str) -> str:
    """How the bus starts xfconfd, without the settings that this machine has for all its users."""
    return text.replace("Exec=", "Exec=/usr/bin/env XDG_CONFIG_DIRS=/nonexistent ")


def _channel(name: str, group: str, properties: str) -> str:
    """One file of xfconfd's settings."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<channel name="{name}" version="1.0">'
        f'<property name="{group}" type="empty">{properties}</property></channel>\n'
    )


def _property(name: str) -> str:
    value = _SETTINGS[name]
    kind = {str: "string", int: "int", bool: "bool"}[type(value)]
    return f'<property name="{name}" type="{kind}" value="{str(value).lower() if kind == "bool" else value}"/>'


def _pictures() -> dict[str, str]:
    """The title bar's background by its names in a theme: two ends (2 and 4) and what is repeated between them (3)."""
    edges = {f"title-{end}-{state}": _picture(_DARK) for end in (2, 4) for state in ("active", "inactive")}
    return {**edges, "title-3-active": _picture(_ACTIVE), "title-3-inactive": _picture(_INACTIVE)}


def _picture(colour: str) -> str:
    """One column of the title bar (XPM), a dark pixel above and below."""
    rows = ['"1",', *['"0",'] * (TITLE_HEIGHT - 2), '"1"']
    head = f'"1 {TITLE_HEIGHT} 2 1",'
    return "\n".join(
        ["/* XPM */", "static char *bar[] = {", head, f'"0 c {colour}",', f'"1 c {_DARK}",', *rows, "};\n"]
    )
