"""Who acts while a recording is made. A policy and a seed give the same Controls for the same screens."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.environment import Environment
from data_pipeline.explorer_policy import ExplorerPolicyConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.replay_policy import ReplayPolicy, ReplayPolicyConfig
from data_pipeline.task_policy import TaskPolicyConfig
from wm.config import Kind, config


class Policy(Protocol):
    name: str
    seed: int  # of the last reset

    def reset(self, environment: Environment, seed: int) -> None:
        """Forget everything; the next `act` is the first of a recording."""
        ...

    def act(self, environment: Environment, info: dict[str, Any]) -> Controls:
        """What to do until the next frame, given `info` of the current one."""
        ...


@config
class RandomPolicyConfig:
    """Uniform jumps, presses and releases: no person moves so, but every place and every order is seen."""

    kind: Literal["random"] = "random"
    jump: float = 0.7  # probability in each frame that the pointer goes somewhere else
    toggle: float = 0.3  # probability that a button goes down, or up where it is down
    tap: float = 0.2  # probability that a key is pressed and released within the frame

    def build(self) -> "RandomPolicy":
        return RandomPolicy(self)


class RandomPolicy:
    name = "random"

    def __init__(self, config: RandomPolicyConfig) -> None:
        self.config = config
        self.seed = 0

    def reset(self, environment: Environment, seed: int) -> None:
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._held: set[str] = set()
        self._height, self._width = environment.render().shape[:2]

    def act(self, environment: Environment, info: dict[str, Any]) -> Controls:
        rng, space = self._rng, environment.action_space
        pointer = (int(info["pointer"][0]), int(info["pointer"][1]))
        if rng.random() < self.config.jump:
            pointer = (int(rng.integers(self._width)), int(rng.integers(self._height)))
        events: list[Event] = []
        if space.buttons and rng.random() < self.config.toggle:
            events.append(self._toggle(_one_of(rng, space.buttons)))
        if space.keys and rng.random() < self.config.tap:
            key = _one_of(rng, space.keys)
            events += [Event("press", key), Event("release", key)]
        return Controls(pointer, tuple(events))

    def _toggle(self, button: str) -> Event:
        event = Event("release" if button in self._held else "press", button)
        self._held ^= {button}
        return event


@config
class ScriptedPolicyConfig:
    """Replays `steps`, each as `Controls.to_dict` writes it; after the last one the hand rests."""

    kind: Literal["scripted"] = "scripted"
    steps: tuple[dict[str, Any], ...] = ()
    repeat: bool = False  # begin again after the last step

    def build(self) -> ReplayPolicy:
        """ValueError for a step that is not Controls."""
        return ReplayPolicy(self.kind, tuple(Controls.from_dict(step) for step in self.steps), self.repeat)


@config
class HoldPolicyConfig:
    """Holds some keys and axes for a while, then others: how games are played, where a tap does little."""

    kind: Literal["hold"] = "hold"
    frames: tuple[int, int] = (3, 12)  # how long one choice stays, least and most
    most_keys: int = 2  # held at once
    rest: float = 0.1  # probability that a choice is nothing at all

    def __post_init__(self) -> None:
        if not 1 <= self.frames[0] <= self.frames[1] or self.most_keys < 0:
            raise ValueError(
                f"frames {self.frames}, most_keys {self.most_keys}: give least and most, and at least 0 keys"
            )

    def build(self) -> "HoldPolicy":
        return HoldPolicy(self)


class HoldPolicy:
    name = "hold"

    def __init__(self, config: HoldPolicyConfig) -> None:
        self.config = config
        self.seed = 0

    def reset(self, environment: Environment, seed: int) -> None:
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._held: tuple[str, ...] = ()
        self._axes: tuple[float, ...] = ()
        self._left = 0  # frames until the next choice

    def act(self, environment: Environment, info: dict[str, Any]) -> Controls:
        before = self._held
        if self._left == 0:
            self._choose(environment)
        self._left -= 1
        events = [Event("release", key) for key in before if key not in self._held]
        events += [Event("press", key) for key in self._held if key not in before]
        return Controls((int(info["pointer"][0]), int(info["pointer"][1])), tuple(events), self._axes)

    def _choose(self, environment: Environment) -> None:
        rng, space = self._rng, environment.action_space
        self._left = int(rng.integers(self.config.frames[0], self.config.frames[1] + 1))
        resting = rng.random() < self.config.rest
        most = min(self.config.most_keys, len(space.keys))
        count = 0 if resting or most == 0 else int(rng.integers(1, most + 1))
        self._held = tuple(str(key) for key in rng.permutation(space.keys)[:count])
        self._axes = () if resting else tuple(float(x) for x in rng.uniform(-1, 1, len(space.axes)))


PolicyConfig = Annotated[
    RandomPolicyConfig
    | HumanPolicyConfig
    | ExplorerPolicyConfig
    | TaskPolicyConfig
    | ScriptedPolicyConfig
    | ReplayPolicyConfig
    | HoldPolicyConfig,
    Kind,
]


def _one_of(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
