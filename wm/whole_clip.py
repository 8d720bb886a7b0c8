"""A clip drawn as a whole, all frames at one level: how a model whose frames see each other both ways makes videos."""

import torch
from torch import Tensor

from wm.artifact import World
from wm.batch import Given
from wm.conditioning.caption import without_text
from wm.flow import Predict, draw_noise
from wm.models.memory import Past
from wm.models.vae import to_pixels
from wm.time_grids import ShiftedTimes


def is_drawn_whole(world: World, model: str = "student") -> bool:
    """Whether `model` draws whole clips; the others draw frame after frame (rollout.py)."""
    return not world.manifest.models[model].denoiser.dit.causal


@torch.inference_mode()
def draw_clip(
    world: World,
    given: Given,  # captions, actions (B, num_frames), or both
    batch: int,
    num_frames: int,
    *,
    model: str = "student",
    num_steps: int | None = None,
    seed: int = 0,
) -> Tensor:
    """(B, num_frames, 3, H, W) uint8, each clip a function of the seed, its number in the batch and what was given."""
    card, denoiser = world.manifest.models[model], world.models[model]
    flow, device = card.flow.build(), next(denoiser.parameters()).device
    given = given.to(device)
    size = (num_frames, card.shape.channels, card.shape.rows, card.shape.columns)
    index = torch.arange(batch)
    noise = draw_noise(size, seed, 0, index, device, "noise")
    start = flow.noised(torch.zeros_like(noise), noise, torch.ones(noise.shape[:2], device=device))
    nothing = Past(torch.zeros_like(start), torch.ones(start.shape[:2], device=device), torch.zeros_like(start))
    wordless = without_text(given, torch.ones(batch, dtype=torch.bool))

    def told(given: Given, keep: bool = True) -> Predict:
        condition = denoiser.condition(given) if keep else denoiser.null(given)
        return lambda x_t, t: denoiser.dit(x_t, t, nothing, condition)

    predicts, scales = [told(given)], list[float]()
    if card.text_guidance_scale != 1:
        predicts.insert(0, told(wordless))
        scales.insert(0, card.text_guidance_scale)
    if card.guidance_scale != 1:
        predicts.insert(0, told(given, keep=False))
        scales.insert(0, card.guidance_scale)
    predict = card.guidance_limits.guided_by_each(predicts, scales)
    grid = ShiftedTimes(shift=card.shift) if card.times is None else card.times
    times = grid.times(flow, card.num_steps if num_steps is None else num_steps)
    x = card.sampler.sample(
        flow, predict, start, times, lambda i: draw_noise(size, seed, 0, index, device, f"fresh {i}")
    )
    return to_pixels(world.vae.decode(world.scale(model).raw(x)))
