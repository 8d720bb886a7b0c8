"""The page in headless Chromium: what a hand does arrives exact to the pixel, and what the world draws is what is seen."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.controls import Controls
from tests.browser import Tab, chromium, needs_chromium
from tests.playing import Logged, Served, desktop_game, served, small_world, within
from tools.pictures import decode
from tools.worlds import world_game

pytestmark = needs_chromium

BOX = "(() => { const b = document.getElementById('dreamed').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
PICTURE = "document.getElementById('{}').toDataURL('image/png').split(',')[1]"


class Seen:
    """A page at play, and what reached the world of it."""

    def __init__(self, tab: Tab, server: Served, dream: Logged) -> None:
        self.tab, self.server, self.dream = tab, server, dream
        tab.open(server.url)
        tab.wait("document.getElementById('dreamed').dataset.frame >= 1")
        self.left, self.top, self.width, self.height = tab.ask(BOX)
        self.scale = self.width / 96

    def css(self, x: float, y: float) -> tuple[float, float]:
        """The CSS place of (x, y), in pixels of the world."""
        return self.left + x * self.scale, self.top + y * self.scale

    def picture(self, canvas: str = "dreamed") -> np.ndarray:
        return decode(base64.b64decode(self.tab.ask(PICTURE.format(canvas))))

    def arrives(self, fits: "object") -> bool:
        return within(20, lambda: any(fits(one) for one in list(self.dream.seen)))  # type: ignore[operator]


@pytest.fixture(params=[1, 2], ids=["scale1", "scale2"])
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Seen]:
    dream = Logged()
    with (
        served(desktop_game(lambda: dream, fps=20), tmp_path / "played") as server,
        chromium(tmp_path / "profile", request.param) as tab,
    ):
        yield Seen(tab, server, dream)
        assert tab.complaints() == []
        assert all(server.host in url or url.startswith(("data:", "blob:")) for url in tab.requested())


def test_a_hand_on_the_page_is_exact_and_moves_the_world(seen: Seen, request: pytest.FixtureRequest) -> None:
    tab = seen.tab
    assert tab.ask("devicePixelRatio") == request.node.callspec.params["seen"]
    assert seen.scale == int(seen.scale) >= 2
    assert seen.height == 64 * seen.scale
    assert tab.ask("getComputedStyle(document.getElementById('dreamed')).cursor") == "none"

    # The first and last CSS pixel of a pixel of the world, its middle, and the corners of the frame.
    near = 1 / seen.scale
    for x, y in [(0, 0), (95, 0), (0, 63), (95, 63), (1, 1), (47, 31), (62, 17)]:
        for dx, dy in [(0.0, 0.0), (0.5, 0.5), (1 - near, 1 - near)]:
            tab.mouse("mouseMoved", *seen.css((x + 50) % 96, (y + 30) % 64))
            tab.mouse("mouseMoved", *seen.css(x + dx, y + dy))
            assert tab.ask("document.getElementById('dreamed').dataset.pointer") == f"{x},{y}"
        assert seen.arrives(lambda one, place=(x, y): one.pointer == place), (x, y)

    before = seen.picture()
    tab.mouse("mouseMoved", *seen.css(8.5, 59.5))
    tab.mouse("mousePressed", *seen.css(8.5, 59.5), button="left")
    tab.mouse("mouseReleased", *seen.css(8.5, 59.5), button="left")
    assert seen.arrives(lambda one: one.pointer == (8, 59) and [e.kind for e in one.events][:1] == ["press"])
    drawn = int(tab.ask("document.getElementById('dreamed').dataset.drawn"))
    tab.wait(f"document.getElementById('dreamed').dataset.drawn > {drawn + 3}")
    assert not np.array_equal(seen.picture(), before), "a click on a launcher changed nothing on the page"

    # Typing: by physical code, each press once, and never a shortcut of the page.
    begun = tab.ask("document.getElementById('dreamed').dataset.begun")
    for code in ("KeyA", "KeyS", "Enter"):
        tab.key("keyDown", code, text="r")  # whatever letter the layout makes of it
        tab.key("keyDown", code, text="r", autoRepeat=True)
        tab.key("keyUp", code)
    tab.key("keyDown", "KeyR", text="r")
    tab.key("keyUp", "KeyR")
    assert seen.arrives(lambda one: any((e.kind, e.target) == ("release", "Enter") for e in one.events))
    typed = [(e.kind, e.target) for one in seen.dream.seen for e in one.events if e.target != "left"]
    assert typed == [(kind, code) for code in ("KeyA", "KeyS", "Enter") for kind in ("press", "release")]
    assert tab.ask("document.getElementById('dreamed').dataset.begun") == begun, "a typed R reset the world"

    # A drag that leaves the picture goes on at its edge, and the button comes up although it is outside.
    tab.mouse("mouseMoved", *seen.css(90, 30))
    tab.mouse("mousePressed", *seen.css(90, 30), button="left")
    tab.mouse("mouseMoved", *seen.css(110, 80), button="left")
    assert seen.arrives(lambda one: one.pointer == (95, 63) and seen.dream.seen.index(one) > 5)
    tab.mouse("mouseReleased", *seen.css(110, 80), button="left")
    assert within(20, lambda: [e for one in seen.dream.seen for e in one.events][-1].kind == "release")

    # A key that is held when the page loses the keyboard is let go.
    tab.mouse("mousePressed", *seen.css(50, 30), button="left")
    tab.mouse("mouseReleased", *seen.css(50, 30), button="left")
    tab.key("keyDown", "KeyX", text="x")
    assert seen.arrives(lambda one: any((e.kind, e.target) == ("press", "KeyX") for e in one.events))
    tab.ask("document.getElementById('dreamed').blur()")
    assert seen.arrives(lambda one: any((e.kind, e.target) == ("release", "KeyX") for e in one.events))

    # Outside the picture R is the page's own.
    tab.key("keyDown", "KeyR", text="r")
    tab.wait(f"document.getElementById('dreamed').dataset.begun > {begun}")


def test_the_buttons_of_the_page(tmp_path: Path) -> None:
    played = tmp_path / "played"
    with served(world_game(small_world()), played) as server, chromium(tmp_path / "profile") as tab:
        page = Seen(tab, server, Logged())
        assert "left button" in tab.ask("document.getElementById('keys').innerText")
        assert tab.ask("getComputedStyle(document.getElementById('real-view')).display") == "none"

        tab.ask("document.getElementById('show-real').click(), document.getElementById('show-difference').click()")
        tab.wait("document.getElementById('likeness').textContent.endsWith('dB')")
        tab.wait("document.getElementById('difference').getBoundingClientRect().width > 0")
        widths = tab.ask("['dreamed', 'real', 'difference'].map((id) => document.getElementById(id).offsetWidth / 96)")
        assert len(set(widths)) == 1
        assert widths[0] == int(widths[0])
        assert not np.array_equal(page.picture("real"), page.picture("dreamed"))

        tab.ask("document.getElementById('pacing').value = 'on_input'")
        tab.ask("document.getElementById('pacing').dispatchEvent(new Event('change'))")
        for name, change in (("seed", "seed.value = 41"), ("num-steps", "field.value = 1")):
            tab.ask(
                f"(() => {{ const field = document.getElementById('{name}'); {change.replace('seed.', 'field.')}; "
                "field.dispatchEvent(new Event('change')); })()"
            )
        tab.wait("document.getElementById('dreamed').dataset.seed === '41'")
        tab.ask(
            "document.getElementById('model').value = 'teacher', "
            "document.getElementById('model').dispatchEvent(new Event('change'))"
        )
        tab.wait("document.getElementById('num-steps').value === '3'")

        tab.ask("document.getElementById('record').click()")
        tab.wait("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
        for x in range(10, 60, 10):
            tab.mouse("mouseMoved", *page.css(x, 20))
        tab.wait("Number(document.getElementById('number').textContent) >= 1")
        tab.wait("document.getElementById('latency').textContent.endsWith('ms')")
        tab.ask("document.getElementById('record').click()")
        tab.wait("document.getElementById('saved').textContent.includes('.mp4')")
        assert sorted(path.suffix for path in played.iterdir()) == [".jsonl", ".mp4"]
        assert tab.complaints() == []


def test_the_page_comes_back_after_a_lost_line(tmp_path: Path) -> None:
    dream = Logged()
    with (
        served(desktop_game(lambda: dream, fps=20), tmp_path) as server,
        chromium(tmp_path / "profile") as tab,
    ):
        page = Seen(tab, server, dream)
        begun = tab.ask("document.getElementById('dreamed').dataset.begun")
        number = int(tab.ask("document.getElementById('dreamed').dataset.frame"))
        server.break_lines()
        tab.wait("document.getElementById('link').className === 'off'")
        tab.wait("document.getElementById('dreamed').dataset.resumed === 'true'")
        tab.wait("document.getElementById('notice').hidden")
        tab.mouse("mouseMoved", *page.css(31, 17))
        assert page.arrives(lambda one: one.pointer == (31, 17))
        tab.wait(f"document.getElementById('dreamed').dataset.frame > {number}")
        assert tab.ask("document.getElementById('dreamed').dataset.begun") == begun, "the same session, not a new one"
        assert server.hall.lobby.total == 1


def test_the_picture_on_the_page_is_the_frame_bit_for_bit(tmp_path: Path) -> None:
    dream = Logged()
    with served(desktop_game(lambda: dream, fps=20), tmp_path) as server, chromium(tmp_path / "profile") as tab:
        page = Seen(tab, server, dream)
        tab.ask("document.getElementById('pacing').value = 'on_input'")
        tab.ask("document.getElementById('pacing').dispatchEvent(new Event('change'))")
        for codec in ("webp", "png"):
            tab.ask(f"document.getElementById('codec').value = '{codec}'")
            tab.ask("document.getElementById('codec').dispatchEvent(new Event('change'))")
            place = (20, 30) if codec == "webp" else (70, 12)
            tab.mouse("mouseMoved", *page.css(*place))
            assert within(20, lambda place=place: bool(dream.seen) and dream.seen[-1] == Controls(place))
            number = len(dream.seen)
            tab.wait(f"Number(document.getElementById('dreamed').dataset.frame) === {number}")
            assert np.array_equal(page.picture(), dream._session.environment.render()), codec
