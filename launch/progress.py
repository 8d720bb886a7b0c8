"""What a person sees while a stage runs: a bar on a terminal, a plain line now and then in a log file."""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

BAR_EVERY, LINE_EVERY, NOTE_EVERY = 0.5, 30.0, 5.0  # seconds
WIDTH = 30


@dataclass(frozen=True)
class Reading:
    """How far something is."""

    done: int
    total: int
    text: str = ""


class Progress:
    """Shows `read()` until the context ends. `beat` hears every few seconds how long that has been."""

    def __init__(self, read: Callable[[], Reading], beat: Callable[[float], None], stream: TextIO | None = None):
        self._read, self._beat = read, beat
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._beat(self.seconds)
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def _watch(self) -> None:
        shown = noted = 0.0
        while not self._stopped.wait(BAR_EVERY):
            now = self.seconds
            if now - noted >= NOTE_EVERY:
                self._beat(now)
                noted = now
            if self._live or now - shown >= LINE_EVERY:
                self._show(self._read(), now)
                shown = now

    def _show(self, reading: Reading, seconds: float) -> None:
        share = min(1.0, reading.done / max(1, reading.total))
        counts = f"{reading.done}/{reading.total}"
        words = f"{counts}  {reading.text}  {clock(seconds)}".replace("    ", "  ")
        if self._live:
            bar = "█" * round(share * WIDTH) + "·" * (WIDTH - round(share * WIDTH))
            self._stream.write(f"\r      {bar} {words}\x1b[K")
        else:
            self._stream.write(f"      {words}\n")
        self._stream.flush()


def training_progress(folder: Path, num_steps: int) -> Callable[[], Reading]:
    """How far the run that writes `folder`/metrics.jsonl is."""

    def read() -> Reading:
        row = last_row(folder / "metrics.jsonl")
        if row is None:
            return Reading(0, num_steps, "starting")
        loss = row.get("loss")
        return Reading(int(row["step"]), num_steps, f"loss {loss:.4f}" if isinstance(loss, float) else "")

    return read


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole line of a JSON lines file; None where there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16384))
            lines = file.read().split(b"\n")[:-1]  # the last piece is unfinished or empty
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off at the front
        if isinstance(row, dict) and "step" in row:
            return row
    return None


def clock(seconds: float) -> str:
    """`seconds` as a person says them: "42 s", "3 min 12 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
