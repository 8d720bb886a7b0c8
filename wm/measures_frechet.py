"""How alike two sets of videos are, by features of them: Frechet distance, precision and recall, diversity over seeds.

Features come from whoever has them: our own tokenizer (`latent_features`), or a published network (measures_pretrained.py).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """Squared 2-Wasserstein distance of the Gaussians through both sets of features (N, D) (Heusel et al. 2017, eq. 6).

    In float64. With fewer samples than features the covariances are singular: the distance is right for them, and larger
    than that of many samples, so compare only at equal counts.
    """
    _same_width(real, made)
    (mean_a, root_a), (mean_b, root_b) = _moments(real), _moments(made)
    # tr sqrt(S_a S_b) is the sum of the singular values of S_a^1/2 S_b^1/2: no complex roots, no inverse.
    overlap = torch.linalg.svdvals(root_a @ root_b).sum()
    traces = root_a.square().sum() + root_b.square().sum()
    return float(((mean_a - mean_b).square().sum() + traces - 2 * overlap).clamp_min(0))


def _same_width(real: Tensor, made: Tensor) -> None:
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1] or min(len(real), len(made)) < 2:
        raise ValueError(
            f"features are {tuple(real.shape)} and {tuple(made.shape)}; needed are (N, D) of one D and at least 2 samples each"
        )


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the symmetric root of the covariance (D, D)."""
    values, vectors = torch.linalg.eigh(torch.cov(features.double().T).reshape(features.shape[1], -1))
    return features.double().mean(0), vectors * values.clamp_min(0).sqrt() @ vectors.T


def precision_recall(real: Tensor, made: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """(precision, recall) of features (N, D): which share of one set lies in the other's manifold.

    The manifold is all balls about a set's samples that reach to the k-th neighbour (Kynkäänniemi et al. 2019, eq. 1).
    """
    _same_width(real, made)
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"{min(len(real), len(made))} samples have no {neighbours} neighbours; give more samples")
    return _share_within(made, real, neighbours), _share_within(real, made, neighbours)


def _share_within(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    own = torch.cdist(manifold.double(), manifold.double())
    radii = own.kthvalue(neighbours + 1, dim=1).values  # the nearest is the sample itself
    return float((torch.cdist(points.double(), manifold.double()) <= radii).any(1).double().mean())


def diversity(features: Tensor) -> float:
    """Mean distance between what different seeds made of the same start, (seeds, N, D) with at least two seeds; 0 is none."""
    seeds = len(features)
    if seeds < 2:
        raise ValueError(f"diversity compares seeds, got {seeds}; give at least 2")
    first, second = torch.triu_indices(seeds, seeds, offset=1)
    return float((features[first].double() - features[second].double()).norm(dim=-1).mean())


def latent_features(encode: Callable[[Tensor], Tensor], video: Tensor, grid: int = 2) -> Tensor:
    """(B T, C grid^2) features of `video` (B, T, 3, H, W): the latents of each frame, averaged over a grid of cells.

    `encode` gives latents (B, T, C, h, w), such as the mean of our own tokenizer. A distance of these is a latent Frechet
    distance and no FID: it can only be compared with others of the same tokenizer.
    """
    latents = encode(video)
    if min(latents.shape[-2:]) < grid:
        raise ValueError(f"latents of {latents.shape[-2]}x{latents.shape[-1]} have no grid of {grid}x{grid} cells")
    frames = rearrange(latents.float(), "b t c h w -> (b t) c h w")
    return F.adaptive_avg_pool2d(frames, grid).flatten(1)


def latent_frechet_distance(encode: Callable[[Tensor], Tensor], real: Tensor, made: Tensor, grid: int = 2) -> float:
    """Frechet distance between the latents of two sets of videos (B, T, 3, H, W); see latent_features."""
    return frechet_distance(latent_features(encode, real, grid), latent_features(encode, made, grid))
