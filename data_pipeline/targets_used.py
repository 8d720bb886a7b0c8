"""Which of the named targets on the screen a hand used while it was recorded, and which it could have used."""

from collections import Counter
from typing import Any

from data_pipeline.controls import Controls
from data_pipeline.environments.environment import Environment


class TargetsUsed:
    """Counts at each press and turn of the wheel; environments whose targets have no names leave nothing."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()
        self._offered: Counter[str] = Counter()  # presses at which it could be used

    def add(self, environment: Environment, controls: Controls) -> None:
        """`controls` are about to be given to `environment`."""
        buttons = environment.action_space.buttons
        presses = any(event.kind == "press" and event.target in buttons for event in controls.events)
        turns = any(event.kind == "wheel" for event in controls.events)
        if not presses and not turns:
            return
        named = [target for target in environment.targets() if target.name]
        self._offered.update({target.name for target in named})
        for target in named:
            if (turns if target.kind == "wheel" else presses) and target.rect.contains(*controls.pointer):
                self._used[target.name] += 1

    def meta(self) -> dict[str, Any]:
        """What a recording says of it: {"targets": {name: [times used, times offered]}}."""
        return (
            {"targets": {name: [self._used[name], self._offered[name]] for name in sorted(self._offered)}}
            if self._offered
            else {}
        )
