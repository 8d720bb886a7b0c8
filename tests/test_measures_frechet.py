"""Frechet distance against closed forms and torchmetrics, precision and recall on sets that are known, PSNR and SSIM too."""

import pytest
import torch

from wm.measures import psnr, ssim
from wm.measures_frechet import (
    diversity,
    frechet_distance,
    latent_features,
    latent_frechet_distance,
    precision_recall,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_known_distances() -> None:
    features = drawn(50, 6)
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-9)
    shift = torch.arange(6.0)
    assert frechet_distance(features, features + shift) == pytest.approx(float(shift.square().sum()))
    centred = features - features.mean(0)
    spread = float(torch.cov(features.T).trace())
    assert frechet_distance(centred, 3 * centred) == pytest.approx((3 - 1) ** 2 * spread)  # (1 - 3)^2 tr S
    one, other = drawn(40, 6), 2 + drawn(30, 6, seed=1) @ drawn(6, 6, seed=2)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    turn = torch.linalg.qr(drawn(6, 6, seed=3)).Q
    assert frechet_distance(one @ turn, other @ turn) == pytest.approx(frechet_distance(one, other))


def test_singular_covariances_are_no_trouble() -> None:
    one, other = drawn(4, 9), drawn(5, 9, seed=1)
    assert frechet_distance(one, other) > 0
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed here")

    class Flat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).float()

    metric = fid.FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2))
    real, made = drawn(40, 3, 2, 2).sigmoid(), drawn(30, 3, 2, 2, seed=1).sigmoid().square()
    metric.update(real.float(), real=True)
    metric.update(made.float(), real=False)
    ours = frechet_distance(real.float().flatten(1), made.float().flatten(1))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-4)


def test_psnr_and_ssim_agree_with_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed here")
    real = drawn(3, 3, 20, 29).float().sigmoid()
    made = (real + 0.1 * drawn(3, 3, 20, 29, seed=1).float()).clamp(0, 1)
    for i in range(3):
        theirs = image.peak_signal_noise_ratio(made[i], real[i], data_range=1.0)
        torch.testing.assert_close(psnr(made, real)[i], theirs, rtol=1e-5, atol=1e-5)
    # theirs pads and averages over the edges too: only windows that lie inside the frame are compared
    _, full = image.structural_similarity_index_measure(
        made, real, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = full[..., 5:-5, 5:-5].flatten(1).mean(1)
    torch.testing.assert_close(ssim(made, real), inside, rtol=1e-4, atol=1e-4)


def test_precision_and_recall_of_sets_that_are_known() -> None:
    left, right = drawn(30, 4), 100 + drawn(20, 4, seed=1)
    assert precision_recall(left, left) == (1.0, 1.0)
    assert precision_recall(left, right) == (0.0, 0.0)
    both = torch.cat([left, right])
    precision, recall = precision_recall(both, left)  # all that was made is real, half of the real is never made
    assert precision == 1.0
    assert recall == pytest.approx(30 / 50)


def test_diversity_over_seeds() -> None:
    features = drawn(7, 5)
    assert diversity(features.expand(3, 7, 5)) == 0
    apart = torch.stack([features, features + 3.0 * torch.eye(5, dtype=torch.float64)[0]])
    assert diversity(apart) == pytest.approx(3.0)


def test_latents_of_a_tokenizer_are_features() -> None:
    from wm.models.vae import VideoVAEConfig

    torch.manual_seed(0)
    vae = VideoVAEConfig().build()
    real, made = (torch.rand(3, 4, 3, 32, 48, generator=torch.Generator().manual_seed(s)) for s in (0, 1))

    @torch.no_grad()
    def encode(video: torch.Tensor) -> torch.Tensor:
        return vae.encode(video).mean

    features = latent_features(encode, real)
    assert features.shape == (12, encode(real).shape[2] * 4)
    assert latent_frechet_distance(encode, real, real) == pytest.approx(0, abs=1e-6)
    assert latent_frechet_distance(encode, real, made * 0.5) > latent_frechet_distance(encode, real, made)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: frechet_distance(drawn(4, 3), drawn(4, 2)), "needed are"),
        (lambda: frechet_distance(drawn(1, 3), drawn(4, 3)), "at least 2 samples"),
        (lambda: precision_recall(drawn(3, 2), drawn(9, 2)), "have no 3 neighbours"),
        (lambda: diversity(drawn(1, 4, 2)), "give at least 2"),
        (lambda: latent_features(lambda v: v, drawn(1, 2, 3, 1, 4)), "no grid of 2x2"),
    ],
)
def test_bad_input_is_one_line(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
