"""Clips from captions, by either kind of model: frame after frame (rollout.py), or all frames at once (whole_clip.py)."""

import torch
from torch import Tensor

from wm.artifact import World
from wm.batch import Action, Given
from wm.rollout import WorldSession
from wm.whole_clip import draw_clip, is_drawn_whole


def draw_captions(
    world: World,
    captions: tuple[str, ...],
    num_frames: int,
    *,
    model: str = "student",
    num_steps: int | None = None,  # None: as many as the model takes by itself
    seed: int = 0,
) -> Tensor:
    """(B, num_frames, 3, H, W) uint8 on the CPU, a clip for each caption."""
    space, batch = world.manifest.models[model].shape.action_space, len(captions)
    if is_drawn_whole(world, model):
        given = Given(Action.idle(space, batch, num_frames), captions)
        return draw_clip(world, given, batch, num_frames, model=model, num_steps=num_steps, seed=seed).cpu()
    session = WorldSession(world, model=model, num_steps=num_steps, seed=seed, batch=batch)
    session.begin(captions)
    idle = Action.idle(space, batch, 1)
    return torch.stack([session.step(idle).cpu() for _ in range(num_frames)], dim=1)
