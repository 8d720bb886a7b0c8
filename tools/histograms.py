"""How often what is in a dataset, as bars of text: lengths, how much changes, keys and buttons, where the pointer is."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from data_pipeline.shards import Dataset
from wm.batch import PRESSED

_BAR = 40  # characters of the longest bar
_SHADES = " .:-=+*#%@"  # from never to most often
_EDGES = (0.0, 1e-9, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.01)  # part of the pixels that changed


def histograms(dataset: Dataset) -> Iterator[str]:
    """Lines; every clip's rows are read, no frame is decoded."""
    space, clips = dataset.manifest.action_space, range(len(dataset.clips))
    lengths = Counter(clip.num_frames for clip in dataset.clips)
    yield from bars("frames of a clip", {str(length): lengths[length] for length in sorted(lengths)})
    changed = np.concatenate([np.asarray(clip.changed) for clip in dataset.clips] or [np.zeros(0)])
    counts, _ = np.histogram(changed, _EDGES)
    names = ["nothing", *(f"up to {edge:.1%}" for edge in _EDGES[2:-1]), "more"]
    yield from bars("pixels changed", dict(zip(names, counts.tolist(), strict=True)))
    rows = [dataset.rows(clip) for clip in clips]
    for kind, channels in (("buttons", space.buttons), ("keys", space.keys)):
        presses = np.sum([row[kind][..., PRESSED].sum(0) for row in rows], axis=0)
        if channels and len(rows):
            yield from bars(f"{kind} pressed", dict(zip(channels, presses.astype(int).tolist(), strict=True)))
    if space.pointer == "absolute" and rows:
        yield from _map(np.concatenate([row["pointer"] for row in rows]))


def bars(title: str, counts: Mapping[str, int]) -> list[str]:
    """A title and a bar a line."""
    most = max(counts.values(), default=0)
    width = max((len(name) for name in counts), default=0)
    lines = [
        f"  {name:<{width}}  {n:>8}  {'#' * round(_BAR * n / max(most, 1))}".rstrip() for name, n in counts.items()
    ]
    return [title, *lines]


def _map(
    pointer: np.ndarray,  # (N, 2) fractions of the screen
) -> Iterator[str]:
    """Where the pointer was, the screen as 12 lines of 32 characters."""
    counts, _, _ = np.histogram2d(pointer[:, 1], pointer[:, 0], bins=(12, 32), range=((0, 1), (0, 1)))
    shade = np.ceil(np.sqrt(counts / max(counts.max(), 1)) * (len(_SHADES) - 1)).astype(int)
    yield "pointer, the screen from above"
    yield from ("  |" + "".join(_SHADES[i] for i in line) + "|" for line in shade)
