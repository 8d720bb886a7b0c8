"""Tiles: the whole frame where the network does not reach a seam, a smooth passage elsewhere, and a bounded memory."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from wm.models.tiling import TiledVAE, TilingConfig
from wm.models.vae import VideoVAE, VideoVAEConfig

HEIGHT, WIDTH = 104, 148
DECODER_REACH = 3  # latents: one of the first convolution, one a block, two half ones after the doubling
TILE, OVERLAP = 64, 48


def small(stride: int = 1, kernel: int = 1, encoder_kernel: int = 1) -> VideoVAE:
    torch.manual_seed(0)
    config = VideoVAEConfig(
        latent_channels=3,
        patch=2,
        widths=(6, 8),
        encoder_kernel=encoder_kernel,
        temporal_stride=stride,
        temporal_kernel=kernel,
    )
    return config.build()


def video(frames: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(4)) * 2 - 1


@torch.no_grad()
def test_with_enough_overlap_tiles_are_the_whole_frame() -> None:
    vae = small()
    tiled = TilingConfig(tile=TILE, overlap=4 * DECODER_REACH * vae.stride).build(vae)
    posterior, same = vae.encode(video()), tiled.encode(video())
    torch.testing.assert_close(same.mean, posterior.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(same.logvar, posterior.logvar, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled.decode(posterior.mean), vae.decode(posterior.mean), atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_less_overlap_only_the_passages_differ_and_they_do() -> None:
    vae = small()
    tiled = TilingConfig(tile=TILE, overlap=8).build(vae)
    latents = vae.encode(video()).mean
    wrong = (tiled.decode(latents) - vae.decode(latents)).abs().amax((0, 1, 2)) > 1e-5
    assert wrong.any()
    reach = DECODER_REACH * vae.stride
    for axis, size in ((0, HEIGHT), (1, WIDTH)):
        seams = torch.zeros(size, dtype=torch.bool)
        spans = [(4 * start, 4 * (start + length)) for start, length, _ in tiled._spans(size // 4, 4)]
        assert len(spans) > 1
        for (_, end), (start, _) in pairwise(spans):
            seams[start : start + reach] = True
            seams[end - reach : end] = True
        wrong = wrong & ~(seams[:, None] if axis == 0 else seams[None])
    assert not wrong.any()


@torch.no_grad()
@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 1), (4, 3)])
@pytest.mark.parametrize("frames", [1, 6, 9])
def test_clips_go_through_in_parts(stride: int, kernel: int, frames: int) -> None:
    """A tile's frames in parts are its frames at once, and that of an encoder without reach is the whole frame's."""
    vae, clip = small(stride, kernel), video(frames, 36, 40)
    parts, once = (TilingConfig(tile=24, overlap=8, frames=n).build(vae) for n in (2, 100))
    latents = parts.encode(clip).mean
    torch.testing.assert_close(latents, vae.encode(clip).mean, atol=1e-5, rtol=0)
    made = parts.decode(latents)
    assert made.shape == (1, 1 + stride * (latents.shape[1] - 1), 3, 36, 40)
    torch.testing.assert_close(made, once.decode(latents), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 4), (64, 8), (32, 24), (400, 16)])
def test_weights_add_up_to_something_everywhere(tile: int, overlap: int) -> None:
    """What a network gives for a latent alone is the same tiled, whatever the tiles: every pixel is in some tile."""
    vae = VideoVAEConfig(latent_channels=3, patch=4, widths=(6,), encoder_kernel=1).build()
    made = TilingConfig(tile=tile, overlap=overlap).build(vae).encode(video()).mean
    torch.testing.assert_close(made, vae.encode(video()).mean, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("height", [64, 160])
def test_what_goes_through_at_once_does_not_grow_with_the_frame_or_the_clip(height: int) -> None:
    vae, largest = small(), [0]

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[0] = max(largest[0], inputs[0].numel())

    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(look)
    tiled: TiledVAE = TilingConfig(tile=32, overlap=8, frames=2).build(vae)
    tiled.decode(tiled.encode(video(height // 32, height, height)).mean)
    # Two frames of a tile, at the finest resolution of 16x16, with twice the 6 channels inside of a block or 3 x 2 x 2 folded.
    assert largest[0] == 2 * 12 * 16 * 16


def test_tiles_that_do_not_divide_into_latents_are_refused() -> None:
    for tile, overlap in ((30, 8), (32, 6), (32, 32)):
        with pytest.raises(ValueError, match=r"multiples of 4"):
            TilingConfig(tile=tile, overlap=overlap).build(small())
    with pytest.raises(ValueError, match="multiple of 4"):
        TilingConfig(tile=32, overlap=8).build(small()).encode(video(1, 33, 40))
