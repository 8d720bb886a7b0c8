"""The tokenizer along time: piece by piece is the whole clip, nothing looks ahead, a still clip is its image."""

import pytest
import torch
from torch import Tensor

from wm.models.vae import VideoVAE, VideoVAEConfig
from wm.nn.causal import FoldFrames, FrameCache, UnfoldFrames

B, HEIGHT, WIDTH = 2, 8, 12
SETTINGS = [(1, 3), (2, 1), (2, 3), (4, 2), (4, 3)]  # temporal stride and kernel


def small(stride: int, kernel: int, widths: tuple[int, ...] = (6, 8)) -> VideoVAE:
    torch.manual_seed(stride)
    config = VideoVAEConfig(
        latent_channels=3, patch=2, widths=widths, encoder_kernel=1, temporal_stride=stride, temporal_kernel=kernel
    )
    return config.build()


def video(frames: int, seed: int = 0) -> Tensor:
    return torch.rand(B, frames, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def in_pieces(vae: VideoVAE, clip: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Latents and frames, by handing over `sizes` frames at a time and decoding each latent as it comes."""
    encoding, decoding = FrameCache(), FrameCache()
    latents, frames = [], []
    for number, piece in enumerate(clip.split(sizes, dim=1)):
        found = vae.encode(piece, encoding, last=number == len(sizes) - 1).mean
        latents.append(found)
        frames += [vae.decode(found[:, i : i + 1], decoding) for i in range(found.shape[1])]
    return torch.cat(latents, dim=1), torch.cat(frames, dim=1)[:, : clip.shape[1]]


@torch.no_grad()
@pytest.mark.parametrize(("stride", "kernel"), SETTINGS)
@pytest.mark.parametrize("sizes", [[1], [2], [1] * 9, [4, 1, 3], [3, 7], [6, 5, 1, 1]])
def test_a_clip_in_pieces_is_the_whole_clip(stride: int, kernel: int, sizes: list[int]) -> None:
    vae, clip = small(stride, kernel), video(sum(sizes))
    whole = vae.encode(clip).mean
    assert whole.shape[1] == vae.config.num_latents(sum(sizes)) == 1 + -(-(sum(sizes) - 1) // stride)
    made = vae.decode(whole)[:, : sum(sizes)]
    assert made.shape == clip.shape
    latents, frames = in_pieces(vae, clip, sizes)
    torch.testing.assert_close(latents, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(frames, made, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("stride", "kernel"), SETTINGS)
def test_nothing_looks_ahead_and_something_looks_back(stride: int, kernel: int) -> None:
    vae, one, other = small(stride, kernel), video(9), video(9)
    other[:, 5:] = video(9, seed=1)[:, 5:]
    first, second = (vae.encode(clip).mean for clip in (one, other))
    before = 1 + 4 // stride  # latents of the frames 0 to 4
    torch.testing.assert_close(first[:, :before], second[:, :before], atol=1e-6, rtol=0)
    assert (first[:, before:] - second[:, before:]).abs().flatten(2).amax(-1).min() > 1e-3
    joined = torch.cat([first[:, :before], second[:, before:]], dim=1)
    torch.testing.assert_close(vae.decode(joined)[:, :5], vae.decode(first)[:, :5], atol=1e-6, rtol=0)
    if kernel > 1:
        other[:, 1:] = one[:, 1:]
        other[:, 0] = -one[:, 0]
        assert (vae.encode(other).mean[:, 1] - first[:, 1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("stride", "kernel"), SETTINGS)
def test_a_still_clip_is_its_image_in_every_latent(stride: int, kernel: int) -> None:
    vae, image = small(stride, kernel), video(1)
    still = vae.encode(image.expand(-1, 7, -1, -1, -1)).mean
    alone = vae.encode(image).mean
    assert alone.shape[1] == 1
    torch.testing.assert_close(still, alone.expand_as(still), atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(still)[:, :1], vae.decode(alone), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("stride", "kernel"), SETTINGS)
def test_frames_depend_on_no_more_latents_than_is_said(stride: int, kernel: int) -> None:
    vae = small(stride, kernel)
    latents = vae.encode(video(1 + 14 * stride)).mean
    kept = vae.past_latents + 1
    assert kept < latents.shape[1]
    alone = vae.decode(latents[:, -kept:])[:, -1]
    torch.testing.assert_close(alone, vae.decode(latents)[:, -1], atol=1e-5, rtol=0)
    if kernel > 1:
        assert (vae.decode(latents[:, -1:])[:, -1] - alone).abs().max() > 1e-4


@pytest.mark.parametrize("size", [2, 4])
def test_folding_time_inverts_and_the_first_frame_is_alone(size: int) -> None:
    clip = torch.randn(2, 1 + 3 * size, 5, 4, 6)
    fold, unfold = FoldFrames(size), UnfoldFrames(size)
    folded = fold(clip, FrameCache())
    assert folded.shape == (2, 4, 5 * size, 4, 6)
    assert torch.equal(folded[:, 0], clip[:, 0].repeat(1, size, 1, 1))
    assert torch.equal(unfold(folded, FrameCache()), clip)


@pytest.mark.parametrize(("widths", "stride"), [((6, 8, 10), 8), ((4, 6, 8, 10), 16)])
def test_space_and_time_fold_together(widths: tuple[int, ...], stride: int) -> None:
    vae = small(4, 3, widths)
    assert (vae.stride, vae.temporal_stride) == (stride, 4)
    clip = torch.rand(1, 6, 3, 2 * stride, 3 * stride)
    posterior = vae.encode(clip)
    assert posterior.mean.shape == (1, 3, 3, 2, 3)
    made, _ = vae(clip, torch.randn_like(posterior.mean))
    assert made.shape == clip.shape
    (made.square().mean() + posterior.kl()).backward()
    unreached = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []


def test_time_that_does_not_divide_and_no_frames_at_all() -> None:
    with pytest.raises(ValueError, match="temporal_stride"):
        VideoVAEConfig(temporal_stride=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no frames"):
        small(2, 3).encode(video(0))
