"""`python -m data_pipeline.coverage DATASET...`: what was done in recordings and what never was."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.lint.leakage import screen_hash
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset
from wm.batch import HELD, PRESSED

_GRID = (16, 12)  # cells over the screen, in which the pointer and the clicks are counted
_LISTED = 12  # names in a line of the report


@dataclass
class Coverage:
    """Of one dataset; shares are of its frames or of its cells, in [0, 1]."""

    folder: str
    num_clips: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    unchanged: float = 0.0  # frames that are as the one before, in every pixel
    idle: float = 0.0  # frames before which nothing was done
    unchanged_though_acted: float = 0.0  # frames that are as the one before although something was done
    pointer_cells: float = 0.0  # of a 16x12 grid, in which the pointer was
    pressed_cells: float = 0.0  # in which a button was pressed
    buttons: dict[str, int] = field(default_factory=dict)  # presses
    keys: dict[str, int] = field(default_factory=dict)
    wheel: float = 0.0  # notches
    events: dict[str, int] = field(default_factory=dict)  # transitions by kind, as far as the environment knew
    targets: dict[str, int] = field(default_factory=dict)  # how often each was used, those never used too
    screens: int | None = None  # that look different, where the frames were read


def coverage(dataset: Dataset, screens: bool = False) -> Coverage:
    """What `dataset` covers. Frames are decoded only to count `screens`."""
    found, space = Coverage(str(dataset.folder)), dataset.manifest.action_space
    events: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    cells = np.zeros((2, *_GRID), bool)
    looks: set[bytes] = set()
    for number, clip in enumerate(dataset.clips):
        rows, meta = dataset.rows(number), dataset.meta(number)
        changed, acted = np.asarray(clip.changed) > 0, _acted(rows, space.pointer)
        found.num_clips, found.num_frames = found.num_clips + 1, found.num_frames + clip.num_frames
        found.unchanged += float((~changed).sum())
        found.idle += float((~acted).sum())
        found.unchanged_though_acted += float((~changed & acted).sum())
        for name, names, counts in (("buttons", space.buttons, found.buttons), ("keys", space.keys, found.keys)):
            presses = rows[name][..., PRESSED].sum(0)
            counts.update({key: counts.get(key, 0) + int(n) for key, n in zip(names, presses, strict=True)})
        found.wheel += float(np.abs(rows["wheel"]).sum())
        events.update(kind for kinds in meta.get("events", ()) for kind in kinds)
        targets.update(_targets(meta, rows))
        _mark(cells, rows)
        if screens and dataset.manifest.kind == "video":
            looks.update(screen_hash(frame) for frame in dataset.frames(number))
    for share in ("unchanged", "idle", "unchanged_though_acted"):
        setattr(found, share, getattr(found, share) / max(found.num_frames, 1))
    found.seconds = found.num_frames / dataset.manifest.fps
    found.events, found.targets = dict(events.most_common()), dict(targets.most_common())
    if space.pointer == "absolute":
        found.pointer_cells, found.pressed_cells = float(cells[0].mean()), float(cells[1].mean())
    found.screens = len(looks) if screens and dataset.manifest.kind == "video" else None
    return found


def _acted(rows: dict[str, np.ndarray], pointer: str) -> np.ndarray:
    """(T,) whether anything was done between a frame and the one before it; what is held counts."""
    place = rows["pointer"]
    moved = np.zeros(len(place), bool)
    if pointer == "absolute":
        moved[1:] = (np.diff(place, axis=0) != 0).any(-1)
    elif pointer == "relative":
        moved = (place != 0).any(-1)
    used = [rows[name].reshape(len(place), -1).any(-1) for name in ("buttons", "keys", "wheel", "axes")]
    acted: np.ndarray = np.logical_or.reduce([moved, *used])
    return acted


def _targets(meta: dict[str, Any], rows: dict[str, np.ndarray]) -> Counter[str]:
    """How often each target was used: as the recorder noted it, or by what the pointer was over at each press."""
    if "targets" in meta:
        return Counter({name: used for name, (used, _) in meta["targets"].items()})
    pressed = rows["buttons"][..., PRESSED].sum(-1) > 0
    if "state" not in meta:
        return Counter()
    before = [state.get("hover") for state in meta["state"]]
    return Counter(
        " ".join(filter(None, hover)) for hover, press in zip(before, pressed, strict=True) if press and hover
    )


def _mark(cells: np.ndarray, rows: dict[str, np.ndarray]) -> None:
    columns, lines = np.clip((rows["pointer"] * _GRID).astype(int), 0, np.array(_GRID) - 1).T
    cells[0, columns, lines] = True
    pressed = (rows["buttons"][..., PRESSED] > 0).any(-1) | (rows["buttons"][..., HELD] > 0).any(-1)
    cells[1, columns[pressed], lines[pressed]] = True


def table(found: Coverage) -> Iterator[str]:
    """Lines for people."""
    yield f"{found.folder}: {found.num_clips} clips, {found.num_frames} frames, {found.seconds / 60:.1f} minutes"
    yield (
        f"  nothing changed in {found.unchanged:.1%} of the frames, nothing was done in {found.idle:.1%}, "
        f"what was done changed nothing in {found.unchanged_though_acted:.1%}"
    )
    yield f"  pointer    in {found.pointer_cells:.0%} of {_GRID[0]}x{_GRID[1]} cells, pressed in {found.pressed_cells:.0%}"
    for name, counts in (
        ("buttons", found.buttons),
        ("keys", found.keys),
        ("events", found.events),
        ("targets", found.targets),
    ):
        if counts:
            yield from _counted(name, counts)
    if found.wheel:
        yield f"  wheel      {found.wheel:g} notches"
    if found.screens is not None:
        yield f"  screens    {found.screens} that look different"


def _counted(name: str, counts: dict[str, int]) -> Iterator[str]:
    used = sorted((key for key in counts if counts[key]), key=lambda key: -counts[key])
    never = [key for key in counts if not counts[key]]
    most = ", ".join(f"{key} {counts[key]}" for key in used[:_LISTED])
    yield f"  {name:<10} {len(used)} of {len(counts)} used: {most or 'none'}{', ...' * (len(used) > _LISTED)}"
    if never:
        yield f"  {'':<10} never: {', '.join(never[:_LISTED])}{', ...' * (len(never) > _LISTED)}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.coverage", description=__doc__)
    parser.add_argument("datasets", type=Path, nargs="+", help="folders with dataset.json")
    parser.add_argument(
        "--screens", action="store_true", help="decode all frames and count screens that look different"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, a list of one tree a dataset")
    given = parser.parse_args(arguments)
    try:
        found = [coverage(Dataset.open(folder), given.screens) for folder in given.datasets]
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = [line for one in found for line in table(one)]
    print(json.dumps([asdict(one) for one in found], indent=1) if given.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
