"""Do actions and frames belong together: an offset between them, one that changes, and the recorder's own clock.

A pointer that moves far leaves two marks between two frames: where it was and where it is. In a recording that is right,
both are there at the row's own frame. The offset at which most movements leave both marks is where the rows belong.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Finding, Limits


@dataclass(frozen=True)
class Marks:
    """For each far movement of the pointer, at which offsets the screen shows it."""

    rows: np.ndarray  # (M,) the row of each movement
    seen: np.ndarray  # (M, 2 max_lag + 1) bool, from max_lag frames too early to max_lag too late


def radius(clip: Clip) -> int:
    """Pixels around the pointer's place in which its drawing is looked for."""
    assert clip.video is not None
    return max(2, clip.video.shape[2] // 100)


def far(clip: Clip) -> np.ndarray:
    """(T,) whether the pointer moved so far that its old and its new place can be told apart."""
    steps = np.abs(np.diff(clip.pixels, axis=0)).max(-1)
    return np.concatenate([[False], steps > 2 * radius(clip) + 1])


def seen_at(clip: Clip, frame: int, row: int, near: int) -> bool:
    """Whether `frame` differs from the one before it around the pointer's place of `row`."""
    x, y = clip.pixels[row]
    return bool(clip.differs[frame, max(0, y - near) : y + near + 1, max(0, x - near) : x + near + 1].any())


def marks(clip: Clip, limits: Limits) -> Marks:
    """What the screen shows of the pointer's far movements, for a clip with frames and an absolute pointer."""
    lags, near = range(-limits.max_lag, limits.max_lag + 1), radius(clip)
    rows = np.flatnonzero(far(clip))
    rows = rows[(rows > limits.max_lag) & (rows < len(clip) - limits.max_lag)]
    seen = [
        [all(seen_at(clip, row + lag, place, near) for place in (row, row - 1)) for lag in lags]
        for row in rows.tolist()
    ]
    return Marks(rows, np.array(seen, bool).reshape(len(rows), len(lags)))


def offset(all_marks: Sequence[Marks], where: str, limits: Limits) -> Iterator[Finding]:
    """One offset for a whole dataset, or a pointer that is not where the rows say."""
    seen = np.concatenate([marks.seen for marks in all_marks]) if all_marks else np.zeros((0, 1))
    if len(seen) < limits.lag_moves:
        return
    share = seen.mean(0)
    lag = int(share.argmax()) - limits.max_lag
    if share.max() < limits.pointer_seen:
        yield Finding(
            "warning",
            "pointer",
            where,
            f"the screen shows only {share.max():.0%} of {len(seen)} movements where the rows say: another unit or origin of "
            "the pointer, or a screen without its cursor",
        )
    elif lag:
        yield Finding("error", "action lag", where, _shifted(lag, f"{share.max():.0%} of {len(seen)} movements"))


def _shifted(lag: int, evidence: str) -> str:
    late = f"{abs(lag)} frame{'s' if abs(lag) > 1 else ''} {'after' if lag > 0 else 'before'} their row"
    way = "later" if lag > 0 else "earlier"
    return (
        f"{evidence} are seen {late}: row i must be what happened between frame i-1 and frame i; "
        f"move all rows {abs(lag)} {way}"
    )


def steps(clip: Clip, marks: Marks, limits: Limits) -> Iterator[Finding]:
    """An offset that changes inside a clip: frames that were dropped or written twice, or two clocks."""
    changes = [(a, b) for a, b in itertools.pairwise(_offsets(marks, limits)) if a[1] != b[1]]
    jumps = [b[1] - a[1] for a, b in changes]
    if not jumps:
        return
    first = f"between frames {changes[0][0][0]} and {changes[0][1][0]}"
    one_way = all(jump > 0 for jump in jumps) or all(jump < 0 for jump in jumps)
    if len(jumps) > 1 and one_way:
        yield Finding(
            "error",
            "clock drift",
            clip.where,
            f"actions move against the frames by {sum(jumps):+d} over the clip, first {first}: two clocks, or a wrong frame "
            "rate; resample one to the other",
        )
    else:
        what = "dropped" if jumps[0] < 0 else "written twice"
        yield Finding(
            "error",
            f"{'dropped' if jumps[0] < 0 else 'duplicated'} frames",
            clip.where,
            f"{abs(jumps[0])} frame{'s were' if abs(jumps[0]) > 1 else ' was'} {what} {first}, and all actions after it "
            "belong to other frames; record or import the clip again",
        )


def _offsets(marks: Marks, limits: Limits) -> list[tuple[int, int]]:
    """(row, offset) for each run of movements whose offset is plain."""
    found = []
    for start in range(0, len(marks.rows) - limits.lag_moves + 1, limits.lag_moves):
        run = slice(start, start + limits.lag_moves)
        share = marks.seen[run].mean(0)
        second, best = np.sort(share)[-2:]
        if best >= 0.8 and best - second >= 0.3:
            found.append((int(marks.rows[run][limits.lag_moves // 2]), int(share.argmax()) - limits.max_lag))
    return found


def clock(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """The times at which frames were taken, where a recorder wrote them: gaps, and a rate that is not the one promised."""
    if "times" not in clip.meta or len(clip) < 2:
        return
    times = np.asarray(clip.meta["times"], np.float64)
    gaps = np.diff(times) * clip.fps
    late = np.flatnonzero((gaps >= limits.clock_gap) | (gaps <= 0))
    if len(late):
        yield Finding(
            "error",
            "dropped frames",
            clip.where,
            f"{len(late)} frames come at the wrong time, the first is frame {late[0] + 1}, {gaps[late[0]] / clip.fps:.3f} s "
            f"after the one before it instead of {1 / clip.fps:.3f} s",
        )
    drift = np.median(gaps) - 1
    if abs(drift) > limits.clock_drift:
        yield Finding(
            "error",
            "clock drift",
            clip.where,
            f"frames come at {clip.fps / (1 + drift):.4g} a second, the dataset says {clip.fps:g}",
        )
