"""A small real world for the measures: a panel that a click opens and closes, lights that keys turn on, a cursor.

Its whole state can be read from one frame, so a perfect model of it is a few lines: read the state, act, draw.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from wm.batch import HELD, PRESSED, RELEASED, Action, ActionSpace
from wm.cursor import Sprite
from wm.stages.evaluate import Clip

HEIGHT, WIDTH = 32, 48
SPACE = ActionSpace(buttons=("left",), keys=("KeyA",))
_ARROW = ("X....", "XX...", "XoX..", "XooX.", "XoooX", "XXXX.")


def arrow() -> Sprite:
    colours = {".": (0, 0, 0, 0), "X": (0, 0, 0, 255), "o": (255, 255, 255, 255)}
    return Sprite("arrow", (0, 0), torch.tensor([[colours[c] for c in line] for line in _ARROW], dtype=torch.uint8))


@dataclass(frozen=True)
class State:
    opened: bool = False
    lit: bool = False
    pointer: tuple[int, int] = (20, 10)


def draw(state: State) -> Tensor:
    """(3, H, W) uint8."""
    gradient = torch.linspace(60, 140, WIDTH).expand(HEIGHT, WIDTH)
    frame = torch.stack([gradient, gradient.flip(1), torch.full((HEIGHT, WIDTH), 90.0)]).to(torch.uint8)
    if state.opened:
        frame[:, 4:16, 24:44] = torch.tensor([230, 225, 215], dtype=torch.uint8)[:, None, None]
    if state.lit:
        frame[:, 24:30, 4:20] = torch.tensor([250, 60, 40], dtype=torch.uint8)[:, None, None]
    rgba, (x, y) = arrow().rgba, state.pointer
    h, w = min(rgba.shape[0], HEIGHT - y), min(rgba.shape[1], WIDTH - x)
    seen = rgba[:h, :w, 3] > 0
    frame[:, y : y + h, x : x + w][:, seen] = rgba[:h, :w, :3][seen].T
    return frame


def after(state: State, action: Action) -> tuple[State, tuple[str, ...]]:
    """The state after `action` (1, 1) and the kinds of transition that it made."""
    events = []
    x, y = (action.pointer[0, 0] * torch.tensor([WIDTH, HEIGHT])).floor().int().tolist()
    state = dataclasses.replace(state, pointer=(x, y))
    if action.buttons[0, 0, 0, PRESSED] > 0:
        events.append("close" if state.opened else "open")
        state = dataclasses.replace(state, opened=not state.opened)
    if action.keys[0, 0, 0, PRESSED] > 0:
        events.append("type")
        state = dataclasses.replace(state, lit=not state.lit)
    return state, tuple(events)


def read(frame: Tensor, action: Action) -> State:
    """The state that `frame` (3, H, W) after `action` (1, 1) shows; most of each area wins over the cursor."""
    pointer = (action.pointer[0, 0] * torch.tensor([WIDTH, HEIGHT])).floor().int().tolist()
    opened = bool((frame[2, 4:16, 24:44] == 215).float().mean() > 0.5)
    lit = bool((frame[0, 24:30, 4:20] == 250).float().mean() > 0.5)
    return State(opened, lit, (pointer[0], pointer[1]))


def random_action(generator: torch.Generator, held: bool) -> Action:
    """The pointer anywhere; sometimes a press of the button or the key, released in the same interval."""
    action = Action.idle(SPACE, 1, 1)
    column = int(torch.randint(WIDTH - 6, (), generator=generator))
    line = int(torch.randint(HEIGHT - 6, (), generator=generator))
    action.pointer[0, 0] = torch.tensor([(column + 0.5) / WIDTH, (line + 0.5) / HEIGHT])
    chance = float(torch.rand((), generator=generator))
    for presses, pressed in ((action.buttons, chance < 0.2), (action.keys, 0.2 <= chance < 0.4)):
        presses[0, 0, 0, PRESSED] = presses[0, 0, 0, RELEASED] = float(pressed)
        presses[0, 0, 0, HELD] = float(held and pressed)
    return action


def record(num_frames: int, seed: int) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    state, frames, actions, events = State(), [], [], []
    for _ in range(num_frames):
        action = random_action(generator, held=False)
        state, kinds = after(state, action)
        frames.append(draw(state))
        actions.append(action)
        events.append(kinds)
    return Clip(torch.stack(frames), Action.concatenate(actions, 1), tuple(events), key=f"panel{seed}")


class Perfect:
    """A model that has understood the world."""

    def __init__(self, **_: object) -> None:
        self.states: list[State] = []

    def reset(self, frames: Tensor, action: Action) -> Tensor:
        self.states = [read(frames[b, -1], action[b : b + 1, -1:]) for b in range(len(frames))]
        return frames[:, -1]

    def step(self, action: Action) -> Tensor:
        self.states = [after(state, action[b : b + 1])[0] for b, state in enumerate(self.states)]
        return torch.stack([draw(state) for state in self.states])


class Frozen:
    """A model that repeats what it saw last."""

    def __init__(self, **_: object) -> None:
        self.last = torch.empty(0)

    def reset(self, frames: Tensor, action: Action) -> Tensor:
        self.last = frames[:, -1]
        return self.last

    def step(self, action: Action) -> Tensor:
        return self.last


class Noisy(Perfect):
    """A model that understands the world and draws it with noise that grows by `growth` (of 255) each frame."""

    def __init__(self, *, seed: int = 0, growth: float = 0.0, level: float = 4.0, **_: object) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.level, self.growth = level, growth

    def step(self, action: Action) -> Tensor:
        frames = super().step(action).float()
        noise = torch.randn(frames.shape, generator=self.generator)
        self.level += self.growth
        return (frames + self.level * noise).clamp(0, 255).round().to(torch.uint8)
