"""What is put to the models: clips that nobody trained on, and the positions and actions that become trials."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm.batch import HELD, PRESSED, RELEASED, Action, ActionSpace
from wm.cursor import Sprite, boxes
from wm.measures import TransitionRule, changed_pixels


@dataclass(frozen=True)
class Clip:
    """One held-out recording."""

    video: Tensor  # (T, 3, H, W) uint8
    action: Action  # (1, T, ...); row i is what happened between frame i-1 and frame i
    events: tuple[tuple[str, ...], ...] = ()  # the kinds of transition that frame i shows; () in worlds that do not say
    key: str = ""

    def __len__(self) -> int:
        return len(self.video)


class Position(NamedTuple):
    """A frame to be predicted: number `frame` of clip `clip`."""

    clip: int
    frame: int


@dataclass(frozen=True)
class Trials:
    """N pasts and what truly followed each."""

    frames: Tensor  # (N, context, 3, H, W) uint8
    action: Action  # (N, context)
    next_action: Action  # (N, 1)
    next_frame: Tensor  # (N, 3, H, W) uint8


def pointer_pixels(action: Action, height: int, width: int) -> Tensor:
    """The pixel x, y that the pointer is on, (B, T, 2) int64; for absolute pointers only."""
    size = torch.tensor([width, height])
    return (action.pointer * size).floor().long().clamp(torch.zeros(2, dtype=torch.long), size - 1)


def gather(clips: Sequence[Clip], positions: Sequence[Position], context: int) -> Trials:
    """The `context` frames before each position and the frame at it."""
    parts = [(clips[p.clip], p.frame) for p in positions]
    return Trials(
        frames=torch.stack([clip.video[frame - context : frame] for clip, frame in parts]),
        action=Action.concatenate([clip.action[:, frame - context : frame] for clip, frame in parts], 0),
        next_action=Action.concatenate([clip.action[:, frame : frame + 1] for clip, frame in parts], 0),
        next_frame=torch.stack([clip.video[frame] for clip, frame in parts]),
    )


def draw(positions: Sequence[Position], count: int, seed: int) -> list[Position]:
    """At most `count` of `positions`, without repetition, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(positions), generator=generator)[:count]
    return sorted(positions[int(i)] for i in order)


def all_positions(clips: Sequence[Clip], context: int) -> list[Position]:
    """Every frame that has `context` frames before it."""
    return [Position(c, i) for c, clip in enumerate(clips) for i in range(context, len(clip))]


def transitions(
    clips: Sequence[Clip], sprites: Sequence[Sprite], context: int, rule: TransitionRule
) -> dict[str, list[Position]]:
    """For each kind of event, the frames at which it is to be seen: enough truly changes there beside the cursor."""
    found: dict[str, list[Position]] = {}
    for position in all_positions(clips, context):
        clip = clips[position.clip]
        kinds = clip.events[position.frame] if clip.events else ()
        if kinds and _is_visible(clip, position.frame, sprites, rule):
            for kind in dict.fromkeys(kinds):
                found.setdefault(kind, []).append(position)
    return dict(sorted(found.items()))


def cursor_region(
    before: Action, after: Action, sprites: Sequence[Sprite], height: int, width: int, margin: int
) -> Tensor:
    """Where the cursor was or is, (N, H, W) bool, for two Actions (N, 1)."""
    old, new = (pointer_pixels(action, height, width)[:, 0] for action in (before, after))
    return boxes(old, sprites, height, width, margin) | boxes(new, sprites, height, width, margin)


def _is_visible(clip: Clip, frame: int, sprites: Sequence[Sprite], rule: TransitionRule) -> bool:
    old, new = clip.video[frame - 1 : frame], clip.video[frame : frame + 1]
    before, after = clip.action[:, frame - 1 : frame], clip.action[:, frame : frame + 1]
    height, width = old.shape[-2:]
    cursor = cursor_region(before, after, sprites, height, width, rule.cursor_margin_px)
    return int((changed_pixels(old, new, rule) & ~cursor).sum()) >= rule.min_changed_px


def rests(clips: Sequence[Clip], context: int) -> list[Position]:
    """Frames before which nothing is held or pressed, so that doing nothing from there on changes nothing."""
    found = []
    for c, clip in enumerate(clips):
        used = clip.action.buttons[0].flatten(1).sum(1) + clip.action.keys[0].flatten(1).sum(1)
        used = used + clip.action.wheel[0].abs().sum(1) + clip.action.axes[0].abs().sum(1)
        found += [Position(c, i) for i in range(context, len(clip)) if used[i - 1] == 0]
    return found


def windows(clips: Sequence[Clip], length: int, count: int) -> list[Position]:
    """At most `count` runs of `length` frames that do not overlap, by their first frame, spread over the clips first."""
    starts = [Position(c, k * length) for c, clip in enumerate(clips) for k in range(len(clip) // length)]
    return sorted(starts, key=lambda p: (p.frame, p.clip))[:count]


def hold(last: Action, space: ActionSpace) -> Action:
    """Nothing done after `last` (N, 1): the pointer stays where it is, nothing is held."""
    still = torch.zeros_like(last.pointer) if space.pointer == "relative" else last.pointer
    names = ("buttons", "keys", "wheel", "axes")
    return Action(pointer=still, **{name: torch.zeros_like(getattr(last, name)) for name in names})


def otherwise(action: Action, last: Action, space: ActionSpace) -> Action:
    """Something else than `action` (N, 1) after the same past: the pointer half a screen away, and one press there.

    The press is of the first button, or of the first key in a world without buttons; a world with axes alone has each
    of them pushed to the end that it is further from.
    """
    other = hold(last, space)
    if space.pointer == "absolute":
        other = dataclasses.replace(other, pointer=(action.pointer + 0.5) % 1.0)
    elif space.pointer == "relative":
        other = dataclasses.replace(other, pointer=torch.where(action.pointer > 0, -0.25, 0.25))
    for presses in (other.buttons, other.keys):
        if presses.shape[2]:
            presses[:, :, 0, PRESSED] = presses[:, :, 0, HELD] = 1.0
            presses[:, :, 0, RELEASED] = 0.0
            return other
    return dataclasses.replace(other, axes=torch.where(action.axes > 0, -1.0, 1.0))
