"""Where a run's numbers and pictures go: metrics.jsonl and TensorBoard event files. The only user of tensorboard.

A log is never worth a run: a full disk or an unwritable folder gives one warning, and writing is tried again.
"""

import errno
import io
import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from wm.engine import failpoints
from wm.engine.world import World

logger = logging.getLogger(__name__)

WARNING_SECONDS = 600.0  # between two warnings about the same trouble


class MetricsLog:
    """One run's log; only rank 0 writes. Rows of metrics.jsonl are appended: a later row of a step replaces an earlier.

    `first_step` tells TensorBoard to forget what a run that was killed showed from that step on.
    """

    def __init__(self, folder: Path, world: World, first_step: int = 0):
        self._folder = folder
        self._writes = world.rank == 0
        self._first_step = first_step
        self._events: _EventFile | None = None
        self._warned_at = -math.inf

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row and one scalar each. A number that is not finite is null in the row and absent in TensorBoard."""
        row = {"step": step} | {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._try(lambda: self._append(row))
        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in metrics.items() if math.isfinite(value)
        ]
        self._try(lambda: self._write(Event(step=step, wall_time=time.time(), summary=Summary(value=values))))

    def pictures(self, step: int, pictures: Mapping[str, Tensor], fps: float = 8.0) -> None:
        """Pictures (C, H, W) and videos (T, C, H, W) in [0, 1], C 1 or 3; videos as animated GIF."""
        if not self._writes or not pictures:
            return
        values = [Summary.Value(tag=name, image=_image(name, value, fps)) for name, value in pictures.items()]
        self._try(lambda: self._write(Event(step=step, wall_time=time.time(), summary=Summary(value=values))))

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _append(self, row: Mapping[str, Any]) -> None:
        failpoints.reach("metrics.row")
        self._folder.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(row) + "\n").encode()
        with open(self._folder / "metrics.jsonl", "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if file.write(line) != len(line):  # a disk that became full: the next row must not begin in this one
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)

    def _write(self, event: Event) -> None:
        if self._events is None:
            self._events = _EventFile(self._folder, self._first_step)
        self._events.write(event)

    def _try(self, action: Callable[[], None]) -> None:
        if not self._writes:
            return
        try:
            action()
        except OSError as error:
            self._events = None  # a record may be torn, so the next one goes into a new file
            if time.monotonic() - self._warned_at > WARNING_SECONDS:
                self._warned_at = time.monotonic()
                logger.warning("metrics of this run cannot be written (%s); training goes on without them", error)


class _EventFile:
    """One TensorBoard file, written and flushed in the calling thread, so that errors are seen where they happen."""

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        nanoseconds = time.time_ns()
        name = f"events.out.tfevents.{nanoseconds // 10**9}.{socket.gethostname()}.{os.getpid()}.{nanoseconds}"
        self._file = open(folder / name, "wb")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self.write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step:
            start = SessionLog(status=SessionLog.START)
            self.write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def _image(name: str, value: Tensor, fps: float) -> Summary.Image:
    if value.ndim not in (3, 4) or value.shape[-3] not in (1, 3):
        raise ValueError(
            f"picture {name} has shape {tuple(value.shape)}; needed is (C, H, W) or (T, C, H, W) with C 1 or 3"
        )
    frames = _to_bytes(value if value.ndim == 4 else value[None])
    data = _gif(frames, fps) if value.ndim == 4 else _png(frames[0])
    return Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=data)


def _to_bytes(frames: Tensor) -> np.ndarray:
    """(T, H, W, 3) uint8 of (T, C, H, W) in [0, 1]."""
    pixels = (frames.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _png(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, format="PNG")
    return out.getvalue()


def _gif(frames: np.ndarray, fps: float) -> bytes:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    out = io.BytesIO()
    first.save(out, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return out.getvalue()
