"""Videos whose every frame says its own number, in blocks of black and white that any codec keeps."""

import io
from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH, BITS = 48, 64, 8  # the number stands in binary in the upper half, one block a bit


def numbered(numbers: range | list[int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(T, H, W, 3) uint8 frames that show `numbers`, each below 2 ** BITS; the lower half is grey."""
    frames = np.full((len(numbers), height, width, 3), 90, np.uint8)
    size = width // BITS
    for i, number in enumerate(numbers):
        for bit in range(BITS):
            frames[i, : height // 2, bit * size : (bit + 1) * size] = 230 if number >> bit & 1 else 20
    return frames


def read_number(frame: np.ndarray) -> int:
    """The number that a frame of any size shows."""
    height, width = frame.shape[:2]
    centres = (np.arange(BITS) * 2 + 1) * width // (2 * BITS)
    return int(sum(int(frame[height // 4, column].mean() > 125) << bit for bit, column in enumerate(centres)))


def film(
    frames: np.ndarray, fps: float, codec: str = "mpeg4", stamps: list[int] | None = None, container: str = "mp4"
) -> bytes:
    """A file as other people's tools write it: 4:2:0, B-frames where the codec has them; `stamps` in 1/1000 s."""
    rate = Fraction(fps).limit_denominator(1001)
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts = i if stamps is None else stamps[i]
            picture.time_base = 1 / rate if stamps is None else Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    return out.getvalue()
