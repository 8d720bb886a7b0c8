"""Checks of the frames: their size and range, pictures that stand still though the pointer moves, idle stretches."""

from collections.abc import Iterator

import numpy as np

from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Finding, Limits
from data_pipeline.lint.timing import far, radius, seen_at
from data_pipeline.schema import DatasetManifest


def size_and_rate(clip: Clip, manifest: DatasetManifest) -> Iterator[Finding]:
    """Every clip must have the size and the frame rate of its dataset."""
    if clip.video is not None and clip.video.shape[1:3] != (manifest.height, manifest.width):
        height, width = clip.video.shape[1:3]
        yield Finding(
            "error",
            "resolution",
            clip.where,
            f"frames are {width}x{height}, the dataset is {manifest.width}x{manifest.height}; a dataset has one size: "
            "bring the clip to it or put it into another dataset",
        )
    fps = float(clip.meta.get("fps", manifest.fps))
    if not np.isclose(fps, manifest.fps, rtol=1e-3):
        yield Finding(
            "error",
            "frame rate",
            clip.where,
            f"it has {fps:g} frames a second, the dataset {manifest.fps:g}; a dataset has one rate: bring the clip to it "
            "or put it into another dataset",
        )


def brightness(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """Frames that were fractions before they became bytes, or that show nothing at all."""
    if clip.video is None:
        return
    if clip.video.max() <= 1:
        yield Finding(
            "error",
            "ranges",
            clip.where,
            f"no pixel is above {clip.video.max()}; colours are 0 to 255: were they fractions that were cut off?",
        )
    elif not clip.changed.any() and clip.acted.any() and len(clip) > 1:
        yield Finding(
            "error",
            "frozen frames",
            clip.where,
            f"all {len(clip)} frames are the same, and there was input: a dead capture",
        )


def latent_values(clip: Clip, manifest: DatasetManifest) -> Iterator[Finding]:
    """Latents that are no numbers, or far from the statistics that they are normalised with."""
    if clip.latents is None or manifest.latents is None:
        return
    values = clip.latents.astype(np.float32)
    if not np.isfinite(values).all():
        yield Finding("error", "ranges", clip.where, "latents are not finite; encode the recordings again")
        return
    mean, std = (np.array(part, np.float32)[:, None, None] for part in (manifest.latents.mean, manifest.latents.std))
    size = float(np.sqrt(np.square((values - mean) / std).mean()))
    if not 0.1 < size < 10:
        yield Finding(
            "error",
            "ranges",
            clip.where,
            f"normalised latents have a root mean square of {size:.3g}, not about 1: statistics of another dataset or "
            "latents that were normalised twice; encode the recordings again",
        )


def frozen(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """Frames that repeat the one before though the pointer moved on, which the next frame shows at once."""
    if clip.video is None or clip.space.pointer != "absolute":
        return
    moved, near = far(clip), radius(clip)
    candidates = np.flatnonzero(moved[1:-1] & moved[2:] & (clip.changed[1:-1] == 0)) + 1
    still = [i for i in candidates.tolist() if seen_at(clip, i + 1, i - 1, near) and seen_at(clip, i + 1, i + 1, near)]
    if still and len(still) >= limits.frozen * moved.sum():
        yield Finding(
            "warning",
            "frozen frames",
            clip.where,
            f"{len(still)} frames repeat the one before while the pointer moves, the first is frame {still[0]}: the capture "
            "was slower than its clock",
        )


def idle(clip: Clip, limits: Limits) -> Iterator[Finding]:
    """The longest stretch in which nothing is done and nothing changes."""
    busy = np.flatnonzero(clip.acted | (clip.changed > 0))
    bounds = np.concatenate([[-1], busy, [len(clip)]])
    longest = int(np.diff(bounds).argmax())
    start, length = int(bounds[longest]) + 1, int(bounds[longest + 1] - bounds[longest]) - 1
    if length >= limits.idle_seconds * clip.fps:
        yield Finding(
            "warning",
            "idle",
            clip.where,
            f"nothing is done and nothing changes for {length / clip.fps:.1f} s from frame {start} on; cut it out",
        )


def idle_share(idle_frames: int, frames: int, where: str, limits: Limits) -> Iterator[Finding]:
    """Whether almost all of a dataset is rest."""
    if frames and idle_frames > limits.idle_share * frames:
        yield Finding(
            "warning",
            "idle",
            where,
            f"in {idle_frames / frames:.0%} of the frames nothing is done and nothing changes; set data.event_fraction, "
            "or record more that happens",
        )
