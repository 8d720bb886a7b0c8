"""One frame as bytes that a browser draws, and back."""

import io

import numpy as np
from PIL import Image

from tools.messages import Codec

_OPTIONS: dict[Codec, tuple[str, dict[str, int | bool]]] = {
    "jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),  # 4:4:4: halved colours smear a desktop's edges
    "webp": ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
    "png": ("PNG", {"compress_level": 1}),
}


def encode(
    frame: np.ndarray,  # (H, W, 3) uint8
    codec: Codec,
) -> bytes:
    """An image file; webp and png give back every bit."""
    name, options = _OPTIONS[codec]
    out = io.BytesIO()
    Image.fromarray(frame).save(out, name, **options)
    return out.getvalue()


def decode(data: bytes) -> np.ndarray:
    """The frame (H, W, 3) uint8 of an image file that `encode` made."""
    return np.asarray(Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "PNG")).convert("RGB"))
