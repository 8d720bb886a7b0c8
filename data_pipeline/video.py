"""Frames to bytes and back (PyAV). The only file that knows codecs.

Screens need their colours whole: 4:2:0 costs about 9 dB on saturated interface colours, so both codecs here keep one
colour a pixel. Groups of pictures are short, so a window costs at most `GROUP - 1` frames more than its own.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, get_args

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

# "lossless" gives back every bit; "yuv444" is smaller and loses what no eye sees.
Codec = Literal["lossless", "yuv444"]
GROUP = 8  # frames from one keyframe to the next

_MAX_DENOMINATOR = 1001  # 30000/1001 is the rate that cameras call 29.97

_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"}),
    "yuv444": ("libx264", "yuv444p", {"crf": "10", "preset": "veryfast", "colorprim": "bt709", "trc": "bt709"}),
}


def encode(
    frames: np.ndarray,  # (T, H, W, 3) uint8
    fps: float,
    codec: Codec = "lossless",
) -> bytes:
    """An mp4 file of `frames`; the same frames give the same bytes."""
    if codec not in get_args(Codec):
        raise ValueError(f"codec {codec!r} is unknown; valid are {', '.join(get_args(Codec))}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; an mp4 needs uint8 (T, H, W, 3), T at least 1")
    name, pixel_format, options = _ENCODERS[codec]
    rate = Fraction(fps).limit_denominator(_MAX_DENOMINATOR)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # No B-frames: a window then ends where its last frame was read.
        stream: Any = container.add_stream(name, rate=rate, options={**options, "g": str(GROUP), "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.thread_count = 1  # the bytes would depend on the number of threads
        if codec == "yuv444":
            stream.codec_context.color_range, stream.codec_context.colorspace = ColorRange.JPEG, Colorspace.ITU709
        for picture in _pictures(frames, pixel_format):
            picture.time_base = 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out.getvalue()


def _pictures(frames: np.ndarray, pixel_format: str) -> Iterator[av.VideoFrame]:
    reformatter = VideoReformatter()
    for i, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if pixel_format != "rgb24":
            picture = reformatter.reformat(
                picture, format=pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.JPEG
            )
        picture.pts = i
        yield picture


def decode(
    data: bytes,
    start: int = 0,  # first frame wanted
    count: int | None = None,  # frames wanted; None is all that follow
) -> np.ndarray:
    """Frames (count, H, W, 3) uint8 of an mp4 file, exactly those; ValueError if the file does not have them."""
    if start < 0 or (count is not None and count < 1):
        raise ValueError(f"window start {start}, count {count}: a window starts at 0 or later and has at least 1 frame")
    frames: list[np.ndarray] = []
    try:
        for number, frame in _numbered(data, start):
            if number >= start:
                if number != start + len(frames):
                    raise ValueError(f"the video has no frame {start + len(frames)}")
                frames.append(frame)
            if len(frames) == count:
                break
    except av.error.FFmpegError as error:
        raise ValueError(f"the video cannot be decoded: {error}") from None
    if not frames or (count is not None and len(frames) < count):
        end = start + len(frames)
        raise ValueError(f"the video ends before frame {end}; {count or 1} frames from {start} were asked")
    return np.stack(frames)


def _numbered(data: bytes, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """(frame number, frame) from the keyframe at or before `start`."""
    reformatter = VideoReformatter()
    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.thread_count = 1  # the loader has its own threads; more of them only wait for each other
        rate, time_base = stream.average_rate, stream.time_base
        if start > 0:
            container.seek(round(start / rate / time_base), stream=stream, backward=True)
        for picture in container.decode(stream):
            yield round(picture.pts * time_base * rate), _to_rgb(picture, reformatter)


def _to_rgb(picture: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    if picture.format.name == "gbrp":  # planes are copied as they are: nothing to convert, nothing lost
        return picture.to_ndarray()
    rgb = reformatter.reformat(
        picture, format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.JPEG
    )
    return rgb.to_ndarray()
