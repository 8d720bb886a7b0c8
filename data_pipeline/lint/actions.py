"""Checks of the action rows by themselves: ranges and units, what is held, keys that stay down, what was never done."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Finding, Limits

_GRID = (8, 6)  # cells over the screen, in which the pointer is looked for


def ranges(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """Values outside of what their channel can have, which mostly come in another unit."""
    pointer, wheel, axes = clip.rows["pointer"], clip.rows["wheel"], clip.rows["axes"]
    if clip.space.pointer == "absolute" and not ((pointer >= 0) & (pointer < 1)).all():
        low, high = pointer.min(), pointer.max()
        yield _range(clip, f"the pointer is at {low:g} to {high:g}; it must be a fraction of the screen in [0, 1)")
    if np.abs(wheel).max(initial=0) > limits.wheel_notches:
        yield _range(
            clip, f"the wheel turns by {np.abs(wheel).max():g} in one frame; its unit is a notch, not 1/120 of one"
        )
    if np.abs(axes).max(initial=0) > 1:
        yield _range(clip, f"an axis is at {axes.flat[np.abs(axes).argmax()]:g}; axes are in [-1, 1]")
    for name in ("buttons", "keys"):
        held, presses, releases = clip.presses(name)
        counts = np.stack([presses, releases])
        if not np.isin(held, (0, 1)).all():
            yield _range(clip, f"{name} are held by {np.setdiff1d(held, (0, 1))[0]:g}; held is 0 or 1")
        if (counts < 0).any() or (counts != np.round(counts)).any():
            yield _range(clip, f"{name} have counts of presses or releases that are not whole numbers from 0 on")


def _range(clip: Clip, message: str) -> Finding:
    return Finding("error", "ranges", clip.where, f"{message}; convert the rows and write the clip again")


def edges(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """Held must be what it was plus presses minus releases: else a press is missing, or a frame with its row."""
    for name, names in (("buttons", clip.space.buttons), ("keys", clip.space.keys)):
        held, presses, releases = clip.presses(name)
        broken = np.argwhere(np.diff(held, axis=0) != (presses - releases)[1:])
        if len(broken):
            frame, number = int(broken[0, 0]) + 1, int(broken[0, 1])
            yield Finding(
                "error",
                "edges",
                clip.where,
                f"{_name(names, number)} at frame {frame} is not held as its presses and releases say "
                f"({len(broken)} such places): a row is missing or was changed; record or import the clip again",
            )


def stuck(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """Keys and buttons that stay down to the end of the clip: their release was lost."""
    least = round(limits.stuck_seconds * clip.fps)
    for name, names in (("buttons", clip.space.buttons), ("keys", clip.space.keys)):
        held, _, _ = clip.presses(name)
        for number in np.flatnonzero(held[-1] > 0).tolist():
            since = int(np.flatnonzero(held[:, number] == 0).max(initial=-1)) + 1
            if len(clip) - since >= max(least, 2):
                yield Finding(
                    "warning",
                    "stuck keys",
                    clip.where,
                    f"{_name(names, number)} is held from frame {since} to the end, "
                    f"{(len(clip) - since) / clip.fps:.1f} s: was its release lost?",
                )


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else f"number {number}"


class Coverage:
    """What was done at all, over the clips of a dataset."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.frames = limits, 0
        self._cells = np.zeros(_GRID, bool)
        self._presses: dict[str, np.ndarray] = {}
        self._wheel = 0.0

    def add(self, clip: Clip) -> None:
        self.frames += len(clip)
        columns, lines = np.clip((clip.rows["pointer"] * _GRID).astype(int), 0, np.array(_GRID) - 1).T
        self._cells[columns, lines] = True
        for name in ("buttons", "keys"):
            done = clip.presses(name)[1].sum(0) + clip.presses(name)[0].sum(0)
            self._presses[name] = self._presses.get(name, 0) + done
        self._wheel += float(np.abs(clip.rows["wheel"]).sum())
        self._space = clip.space

    def findings(self, where: str) -> Iterator[Finding]:
        """What a model cannot learn from these clips because nobody did it."""
        if self.frames < self.limits.coverage_frames:
            return
        missing = list(self._missing())
        if missing:
            yield Finding(
                "warning", "coverage", where, f"in {self.frames} frames {'; '.join(missing)}: record more of it"
            )

    def _missing(self) -> Iterator[str]:
        if self._space.pointer == "absolute" and self._cells.mean() < self.limits.pointer_coverage:
            yield f"the pointer was in {self._cells.sum()} of {self._cells.size} parts of the screen"
        for name, names, may in (
            ("button", self._space.buttons, 0.0),
            ("key", self._space.keys, self.limits.keys_unused),
        ):
            unused = [names[i] for i in np.flatnonzero(self._presses[f"{name}s"] == 0) if i < len(names)]
            if len(unused) > may * len(names):
                yield f"{len(unused)} of {len(names)} {name}s were never pressed ({', '.join(unused[:4])})"
        if self._space.wheel and not self._wheel:
            yield "the wheel was never turned"
