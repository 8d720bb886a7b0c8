"""What a step of training was drawn to be: clips with their noise and levels, and the same for clips of different lengths."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wm.batch import Action, Given
from wm.models.memory import Past
from wm.models.packing import pasts_in_a_row


class Drawn(NamedTuple):
    x: Tensor  # (B, T, C, H, W) normalised latents
    t: Tensor  # (B, T) levels
    noise: Tensor  # like x
    weight: Tensor  # (B, T, 1, H or 1, W or 1) of errors
    past: Past
    given: Given
    keep: Tensor  # (B,) False where the condition is dropped


def in_a_row(clips: Sequence[Drawn]) -> Drawn:
    """`clips`, each (1, T of its own, ...), as one row (1, sum of T, ...), whose mean error is the mean of theirs.

    So a clip counts as much as any other, however long it is, and ranks and micro-batches of equally many clips average to
    the whole batch. `keep` stays one a clip.
    """
    x, t, noise, weight, past, given, keep = zip(*clips, strict=True)
    frames = [part.shape[1] for part in x]
    even = sum(frames) / len(frames)
    return Drawn(
        x=torch.cat(x, 1),
        t=torch.cat(t, 1),
        noise=torch.cat(noise, 1),
        weight=torch.cat([part * (even / length) for part, length in zip(weight, frames, strict=True)], 1),
        past=pasts_in_a_row(past),
        given=_given_in_a_row(given),
        keep=torch.cat(keep),
    )


def _given_in_a_row(given: Sequence[Given]) -> Given:
    actions = [one.action for one in given if one.action is not None]
    said = [one.text for one in given if one.text is not None]
    return Given(
        action=Action.concatenate(actions, 1) if actions else None,
        text=tuple(text for one in said for text in one) if said else None,
        encoded=given[0].encoded,  # of all captions of the batch
    )
