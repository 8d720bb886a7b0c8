"""Headless Chromium through its DevTools protocol: open a page, send real input events, ask what is there."""

import base64
import contextlib
import http.client
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or "/usr/bin/chromium"
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--window-size=1280,800", "--hide-scrollbars", "about:blank"),
)

needs_chromium = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason="no chromium on this machine: install Debian's package (make system-deps)"
)


class Tab:
    """One page of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one DevTools method."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(60))
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                return dict(message["result"])
            self.events.append(message)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        """Until `expression` is true in the page."""
        until = time.monotonic() + seconds
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < until, f"not within {seconds} s: {expression}; the page says {self.ask(_STATE)}"
            time.sleep(0.03)

    def open(self, url: str) -> None:
        """Go to `url` and wait until it has loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        until = time.monotonic() + 60
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until, f"{url} did not load within 60 s"
            self.events.append(json.loads(self._socket.recv(60)))

    def mouse(self, kind: str, x: float, y: float, button: str = "none", **more: Any) -> None:
        """mouseMoved, mousePressed, mouseReleased or mouseWheel at CSS pixel (x, y)."""
        buttons = {"none": 0, "left": 1, "right": 2, "middle": 4}[button] if kind != "mouseReleased" else 0
        clicks = 0 if kind in ("mouseMoved", "mouseWheel") else 1
        event = {"type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": clicks, **more}
        self.call("Input.dispatchMouseEvent", **event)

    def key(self, kind: str, code: str, text: str = "", **more: Any) -> None:
        """keyDown or keyUp of the physical key `code`."""
        self.call("Input.dispatchKeyEvent", type=kind, code=code, key=text or code, text=text, **more)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the page logged as an error, and what it threw."""
        self.ask("0")
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(str(event["params"]["entry"]))
        return found

    def requested(self) -> list[str]:
        """The address of every request that the page made."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        sockets = [event["params"]["url"] for event in self.events if event["method"] == "Network.webSocketCreated"]
        return [one["request"]["url"] for one in sent] + sockets


_STATE = "JSON.stringify({notice: document.getElementById('notice')?.textContent, text: document.body.innerText.slice(0, 400)})"


@contextlib.contextmanager
def chromium(profile: Path, device_scale: float = 1.0) -> Iterator[Tab]:
    """A tab of a browser of its own, with an empty profile; both are gone afterwards."""
    profile.mkdir()
    command = [PROGRAM, f"--user-data-dir={profile}", f"--force-device-scale-factor={device_scale}", *_QUIET]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_page_address(profile, process), compression=None, max_size=None, max_queue=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _page_address(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + 60
    said = profile / "DevToolsActivePort"
    while time.monotonic() < until:
        assert process.poll() is None, f"chromium ended with code {process.returncode}"
        if said.exists() and (lines := said.read_text().splitlines()):
            for target in _targets(int(lines[0])):
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise AssertionError("chromium did not open its DevTools port within 60 s")


def _targets(port: int) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/json/list")
    return list(json.loads(connection.getresponse().read()))
