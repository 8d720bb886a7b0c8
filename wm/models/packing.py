"""Clips of different lengths in one row, one after another, without padding: none sees another, whatever looks between frames.

A row has B = 1 and as many frames as all its clips together; what is given holds their actions in a row too, and a caption each.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from wm.batch import Given
from wm.conditioning.condition import Condition
from wm.models.memory import Past


def pasts_in_a_row(pasts: Sequence[Past]) -> Past:
    """The pasts of clips, each (1, T of its own, ...), as that of one row: every clip begins after nothing."""
    return Past(*(torch.cat([getattr(past, field.name) for past in pasts], dim=1) for field in fields(Past)))


def condition_in_a_row(
    condition: Callable[[Given, Tensor | None], Condition],
    given: Given,
    lengths: Sequence[int],
    keep: Tensor | None = None,
) -> Condition:
    """The `condition` of each clip for itself, with its own entry of `keep` (clips,), as that of one row.

    Tokens stay (clips, L, D). ValueError where the row does not hold what `lengths` say.
    """
    rows = sum(lengths)
    if given.action is not None and given.action.pointer.shape[:2] != (1, rows):
        raise ValueError(
            f"actions of {tuple(given.action.pointer.shape[:2])} given for a row of {rows} frames; need (1, {rows})"
        )
    if given.text is not None and len(given.text) != len(lengths):
        raise ValueError(f"{len(given.text)} captions given for a row of {len(lengths)} clips: give one a clip")
    kept = [None] * len(lengths) if keep is None else list(keep.split(1))
    made = [condition(one, k) for one, k in zip(_clips(given, lengths), kept, strict=True)]
    return Condition(**{field.name: _joined(field.name, made, lengths) for field in fields(Condition)})


def _clips(given: Given, lengths: Sequence[int]) -> list[Given]:
    clips, first = [], 0
    for clip, length in enumerate(lengths):
        action = None if given.action is None else given.action[:, first : first + length]
        text = None if given.text is None else given.text[clip : clip + 1]
        clips.append(replace(given, action=action, text=text, before=None))
        first += length
    return clips


def _joined(name: str, conditions: Sequence[Condition], lengths: Sequence[int]) -> Tensor | None:
    parts = [getattr(condition, name) for condition in conditions]
    if parts[0] is None:
        return None
    if name in ("tokens", "mask"):
        return torch.cat(parts, dim=0)
    # What is said of a whole clip is said of each of its frames.
    return torch.cat([p.expand(-1, n, *p.shape[2:]) for p, n in zip(parts, lengths, strict=True)], dim=1)
