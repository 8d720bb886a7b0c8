"""A world of real networks, tiny and untrained, whose every weight matters; and actions for it."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from wm.artifact import FORMAT_VERSION, DenoiserWeights, Manifest, Start, World
from wm.batch import Action, ActionSpace
from wm.flow import FlowConfig
from wm.models.denoiser import Denoiser, DenoiserConfig, WorldShape
from wm.models.dit import DiTConfig
from wm.models.vae import VideoVAE, VideoVAEConfig

SPACE = ActionSpace(buttons=("left", "right"), keys=("KeyA", "KeyB", "Enter"), wheel=True, axes=("x",), fps=8.0)
VAE = VideoVAEConfig(latent_channels=3, patch=2, widths=(6, 8), encoder_depth=1, decoder_depth=1)
DENOISER = DenoiserConfig(
    dit=DiTConfig(hidden_size=16, depth=2, num_heads=2, mlp_ratio=1.5, patch_size=2, window=4, recall=4)
)
ROWS, COLUMNS, STRIDE = 4, 6, 4
HEIGHT, WIDTH = ROWS * STRIDE, COLUMNS * STRIDE
SHAPE = WorldShape(action_space=SPACE, channels=3, rows=ROWS, columns=COLUMNS, stride=STRIDE)
CARD = DenoiserWeights(
    denoiser=DENOISER,
    shape=SHAPE,
    flow=FlowConfig(),
    mean=(0.1, -0.2, 0.3),
    std=(0.5, 1.0, 1.5),
    vae_hash="",
    context_level=0.05,
    sampler="consistency",
    num_steps=2,
    shift=2.0,
)


def some_action(batch: int, frames: int, space: ActionSpace = SPACE, seed: int = 0) -> Action:
    """Anything may happen in any frame."""
    generator = torch.Generator().manual_seed(seed)

    def bits(*shape: int) -> Tensor:
        return torch.randint(2, shape, generator=generator).float()

    return Action(
        pointer=torch.rand(batch, frames, 2, generator=generator),
        buttons=bits(batch, frames, len(space.buttons), 3),
        keys=bits(batch, frames, len(space.keys), 3),
        wheel=torch.randint(-2, 3, (batch, frames, 2), generator=generator).float(),
        axes=torch.rand(batch, frames, len(space.axes), generator=generator) * 2 - 1,
    )


def some_frames(batch: int, frames: int, seed: int = 0) -> Tensor:
    """(B, T, 3, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, frames, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


def vae(seed: int = 0) -> VideoVAE:
    torch.manual_seed(seed)
    return VAE.build().eval().requires_grad_(False)


def denoiser(seed: int = 0, config: DenoiserConfig = DENOISER) -> Denoiser:
    torch.manual_seed(seed)
    built = config.build(SHAPE)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.1)  # more, and rollouts of many frames run away
    return built.eval().requires_grad_(False)


def world(card: DenoiserWeights = CARD, starts: tuple[Start, ...] = (), **changes: Any) -> World:
    """A world with a student of `card` and a teacher that differs from it in its weights and its sampler."""
    models = {"student": card, "teacher": dataclasses.replace(card, sampler="euler", num_steps=4)}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        world="tiny",
        fps=SPACE.fps,
        height=HEIGHT,
        width=WIDTH,
        context_frames=3,
        vae=VAE,
        models=models,
        environment={"kind": "desktop_sim", "seed": 3},
        files={},
        versions={},
    )
    networks = {"student": denoiser(1, card.denoiser), "teacher": denoiser(2, card.denoiser)}
    return World(dataclasses.replace(manifest, **changes), vae(), networks, starts)
