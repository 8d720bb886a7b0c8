"""A tokenizer that sees the past in the stages: trained at any stride, played with its memory, refused where it does not fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_stages
import tiny_world
import torch
from tiny_stages import batch, context, make
from tiny_world import HEIGHT, VAE, WIDTH, some_action, some_frames

from wm.artifact import ArtifactError, VAEWeights, World, load_vae, save_weights
from wm.models.tiling import TilingConfig
from wm.models.vae import VideoVAE, to_pixels, to_unit_range
from wm.rollout import WorldSession
from wm.stages.encode_latents import EncodeLatentsConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_stages.make_root(tmp_path / "tiny")


def tokenizer(stride: int, kernel: int) -> VideoVAE:
    torch.manual_seed(3)
    config = dataclasses.replace(VAE, temporal_stride=stride, temporal_kernel=kernel)
    return config.build().eval().requires_grad_(False)


def world_of(vae: VideoVAE) -> World:
    plain = tiny_world.world()
    return World(dataclasses.replace(plain.manifest, vae=vae.config), vae, plain.models, plain.starts)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_tokenizer_trains_with_and_without_critic_at_every_stride(root: Path, stride: int) -> None:
    config = dataclasses.replace(VAE, temporal_stride=stride, temporal_kernel=3)
    stage = make("train_vae", context(root), vae=config)
    losses = [float(stage.step(batch(0, "train_vae"))["loss"]) for _ in range(2)]
    losses += [float(stage.step(dataclasses.replace(batch(0, "train_vae"), step=step))["loss"]) for step in range(2, 8)]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]
    stage.finish(root / "other")
    made, _ = load_vae(root / "other" / "weights")
    assert made.temporal_stride == stride
    assert stage.sample(batch(0, "train_vae"))["reconstruction"].shape == (3, 2 * HEIGHT, 2 * WIDTH)


def test_frames_are_played_with_the_decoders_memory() -> None:
    """Played one by one after a reset: each is the last frame of all latents so far, decoded at once."""
    world = world_of(tokenizer(1, 3))
    frames, action = some_frames(2, 9), some_action(2, 9)
    session = WorldSession(world, seed=7, batch=2)
    latents = world.scale("student").normalised(world.vae.encode(to_unit_range(frames)).mean)
    shown = [session.reset(frames, action)]
    dream, dreamed = session.dream, []
    session.dream = lambda action: dreamed.append(dream(action)) or dreamed[-1]  # type: ignore[method-assign]
    shown += [session.step(some_action(2, 1, seed=i)) for i in range(5)]
    whole = world.vae.decode(world.scale("student").raw(torch.cat([latents, *dreamed], dim=1)))[:, 8:]
    difference = to_pixels(whole).int() - torch.stack(shown, 1).int()
    assert difference.abs().max() <= 1  # rounding to a pixel value may fall either way
    alone = world.vae.decode(world.scale("student").raw(torch.cat([latents[:, -1:], *dreamed], dim=1)))
    assert (to_pixels(alone).int() - torch.stack(shown, 1).int()).abs().max() > 1


def test_clips_are_encoded_in_parts_as_in_one(root: Path) -> None:
    vae = tokenizer(1, 3)
    save_weights(root / "vae" / "weights", vae.state_dict(), VAEWeights(vae=vae.config))
    video = some_frames(1, 11)[0].permute(0, 2, 3, 1).numpy()
    cpu = torch.device("cpu")
    parts, whole = (EncodeLatentsConfig(batch_frames=n).build(root, cpu).encode(video) for n in (3, 64))
    np.testing.assert_allclose(parts.astype(float), whole.astype(float), atol=2e-3)
    assert len(whole) == 11
    tiling = TilingConfig(tile=20, overlap=16, frames=4)
    tiled = EncodeLatentsConfig(tiling=tiling).build(root, cpu).encode(video)
    middle = np.s_[:, :, 1:-1, 2:-2]
    assert np.abs(tiled - whole)[middle].mean() < 0.05 * np.abs(whole).mean()


def test_a_tokenizer_that_joins_frames_is_refused_where_every_frame_needs_a_latent(root: Path) -> None:
    vae = tokenizer(2, 1)
    save_weights(root / "vae" / "weights", vae.state_dict(), VAEWeights(vae=vae.config))
    with pytest.raises(ValueError, match=r"one latent of 2 frames.*temporal_stride 1") as caught:
        EncodeLatentsConfig().build(root, torch.device("cpu"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match=r"one latent of 2 frames.*temporal_stride 1"):
        world_of(vae)
