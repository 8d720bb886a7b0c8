"""A hand that does tasks: named things are clicked, texts typed, in order, with a person's movements."""

import fnmatch
from collections import deque
from collections.abc import Iterator
from typing import Literal

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.environment import Environment, Target
from data_pipeline.environments.full_desktop.keys import WRITES
from data_pipeline.human_policy import HumanPolicy, HumanPolicyConfig
from wm.config import config

_VERBS = ("click", "drag", "scroll", "type", "key", "wait")


@config
class TaskPolicyConfig:
    """Each task is a list of steps, each a verb and what it is for; one task after another, in an order of the seed's.

    "click panel: Menu", "drag editor: title" (somewhere), "scroll files: wheel" (a few notches), by the names of targets, in
    which * stands for anything; "type some words", "key Enter", "wait 5" (frames). Where a target is not to be seen the task
    is given up, as a person would.
    """

    kind: Literal["tasks"] = "tasks"
    tasks: tuple[tuple[str, ...], ...]
    hand: HumanPolicyConfig = HumanPolicyConfig()
    between: tuple[int, int] = (2, 8)  # frames of rest between tasks, least and most

    def __post_init__(self) -> None:
        if not self.tasks or not all(self.tasks):
            raise ValueError("tasks: give at least one, each with at least one step")
        for step in (step for task in self.tasks for step in task):
            verb, _, rest = step.partition(" ")
            if verb not in _VERBS or not rest or (verb == "wait" and not rest.isdigit()):
                raise ValueError(
                    f"step {step!r}: begin with one of {', '.join(_VERBS)}, then say what (wait: a number)"
                )

    def build(self) -> "TaskPolicy":
        return TaskPolicy(self)


class TaskPolicy(HumanPolicy):
    """`given_up` counts the tasks that could not be finished since the last reset."""

    name = "tasks"

    def __init__(self, config: TaskPolicyConfig) -> None:
        super().__init__(config.hand)
        self.task_config = config

    def reset(self, environment: Environment, seed: int) -> None:
        super().reset(environment, seed)
        self._steps: deque[str] = deque()
        self._waiting: deque[tuple[str, ...]] = deque()
        self.given_up = 0

    def _activity(self, environment: Environment) -> Iterator[Controls]:
        if not self._steps:
            yield from self._next_task()
            return
        verb, _, what = self._steps.popleft().partition(" ")
        if verb == "wait":
            yield from [Controls(self._at)] * max(int(what), 1)
        elif verb in ("type", "key"):
            yield from self._strokes(_codes(what) if verb == "type" else [(what, False)], environment.action_space.keys)
        else:
            yield from self._use(verb, what, environment.targets())

    def _next_task(self) -> Iterator[Controls]:
        if not self._waiting:
            tasks = self.task_config.tasks
            self._waiting.extend(tasks[int(i)] for i in self._rng.permutation(len(tasks)))
        self._steps.extend(self._waiting.popleft())
        yield from [Controls(self._at)] * max(self._count(self.task_config.between), 1)

    def _use(self, verb: str, name: str, targets: list[Target]) -> Iterator[Controls]:
        found = [target for target in targets if fnmatch.fnmatchcase(target.name, name)]
        if not found:
            self.given_up += 1
            self._steps.clear()
            yield Controls(self._at)
            return
        target = found[int(self._rng.integers(len(found)))]
        if verb == "click":
            yield from self._click(target, glide=False)
        elif verb == "drag":
            yield from self._drag(target, target.rect if target.kind == "draw" else self._screen())
        else:
            yield from self._scroll(target)

    def _strokes(self, codes: list[tuple[str, bool]], keys: tuple[str, ...]) -> Iterator[Controls]:
        """One key a frame; capital letters with Shift held."""
        for code, shift in codes:
            if code not in keys or (shift and "ShiftLeft" not in keys):
                raise ValueError(
                    f"a task needs the key {code}{' with ShiftLeft' * shift}: the environment's keys lack it"
                )
            press, release = Event("press", code), Event("release", code)
            around = (Event("press", "ShiftLeft"), Event("release", "ShiftLeft")) if shift else ()
            yield Controls(self._at, (*around[:1], press, release, *around[1:]))


def _codes(text: str) -> list[tuple[str, bool]]:
    """The key of each letter, and whether Shift is held with it."""
    by_letter: dict[str, tuple[str, bool]] = {}
    for code, letters in WRITES.items():
        by_letter.setdefault(letters[0], (code, False))
        by_letter.setdefault(letters[1], (code, True))
    missing = sorted(set(text) - set(by_letter))
    if missing:
        raise ValueError(f"no key writes {missing}; a task can type {''.join(sorted(by_letter))}")
    return [by_letter[letter] for letter in text]
