"""A short rollout under what really happened, for the log of a training stage."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from wm.artifact import FORMAT_VERSION, DenoiserWeights, Manifest, World, load_vae
from wm.batch import Batch
from wm.engine.protocols import Learner
from wm.models.denoiser import Denoiser
from wm.models.vae import VideoVAE, to_pixels
from wm.rollout import WorldSession
from wm.stages.context import StageContext
from wm.whole_clip import draw_clip, is_drawn_whole

NUM_CLIPS = 2


@torch.no_grad()
def rollout_strip(
    card: DenoiserWeights, learner: Learner, context: StageContext, vae: str, batch: Batch
) -> Mapping[str, Tensor]:
    """{"rollout": (T, 3, 2 H, clips W)} in [0, 1]: real frames above, below them the second half dreamed.

    A model that draws whole clips has dreamed all of what is below. Of clips of different lengths the longest one is shown.
    """
    longest = batch.lengths.index(max(batch.lengths)) if batch.lengths else 0
    clips = list(batch.clips())[longest] if batch.lengths else batch[:NUM_CLIPS]
    latents, action = clips.latents, clips.given.action
    assert latents is not None
    assert action is not None
    tokenizer, _ = load_vae(context.root / vae / "weights", context.device)
    real = to_pixels(tokenizer.decode(latents))
    half = real.shape[1] // 2
    with learner.averaged() as module:
        assert isinstance(module, Denoiser)
        alone = replace(card, autoguidance_scale=1.0)  # what it would be led away from is not here
        world = World(_manifest(alone, tokenizer, context), tokenizer, {"student": module})
        if is_drawn_whole(world):
            whole = draw_clip(world, clips.given, len(clips), real.shape[1], seed=context.seed)
            return _above(real, whole.to(real.device))
        session = WorldSession(world, seed=context.seed, batch=len(clips))
        if half:
            session.reset(real[:, :half], action[:, :half], clips.given.text)
        else:  # a bucket of first frames alone
            session.begin(clips.given.text)
        dreamed = [session.step(action[:, i : i + 1]) for i in range(half, real.shape[1])]
    below = torch.cat([real[:, :half], torch.stack(dreamed, 1)], dim=1)
    return _above(real, below)


def _above(real: Tensor, below: Tensor) -> Mapping[str, Tensor]:
    both = torch.cat([real, below], dim=-2).float() / 255
    return {"rollout": torch.cat(list(both), dim=-1).cpu()}


def _manifest(card: DenoiserWeights, tokenizer: VideoVAE, context: StageContext) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        world=context.root.name,
        fps=context.facts.fps,
        height=context.facts.height,
        width=context.facts.width,
        context_frames=1,
        vae=tokenizer.config,
        models={"student": card},
        environment=None,
        files={},
        versions={},
    )
