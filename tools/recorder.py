"""What was done since a session began, and the film of it that a person asked for."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipeline.controls import Controls
from tools.actions import Beginning, Header, write
from tools.film import Film
from tools.session import Game

MAX_ROWS = 36_000  # an hour at ten frames a second is kept for replay; a longer session must begin again to be recorded


class Recording(Protocol):
    """What keeps a session: `begin`, then `add` for each frame; `start` and `stop` any time between."""

    redacts: bool  # whether typed text is being replaced

    @property
    def on(self) -> bool: ...

    @property
    def full(self) -> bool:
        """Whether it can take no more."""
        ...

    def begin(self, begin: Beginning) -> None: ...

    def start(self) -> None:
        """Keep from the next frame on. OSError or ValueError where that cannot be."""
        ...

    def add(self, controls: Controls, frame: np.ndarray, info: dict[str, Any]) -> None: ...

    def stop(self) -> tuple[Path, Path] | None:
        """The two files that were written, or None where nothing was kept."""
        ...


class Recorder:
    """One session's log. `begin`, then `add` for each frame; `start` and `stop` any time between."""

    def __init__(self, game: Game, folder: Path) -> None:
        self.game, self.folder = game, folder
        self.redacts = False
        self._film: Film | None = None
        self._controls: list[Controls] = []
        self._skip = 0
        self._begin = game.usual

    @property
    def on(self) -> bool:
        return self._film is not None

    @property
    def full(self) -> bool:
        """Whether the film or the log can take no more."""
        return len(self._controls) >= MAX_ROWS or (self._film is not None and self._film.full)

    def begin(self, begin: Beginning) -> None:
        """A new session: nothing has been done yet. A film that runs must have been stopped before."""
        assert self._film is None
        self._begin = begin
        self._controls = []

    def start(self) -> None:
        """Film from the next frame on. ValueError where the log does not go back to the beginning any more."""
        if self.full:
            raise ValueError(f"only the first {MAX_ROWS} frames of a session can be recorded: reset, then record")
        if self._film is None:
            self._film = Film(self.folder, self.game.height, self.game.width)
            self._skip = len(self._controls)

    def add(self, controls: Controls, frame: np.ndarray, info: dict[str, Any]) -> None:
        """One frame (H, W, 3) uint8 and what led to it; what the world says of it is not kept."""
        if self.full:
            return
        self._controls.append(controls)
        if self._film is not None:
            self._film.append(frame)

    def stop(self) -> tuple[Path, Path] | None:
        """The action file and the mp4 that were written, or None where nothing was filmed."""
        film, self._film = self._film, None
        if film is None:
            return None
        try:
            if film.num_frames == 0:
                return None
            return self._save(film)
        finally:
            film.close()

    def _save(self, film: Film) -> tuple[Path, Path]:
        actions, video = self._names()
        try:
            film.save(video, self.game.space.fps)
            header = Header(begin=self._begin, skip=self._skip, world=self.game.name)
            write(actions, header, self._controls[: self._skip + film.num_frames])
        except OSError:
            actions.unlink(missing_ok=True)
            raise
        return actions, video

    def _names(self) -> tuple[Path, Path]:
        """Names that no file has; two sessions may stop in the same second."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", self.game.name) or "world"
        stem, number = f"{name}-{datetime.now():%Y%m%d-%H%M%S}", 1
        while True:
            actions = self.folder / f"{stem}-{number}.jsonl"
            try:
                actions.touch(exist_ok=False)
                return actions, actions.with_suffix(".mp4")
            except FileExistsError:
                number += 1
