"""openbox's settings on the recorded desktop: a title bar with a label only, no keys, and rules that place the windows."""

from collections.abc import Mapping

from data_pipeline.environments.environment import Rect

TITLE_HEIGHT, BORDER = 15, 1  # pixels, as the theme below gives them

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
  <applications>RULES</applications>
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


def _rule(window_class: str, place: Rect) -> str:
    """Where the window manager puts the first window of that class, and its size inside."""
    return (
        f'<application class="{window_class}" type="normal"><position force="yes"><x>{place.x}</x><y>{place.y}</y></position>'
        f"<size><width>{place.w}</width><height>{place.h}</height></size></application>"
    )


def files(places: Mapping[str, Rect]) -> dict[str, str]:
    """openbox's files in HOME, by path; `places` are corners and inner sizes of windows by their class."""
    rules = "".join(_rule(name, place) for name, place in places.items())
    return {".themes/plain/openbox-3/themerc": _THEME, ".openbox.xml": _OPENBOX.replace("RULES", rules)}
