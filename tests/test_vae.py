"""The tokenizer: shapes, one frame at a time, exact pixels, and scales that invert."""

import pytest
import torch
from torch import nn

from wm.models.vae import LatentScale, Posterior, VideoVAE, VideoVAEConfig, to_pixels, to_unit_range

SMALL = VideoVAEConfig(latent_channels=3, patch=2, widths=(8, 12))
B, T, HEIGHT, WIDTH = 2, 5, 8, 12


def small(config: VideoVAEConfig = SMALL) -> VideoVAE:
    torch.manual_seed(0)
    return config.build()


def video(seed: int = 0) -> torch.Tensor:
    return torch.rand(B, T, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_shapes_with_all_axes_different() -> None:
    vae = small()
    assert vae.stride == 4
    posterior = vae.encode(video())
    assert posterior.mean.shape == posterior.logvar.shape == (B, T, 3, HEIGHT // 4, WIDTH // 4)
    assert vae.decode(posterior.mean).shape == (B, T, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize(("patch", "widths", "stride"), [(1, (4,), 1), (4, (6, 8), 8), (2, (4, 6, 8), 8)])
def test_the_stride_is_what_a_latent_covers(patch: int, widths: tuple[int, ...], stride: int) -> None:
    config = VideoVAEConfig(latent_channels=2, patch=patch, widths=widths)
    assert config.stride == stride
    vae = small(config)
    frames = torch.zeros(1, 2, 3, 2 * stride, 3 * stride)
    latents = vae.encode(frames).mean
    assert latents.shape == (1, 2, 2, 2, 3)
    assert vae.decode(latents).shape == frames.shape


@pytest.mark.parametrize("size", [(8, 11), (10, 12)])
def test_frames_that_are_no_whole_number_of_latents_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"frames of {size[0]}x{size[1]} pixels .* 4x4: .* multiple of 4"):
        small().encode(torch.zeros(1, 2, 3, *size))


def test_frames_are_independent() -> None:
    vae, one, other = small(), video(), video()
    other[:, [0, 1, 3, 4]] = video(seed=1)[:, [0, 1, 3, 4]]
    first, second = vae.encode(one), vae.encode(other)
    assert torch.equal(first.mean[:, 2], second.mean[:, 2])
    assert torch.equal(first.logvar[:, 2], second.logvar[:, 2])
    assert not torch.equal(first.mean[:, 1], second.mean[:, 1])
    assert torch.equal(vae.decode(first.mean)[:, 2], vae.decode(second.mean)[:, 2])
    torch.testing.assert_close(vae.encode(one[1:, 2:3]).mean, first.mean[1:, 2:3])


def test_a_latent_sees_the_pixels_above_it() -> None:
    """Rows are rows and columns columns: what a corner of the frame changes lies in that corner of the latents."""
    vae = small(VideoVAEConfig(latent_channels=3, patch=2, widths=(4,), encoder_depth=0, decoder_depth=0))
    one, other = torch.zeros(1, 1, 3, HEIGHT, WIDTH), torch.zeros(1, 1, 3, HEIGHT, WIDTH)
    other[..., -1, 0] = 1.0
    moved = (vae.encode(other).mean - vae.encode(one).mean).abs().sum(2)[0, 0]
    assert moved[-1, 0] > 0
    assert torch.nonzero(moved).amin(0).tolist() == [2, 0]
    assert torch.nonzero(moved).amax(0).tolist() == [3, 1]


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_folding_and_unfolding_invert(factor: int) -> None:
    x = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    assert torch.equal(nn.PixelShuffle(factor)(nn.PixelUnshuffle(factor)(x)), x)


def test_divergence_is_the_closed_form() -> None:
    torch.manual_seed(1)
    posterior = Posterior(torch.randn(2, 5, 3, 4, 6), torch.randn(2, 5, 3, 4, 6))
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(posterior.kl(), expected)
    assert Posterior(torch.zeros(1), torch.zeros(1)).kl() == 0.0


def test_samples_have_the_mean_and_the_deviation() -> None:
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    sample = Posterior(torch.tensor(3.0), torch.tensor(0.25).log() * 2).sample(noise)
    assert sample.mean().item() == pytest.approx(3.0, abs=0.01)
    assert sample.std().item() == pytest.approx(0.25, rel=0.02)


def test_latent_scale_inverts_and_normalises() -> None:
    torch.manual_seed(2)
    latents = torch.randn(2, 5, 3, 4, 6) * torch.tensor([0.5, 2.0, 8.0]).view(3, 1, 1) + 1.0
    mean, std = latents.mean((0, 1, 3, 4)), latents.std((0, 1, 3, 4))
    scale = LatentScale(tuple(mean.tolist()), tuple(std.tolist()))
    x = scale.normalised(latents)
    torch.testing.assert_close(x.mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 1, 3, 4)), torch.ones(3))
    torch.testing.assert_close(scale.raw(x), latents)


def test_stored_latents_are_scaled_in_float32() -> None:
    latents = torch.randn(1, 2, 3, 4, 6).half()
    scale = LatentScale((0.1, 0.2, 0.3), (1.1, 1.2, 1.3))
    assert scale.normalised(latents).dtype == torch.float32
    assert torch.equal(scale.raw(scale.normalised(latents)).half(), latents)


def test_all_pixel_values_come_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16)
    unit = to_unit_range(values)
    assert unit.min() == -1.0
    assert unit.max() == 1.0
    assert torch.equal(to_pixels(unit), values)
    assert to_pixels(torch.tensor([-1.7, 1.7])).tolist() == [0, 255]


def test_gradient_reaches_every_parameter() -> None:
    vae = small()
    made, posterior = vae(video(), torch.randn(B, T, 3, HEIGHT // 4, WIDTH // 4))
    ((made - video()).square().mean() + posterior.kl()).backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_given_posterior_leaves_the_encoder_out() -> None:
    vae = small()
    posterior, noise = small().encode(video(seed=3)), torch.randn(B, T, 3, HEIGHT // 4, WIDTH // 4)
    made, same = vae(video(), noise, posterior)
    assert same is posterior
    assert torch.equal(made, vae.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise))


def test_bfloat16_weights_take_float32_frames() -> None:
    vae, reference = small().to(torch.bfloat16), small()
    posterior = vae.encode(video())
    assert posterior.mean.dtype == torch.bfloat16
    torch.testing.assert_close(posterior.mean.float(), reference.encode(video()).mean, atol=0.05, rtol=0.05)
    assert vae.decode(posterior.mean.float()).shape == (B, T, 3, HEIGHT, WIDTH)
    assert posterior.kl().dtype == torch.float32


def test_a_large_tokenizer_has_its_shapes_on_the_meta_device() -> None:
    with torch.device("meta"):
        vae = VideoVAEConfig(latent_channels=16, widths=(128, 256, 512), patch=2).build()
        latents = vae.encode(torch.empty(2, 3, 3, 384, 512)).mean
        assert latents.shape == (2, 3, 16, 48, 64)
        assert vae.decode(latents).shape == (2, 3, 3, 384, 512)


@pytest.mark.parametrize(("kernel", "reached"), [(1, 1), (3, 9)])
def test_an_encoder_of_kernel_1_looks_at_each_latents_own_pixels_only(kernel: int, reached: int) -> None:
    torch.manual_seed(0)
    vae = VideoVAEConfig(latent_channels=3, patch=4, widths=(10,), encoder_depth=1, encoder_kernel=kernel).build()
    video = torch.rand(1, 1, 3, 20, 28)
    other = video.clone()
    other[..., 8:12, 12:16] = 1 - video[..., 8:12, 12:16]  # the pixels of latent (2, 3)
    moved = (vae.encode(other).mean - vae.encode(video).mean).abs().amax(2)[0, 0] > 0
    assert moved[2, 3]
    if kernel == 1:
        assert int(moved.sum()) == reached
    else:
        assert int(moved.sum()) >= reached
