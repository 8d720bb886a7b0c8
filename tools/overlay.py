"""Frames with what the hand did drawn on them: where the pointer is, what is pressed, which keys are held."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline import video
from data_pipeline.schema import Sample
from wm.batch import HELD, PRESSED, RELEASED, ActionSpace

STRIP = 28  # pixels under the frame, for words
_LEAST_WIDTH = 320  # a smaller screen is drawn larger, by a whole number
_TRAIL = 6  # frames of the pointer's way
_POINTER, _PRESS, _RELEASE = (255, 60, 60), (255, 220, 0), (0, 200, 255)


def drawn(sample: Sample, space: ActionSpace) -> np.ndarray:
    """(T, H', W', 3) uint8: the frames of a clip, enlarged where they are small, with their actions on and under them.

    A yellow ring is a press, a blue one a release; the red line is where the pointer came from.
    """
    if sample.video is None:
        raise ValueError(f"{sample.key} holds latents; actions are drawn on frames: give the recordings' folder")
    return np.stack([_frame(sample, space, i) for i in range(len(sample))])


def words(sample: Sample, space: ActionSpace, frame: int) -> str:
    """What was done up to `frame` since the one before it: "left held, KeyA pressed, wheel 0 -1"."""
    said = []
    for rows, names in ((sample.actions["buttons"][frame], space.buttons), (sample.actions["keys"][frame], space.keys)):
        for row, name in zip(rows, names, strict=True):
            edges = [word for word, place in (("pressed", PRESSED), ("released", RELEASED)) if row[place]]
            said += [f"{name} {' and '.join(edges)}"] if edges else [f"{name} held"] if row[HELD] else []
    if sample.actions["wheel"][frame].any():
        said.append("wheel {:g} {:g}".format(*sample.actions["wheel"][frame]))
    said += [
        f"{name} {value:+.2f}" for name, value in zip(space.axes, sample.actions["axes"][frame], strict=True) if value
    ]
    return ", ".join(said)


def save(frames: np.ndarray, fps: float, path: Path) -> None:
    """Write `frames` (T, H, W, 3) uint8 as an mp4 or as an animated webp, gif or png, as `path` is called."""
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        path.write_bytes(video.encode(frames, fps, "yuv444"))
    elif suffix in (".webp", ".gif", ".png"):
        first, *rest = (Image.fromarray(frame) for frame in frames)
        out = io.BytesIO()
        kind = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG"}[suffix]
        first.save(out, kind, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
        path.write_bytes(out.getvalue())
    else:
        raise ValueError(f"{path}: a clip can be an .mp4, .webp, .gif or .png")


def _frame(sample: Sample, space: ActionSpace, i: int) -> np.ndarray:
    assert sample.video is not None
    height, width = sample.video.shape[1:3]
    scale = max(1, -(-_LEAST_WIDTH // width))
    picture = Image.new("RGB", (width * scale, (height * scale + STRIP + 1) // 2 * 2))
    screen = Image.fromarray(sample.video[i]).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    picture.paste(screen, (0, 0))
    draw = ImageDraw.Draw(picture)
    if space.pointer == "absolute":
        _draw_pointer(draw, sample, i, (width * scale, height * scale))
    events = " ".join(sample.meta["events"][i]) if "events" in sample.meta else ""
    draw.text((4, height * scale + 1), f"{i}  {words(sample, space, i)}", fill=(255, 255, 255))
    draw.text((4, height * scale + 14), events, fill=_PRESS)
    return np.asarray(picture)


def _draw_pointer(draw: ImageDraw.ImageDraw, sample: Sample, i: int, size: tuple[int, int]) -> None:
    way = [tuple(place) for place in (sample.actions["pointer"][max(0, i - _TRAIL) : i + 1] * size).tolist()]
    if len(way) > 1:
        draw.line(way, fill=_POINTER, width=1)
    x, y = way[-1]
    for radius, colour in _rings(sample.actions["buttons"][i]):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)
    draw.line((x - 4, y, x + 4, y), fill=_POINTER)
    draw.line((x, y - 4, x, y + 4), fill=_POINTER)


def _rings(buttons: np.ndarray) -> Iterator[tuple[int, tuple[int, int, int]]]:
    if buttons[:, PRESSED].any():
        yield 9, _PRESS
    if buttons[:, RELEASED].any():
        yield 13, _RELEASE
    if buttons[:, HELD].any():
        yield 6, _POINTER
