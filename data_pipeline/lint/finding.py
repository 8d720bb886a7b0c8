"""What a check found, and when it counts: Finding, Severity, Limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wm.config import config

Severity = Literal["warning", "error"]
STATUS: dict[Severity, int] = {"warning": 1, "error": 2}  # exit status of a command whose worst finding is this


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. An error ruins what is trained on it, a warning costs quality or is worth a look."""

    severity: Severity
    check: str  # its name: "action lag", "stuck keys", ...
    where: str  # a dataset's folder, or a shard and a clip in it
    message: str  # what is there, what there should be, what to do


@config
class Limits:
    """From where on something is a finding. The defaults let good recordings of desktops and games pass."""

    max_lag: int = 3  # frames that actions are looked for before and after their own frame
    lag_moves: int = 12  # movements of the pointer that an offset is judged by, at least
    pointer_seen: float = 0.5  # part of the movements that the screen must show where the rows say
    frozen: float = 0.005  # part of the movements during which the screen may stand still
    stuck_seconds: float = 10.0  # a key that is held so long up to the end was not released but lost
    idle_seconds: float = 10.0  # without input and without change
    idle_share: float = 0.9  # of all frames
    wheel_notches: float = 30.0  # in one frame; more is another unit
    coverage_frames: int = 500  # below it, what was not done may still come
    pointer_coverage: float = 0.25  # part of an 8x6 grid over the screen that the pointer must have been in
    keys_unused: float = 0.5  # part of the keys that may never be pressed
    clock_drift: float = 0.005  # relative error of the frame rate
    clock_gap: float = 1.5  # frame intervals between two frames; from there on one was dropped
    shared_screens: float = 0.5  # part of a held-out clip's screens that may be in the training set
    distinct_screens: int = 8  # fewer different screens say nothing about where a clip is from


def worst(findings: Sequence[Finding]) -> int:
    """The exit status: 0 without findings, 1 with warnings, 2 with errors."""
    return max((STATUS[finding.severity] for finding in findings), default=0)
