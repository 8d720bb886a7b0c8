"""From the pixels of the recorded screen to those of a frame, and the cursor's shapes in them."""

from typing import Any

import numpy as np

from data_pipeline.environments.environment import CursorSprite
from data_pipeline.environments.x11_server import Cursor


def shrunk(image: np.ndarray, shrink: int) -> np.ndarray:
    """(H, W, C) uint8 -> (H / shrink, W / shrink, C), each pixel the mean of a square."""
    if shrink == 1:
        return image.copy()
    area = shrink * shrink
    total = np.full((image.shape[0] // shrink, image.shape[1] // shrink, image.shape[2]), area // 2, np.uint32)
    for place in range(area):
        total += image[place // shrink :: shrink, place % shrink :: shrink]
    return (total // area).astype(np.uint8)


def sprite(name: str, cursor: Cursor, shrink: int) -> CursorSprite:
    """`cursor` as a frame shows it: the pointer is always in the middle of a square of screen pixels, so it has one look."""
    height, width = cursor.rgba.shape[:2]
    x, y = ((shrink // 2 - hot) % shrink for hot in cursor.hotspot)
    rows, columns = (-(-(n + offset) // shrink) * shrink for n, offset in ((height, y), (width, x)))
    canvas = np.zeros((rows, columns, 4), np.uint8)
    canvas[y : y + height, x : x + width] = cursor.rgba
    small = shrunk(canvas, shrink).astype(np.float32)
    alpha = small[..., 3:] / 255
    colour = np.divide(small[..., :3], alpha, out=np.zeros_like(small[..., :3]), where=alpha > 0)
    rgba = np.concatenate([np.rint(colour).clip(0, 255), small[..., 3:]], -1).astype(np.uint8)
    hotspot = ((cursor.hotspot[0] + x) // shrink, (cursor.hotspot[1] + y) // shrink)
    return CursorSprite(name, hotspot, rgba)


def distinct(sprites: list[CursorSprite]) -> list[CursorSprite]:
    """The first of those that look alike."""
    found: dict[tuple[Any, ...], CursorSprite] = {}
    for sprite in sprites:
        found.setdefault((sprite.hotspot, sprite.rgba.shape, sprite.rgba.tobytes()), sprite)
    return list(found.values())
