"""Any Gymnasium environment that draws itself, as one of ours: keys or axes become its actions.

gymnasium is an optional extra (`pip install 'wm[games]'`) and is loaded when an environment is built. So are the packages
that bring environments of their own, by gymnasium itself and only for an id of theirs: nothing here imports them, and the
one with another licence than ours (Atari's, GPL) is an extra by itself.
"""

from dataclasses import field
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.environment import CursorSprite, Target
from wm.batch import ActionSpace
from wm.config import config

# How an id begins -> the module that makes it known, and the extra that brings it.
_BRINGERS = {
    "MiniGrid-": ("minigrid", "games"),
    "BabyAI-": ("minigrid", "games"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "games"),
    "ALE/": ("ale_py", "atari"),
}

# For a Discrete space whose config names no keys: action i is the i-th of these.
KEYS = (*(f"Digit{i}" for i in range(10)), *(f"Key{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))


@config
class GymnasiumConfig:
    """Which environment, at what size and rate, and what its keys do.

    Without `keys` a Discrete action space has one key an action, and a Box has one axis a number. The actions of keys that
    are down together add up within the bounds of the space; of a Discrete space the first key in `keys` that is down decides.
    """

    kind: Literal["gymnasium"] = "gymnasium"
    id: str  # as in gymnasium.make: "CarRacing-v3", "VizdoomBasic-MultiBinary-v1", "ALE/Pong-v5"
    arguments: dict[str, Any] = field(default_factory=dict)  # more of gymnasium.make
    keys: dict[str, tuple[float, ...]] = field(default_factory=dict)  # key -> action: [-1, 0, 0], or [2] if Discrete
    idle: tuple[float, ...] = ()  # the action while no key is down; empty is the one nearest to zero
    height: int = 0  # pixels that a frame is scaled to; 0 is as it is drawn
    width: int = 0
    repeat: int = 1  # steps of the environment from one frame to the next
    fps: float = 0.0  # frames a second; 0 is the environment's own rate divided by `repeat`
    restart: bool = False  # begin a new episode in the middle of a recording instead of ending the recording

    def __post_init__(self) -> None:
        if ":" in self.id or set(self.arguments) & {"id", "render_mode"}:
            raise ValueError(
                f"id is {self.id!r}: give the id alone, without a module, and no id or render_mode in arguments"
            )
        if min(self.height, self.width, self.fps) < 0 or self.repeat < 1 or bool(self.height) != bool(self.width):
            raise ValueError("height and width are both above 0 or both 0, fps is not negative, repeat is at least 1")

    def build(self) -> "GymnasiumWorld":
        return GymnasiumWorld(self)


class GymnasiumWorld:
    """An Environment without a pointer. Its `info` has the reward as "state" and "end" or "restart" as "events"."""

    def __init__(self, config: GymnasiumConfig) -> None:
        self.config = config
        self._env, self.version = _made(config)
        self.name = config.id
        self._space = _Actions(self._env.action_space, config)
        fps = config.fps or float(self._env.metadata.get("render_fps") or 0) / config.repeat
        if not fps:
            raise ValueError(f"{config.id} does not say its frame rate: set fps")
        self.action_space = ActionSpace(pointer="none", keys=self._space.keys, axes=self._space.axes, fps=fps)
        self._held: set[str] = set()
        self._frame = np.zeros((1, 1, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first frame of an episode; `options` go to the environment."""
        self._env.reset(seed=seed, options=options)
        self._held = set()
        self._draw()
        return self.render(), self._info(0.0, [])

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """`repeat` steps of the environment with what was down at any time of the interval."""
        values = self._space.action(self._pressed(action.events), action.axes)
        reward, ended, events = 0.0, (False, False), []
        for _ in range(self.config.repeat):
            _, gain, *ends, _ = self._env.step(values)
            reward += float(cast("float", gain))
            ended = (bool(ends[0]), bool(ends[1]))
            if any(ended):
                events.append("restart" if self.config.restart else "end")
                break
        if any(ended) and self.config.restart:
            self._env.reset()
            ended = (False, False)
        self._draw()
        return self.render(), 0.0, *ended, self._info(reward, events)

    def render(self) -> np.ndarray:
        return self._frame.copy()

    def close(self) -> None:
        self._env.close()

    def cursors(self) -> list[CursorSprite]:
        """None: nothing points."""
        return []

    def targets(self) -> list[Target]:
        """Unknown: an environment does not say what is where."""
        return []

    def _pressed(self, events: tuple[Event, ...]) -> set[str]:
        """Keys that come down in the interval, even if they are let go in it, and those that stay down."""
        for event in events:
            if event.kind == "wheel" or event.target not in self._space.keys:
                raise ValueError(
                    f"{event.kind} of {event.target!r}: {self.name} has only the keys {list(self._space.keys)}"
                )
        for event in events:
            self._held = self._held | {event.target} if event.kind == "press" else self._held - {event.target}
        return self._held | {event.target for event in events if event.kind == "press"}

    def _draw(self) -> None:
        drawn = np.asarray(self._env.render())
        if drawn.ndim != 3 or drawn.shape[-1] != 3 or drawn.dtype != np.uint8:
            raise ValueError(f"{self.name} draws {drawn.dtype} {drawn.shape}, need uint8 (height, width, 3)")
        size = (self.config.width, self.config.height)
        if self.config.height and drawn.shape[:2] != size[::-1]:
            drawn = np.asarray(Image.fromarray(drawn).resize(size, Image.Resampling.BOX))
        self._frame = np.ascontiguousarray(drawn)

    def _info(self, reward: float, events: list[str]) -> dict[str, Any]:
        height, width = self._frame.shape[:2]
        return {"pointer": (width // 2, height // 2), "events": events, "state": {"reward": reward}}


class _Actions:
    """Keys and axes to the actions of a Gymnasium space."""

    def __init__(self, space: Any, config: GymnasiumConfig) -> None:
        self.space, self.kind = space, type(space).__name__
        if self.kind not in ("Discrete", "Box", "MultiDiscrete", "MultiBinary"):
            raise ValueError(
                f"{config.id} takes actions of {space}; known are Discrete, Box, MultiDiscrete, MultiBinary"
            )
        self.low, self.high = _bounds(space, self.kind)
        table = dict(config.keys)
        if not table and self.kind != "Box":
            table = _one_key_each(self.kind, self.low, self.high, config.id)
        self.table = {key: self._vector(config, f"key {key}", value) for key, value in table.items()}
        self.idle = self._vector(config, "idle", config.idle) if config.idle else self._within(np.zeros_like(self.low))
        self.keys = tuple(table)
        self.axes = () if table else tuple(f"axis.{i}" for i in range(self.low.size))
        if self.axes and not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ValueError(f"{config.id} takes actions without bounds, {space}: say with keys what is done")

    def action(self, down: set[str], axes: tuple[float, ...]) -> Any:
        """What the environment takes while the keys `down` are down and the axes (in [-1, 1]) are where they are."""
        if self.axes:
            share = (np.array(axes or [0.0] * len(self.axes)) + 1) / 2
            return (self.low + share * (self.high - self.low)).reshape(self.space.shape).astype(self.space.dtype)
        chosen = [value for key, value in self.table.items() if key in down]
        if self.kind == "Discrete":
            return int((chosen[0] if chosen else self.idle)[0])
        total = self._within(np.sum(chosen, axis=0)) if chosen else self.idle
        return total.reshape(self.space.shape).astype(self.space.dtype)

    def _vector(self, config: GymnasiumConfig, name: str, values: tuple[float, ...]) -> np.ndarray:
        vector = np.array(values, np.float64)
        if vector.shape != self.low.shape or (self._within(vector) != vector).any():
            raise ValueError(f"{name} is {list(values)}, which is no action of {config.id}: {self.space}")
        return vector

    def _within(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, self.low, self.high)


def _bounds(space: Any, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each number of an action."""
    if kind == "Box":
        return space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    if kind == "Discrete":
        return np.array([float(space.start)]), np.array([float(space.start + space.n - 1)])
    if kind == "MultiBinary":
        return np.zeros(int(np.prod(space.shape))), np.ones(int(np.prod(space.shape)))
    start = space.start.reshape(-1).astype(np.float64)
    return start, start + space.nvec.reshape(-1) - 1


def _one_key_each(kind: str, low: np.ndarray, high: np.ndarray, name: str) -> dict[str, tuple[float, ...]]:
    if kind != "Discrete" or high[0] - low[0] >= len(KEYS):
        raise ValueError(f"{name} has actions that no row of keys stands for: say with keys what each key does")
    return {KEYS[i]: (low[0] + i,) for i in range(int(high[0] - low[0]) + 1)}


def _made(config: GymnasiumConfig) -> tuple[Any, str]:
    """The environment, drawing into arrays, and the version of gymnasium."""
    try:
        import gymnasium
    except ImportError:
        raise ValueError(f"{config.id} needs gymnasium: pip install 'wm[games]'") from None
    module, extra = next((found for start, found in _BRINGERS.items() if config.id.startswith(start)), ("", "games"))
    name = f"{module}:{config.id}" if module else config.id
    try:
        return gymnasium.make(name, render_mode="rgb_array", **config.arguments), gymnasium.__version__
    except ImportError:
        raise ValueError(f"{config.id} needs {module.split('.')[0]}: pip install 'wm[{extra}]'") from None
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"gymnasium cannot make {config.id}: {' '.join(str(error).split())}") from None
