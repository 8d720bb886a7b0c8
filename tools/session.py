"""One play of a world: the model's dream of it and, where there is one, the real environment on the same input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from data_pipeline.controls import Controls, ControlsLog
from data_pipeline.environments.environment import Environment
from tools.actions import Beginning
from wm.batch import ActionSpace
from wm.config import to_dict

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Context:
    """The past that a session begins from; its last frame is the first that a person sees."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    rows: Rows  # each (T, ...), as data_pipeline.schema has them
    pointer: tuple[int, int]  # pixel where the pointer is in the last frame


class Dream(Protocol):
    """What draws the next frame: a model, or an environment that stands in for one."""

    def reset(self, begin: Beginning, context: Context) -> np.ndarray:
        """The frame (H, W, 3) uint8 that play begins from."""
        ...

    def step(self, controls: Controls, row: Rows) -> np.ndarray:
        """The next frame (H, W, 3) uint8. `row` is `controls` as the model knows them."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Game:
    """A world that can be played, opened once and shared by all its sessions."""

    name: str
    space: ActionSpace
    width: int
    height: int
    context_frames: int  # frames of the past that a session needs
    models: Mapping[str, int]  # "student", "teacher" -> number of steps that it takes by itself
    open_dream: Callable[[], Dream] | None  # None: the environment itself is played, and nothing runs beside it
    open_environment: Callable[[], Environment] | None = None
    starts: tuple[Context, ...] = ()
    repeats: bool = True  # whether the environment's seed gives the same frames again

    def __post_init__(self) -> None:
        ControlsLog(self.space, self.width, self.height)  # ValueError for an action space that a page cannot serve

    @property
    def usual(self) -> Beginning:
        """Where play begins when nobody says where."""
        recorded = bool(self.starts) and (self.open_environment is None or not self.repeats)
        return Beginning(start=0 if recorded else None, model="student" if "student" in self.models else "teacher")

    def about(self) -> dict[str, object]:
        """What a page must know of this world, JSON-able."""
        return {
            "world": self.name,
            "width": self.width,
            "height": self.height,
            "space": to_dict(self.space),
            "models": dict(self.models),
            "num_starts": len(self.starts),
            "environment": self.open_environment is not None,
            "dreams": self.open_dream is not None,
            "begin": to_dict(self.usual),
        }

    def check(self, begin: Beginning) -> None:
        """ValueError in one line where this world cannot begin so."""
        if begin.model not in self.models:
            raise ValueError(f"this artifact has no {begin.model}; it has {', '.join(self.models)}")
        if begin.start is None and self.open_environment is None:
            raise ValueError(f"the real environment is not here to begin from; give start 0 to {len(self.starts) - 1}")
        if begin.start is not None and self.open_dream is None:
            raise ValueError("an environment begins by itself: give start null")
        if begin.start is not None and begin.start >= len(self.starts):
            raise ValueError(f"start is {begin.start}; this artifact has {len(self.starts)} starts, counted from 0")


class EnvironmentSession:
    """The real thing. Also where the past of a dream comes from, so both begin from the same frames."""

    def __init__(self, environment: Environment, context_frames: int) -> None:
        self.environment, self.context_frames = environment, context_frames
        self.info: dict[str, Any] = {}  # what the environment says of its last frame
        self.ended = False  # whether its episode is over

    def reset(self, seed: int) -> Context:
        """The environment begun from `seed` and left alone until there is enough past."""
        frame, info = self.environment.reset(seed=seed)
        height, width = frame.shape[:2]
        rest = Controls(pointer=(int(info["pointer"][0]), int(info["pointer"][1])))
        self.info, self.ended = info, False
        frames = [frame]
        frames += [self.step(rest) for _ in range(self.context_frames - 1)]
        log = ControlsLog(self.environment.action_space, width, height)
        rows = [log.row(rest) for _ in frames]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return Context(np.stack(frames), stacked, rest.pointer)

    def step(self, controls: Controls) -> np.ndarray:
        """The next frame (H, W, 3) uint8."""
        frame, _, terminated, truncated, self.info = self.environment.step(controls)
        self.ended = terminated or truncated
        return frame

    def close(self) -> None:
        self.environment.close()


class EnvironmentDream:
    """An environment in the place of a model: for playing it by hand, and for trying all that is around a model."""

    def __init__(self, environment: Environment, context_frames: int) -> None:
        self._session = EnvironmentSession(environment, context_frames)

    def reset(self, begin: Beginning, context: Context) -> np.ndarray:
        return self._session.reset(begin.seed).frames[-1]

    def step(self, controls: Controls, row: Rows) -> np.ndarray:
        return self._session.step(controls)

    def close(self) -> None:
        self._session.close()


class Player:
    """One session. Its owner calls `prepare` and `dream_from` to begin; then for each frame `fold`, `dream` and `real`.

    The server runs what dreams on one thread and what is real on another, batch one after the other: the frames are the
    same. `close_dream` and `close_real` belong to those threads too.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.log = ControlsLog(game.space, game.width, game.height)
        self.has_real = False
        self._dream: Dream | None = None
        self._environment: EnvironmentSession | None = None

    def prepare(self, begin: Beginning) -> Context:
        """The past to begin from: a recorded one, or the real environment's, which then runs along."""
        self.game.check(begin)
        self.log = ControlsLog(self.game.space, self.game.width, self.game.height)
        self.has_real = begin.start is None
        if begin.start is not None:
            return self.game.starts[begin.start]
        if self._environment is None:
            assert self.game.open_environment is not None  # Game.check has refused it otherwise
            self._environment = EnvironmentSession(self.game.open_environment(), self.game.context_frames)
        return self._environment.reset(begin.seed)

    def dream_from(self, begin: Beginning, context: Context) -> np.ndarray:
        """The first frame (H, W, 3) uint8."""
        if self.game.open_dream is None:
            return context.frames[-1]
        if self._dream is None:
            self._dream = self.game.open_dream()
        return self._dream.reset(begin, context)

    def fold(self, controls: Controls) -> Rows:
        """`controls` as a row of the action log; ValueError, and nothing has changed, where the world has them not."""
        held = dict(self.log.held)
        try:
            return self.log.row(controls)
        except ValueError:
            self.log.held = held
            raise

    def check(self, controls: Controls) -> None:
        """ValueError where `fold` would raise it."""
        held = dict(self.log.held)
        try:
            self.log.row(controls)
        finally:
            self.log.held = held

    def dream(self, controls: Controls, row: Rows) -> np.ndarray:
        """The next frame (H, W, 3) uint8 as the model draws it."""
        assert self._dream is not None, "dream_from comes first"
        return self._dream.step(controls, row)

    def real(self, controls: Controls) -> np.ndarray | None:
        """The same frame of the real environment; None where it does not run along."""
        if not self.has_real or self._environment is None:
            return None
        return self._environment.step(controls)

    @property
    def info(self) -> dict[str, Any]:
        """What the environment says of its last frame, where it is what is played."""
        return {} if self._environment is None or self.game.open_dream is not None else self._environment.info

    @property
    def ended(self) -> bool:
        """Whether the episode of an environment that is played is over."""
        return self._environment is not None and self.game.open_dream is None and self._environment.ended

    def close_dream(self) -> None:
        """Let go of the model's memory."""
        if self._dream is not None:
            self._dream.close()
            self._dream = None

    def close_real(self) -> None:
        """Let go of the environment."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None
