"""Anybody's video file: when its frames are shown, and the frames in colours as the file says they are meant.

`data_pipeline/video.py` writes and reads our own; this one only reads, and trusts nothing: every frame that the
container lists must come out of the decoder, or the file is bad.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_pipeline.importing.recording import BadEpisode


@dataclass(frozen=True)
class Film:
    """A video as its container describes it."""

    file: Path | bytes
    height: int
    width: int
    fps: float  # nominal
    stamps: np.ndarray  # (T,) int64, ascending, in units of `unit`
    unit: float  # seconds

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def times(self) -> np.ndarray:
        """(T,) seconds from the first frame to each."""
        return (self.stamps - self.stamps[0]) * self.unit

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames [start, stop) as (H, W, 3) uint8; BadEpisode where the file does not give them."""
        wanted = self.stamps[start:stop]
        place = 0
        try:
            for stamp, frame in self._decoded(int(wanted[0]) if start else None):
                if place < len(wanted) and stamp == wanted[place]:
                    yield frame
                    place += 1
                if place == len(wanted):
                    return
        except av.error.FFmpegError as error:
            raise BadEpisode(f"cannot be decoded after frame {start + place}: {error}") from None
        raise BadEpisode(f"only {place} of the frames {start} to {start + len(wanted) - 1} can be decoded")

    def _decoded(self, seek: int | None) -> Iterator[tuple[int | None, np.ndarray]]:
        with _opened(self.file) as container:
            stream: Any = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if seek is not None:
                container.seek(seek, stream=stream, backward=True)
            for picture in container.decode(stream):
                if picture.is_corrupt:  # the decoder has put something in the place of what it could not read
                    raise BadEpisode(f"is damaged at {(picture.pts or 0) * self.unit:.2f} s")
                yield picture.pts, picture.to_ndarray(format="rgb24")


def open_film(file: Path | bytes) -> Film:
    """The film in a file or its bytes; BadEpisode for what is none. Reads the container, decodes nothing."""
    try:
        with _opened(file) as container:
            if not container.streams.video:
                raise BadEpisode("has no video stream")
            stream: Any = container.streams.video[0]
            packets = container.demux(stream)
            stamps = sorted(p.pts for p in packets if p.pts is not None and p.size and not p.is_discard)
            unit, rate = float(stream.time_base), stream.average_rate
            height, width = stream.height, stream.width
    except (av.error.FFmpegError, OSError) as error:
        raise BadEpisode(f"is not a video that can be read: {error}") from None
    if not stamps or not rate:
        raise BadEpisode("has no frames with time stamps")
    return Film(file, height, width, float(rate), np.array(stamps, np.int64), unit)


def _opened(file: Path | bytes) -> Any:
    return av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file), "r")
