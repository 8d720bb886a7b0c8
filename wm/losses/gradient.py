"""Errors of how pixels differ from their neighbours: what makes text and thin lines, however little of a frame they are.

A blurred letter is nearly right pixel by pixel and wrong in every step from ink to paper.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wm.config import config
from wm.losses.pixel import charbonnier


@config
class Edge:
    """Charbonnier's distance of the Laplacians, as for sharpening pictures (Zamir et al. 2021, arXiv:2102.02808)."""

    kind: Literal["edge"] = "edge"
    weight: float = 0.1
    epsilon: float = 1e-3

    def build(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def term(made: Tensor, video: Tensor, importance: Tensor) -> Tensor:
            return (charbonnier(laplacian(made - video), self.epsilon) * importance).mean()

        return term


def laplacian(video: Tensor) -> Tensor:
    """Four times each pixel of (B, T, C, H, W) less its four neighbours; a frame's border goes on beyond it."""
    wide = F.pad(video.flatten(0, 1), (1, 1, 1, 1), mode="replicate").unflatten(0, video.shape[:2])
    beside = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:] + wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
    return 4 * video - beside


@config
class Gradient:
    """Absolute errors of the steps from pixel to pixel, across and down, at full size and at halves of it.

    The gradient matching of Li & Snavely 2018 (arXiv:1804.00607) and Ranftl et al. 2020 (arXiv:1907.01341), for frames.
    """

    kind: Literal["gradient"] = "gradient"
    weight: float = 0.5
    scales: int = 3  # sizes that are looked at: full, half, quarter

    def __post_init__(self) -> None:
        if self.scales < 1:
            raise ValueError(f"scales is {self.scales}: at least 1, the full size")

    def build(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def term(made: Tensor, video: Tensor, importance: Tensor) -> Tensor:
            difference, weight, total = (made - video).flatten(0, 1), importance.flatten(0, 1), made.new_zeros(())
            for scale in range(self.scales):
                if scale:
                    difference, weight = F.avg_pool2d(difference, 2), F.avg_pool2d(weight, 2)
                total = total + _steps(difference, weight)
            return total / self.scales

        return term


def _steps(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute steps of a difference (N, C, H, W), across and down, each as important as the pixel it leads to."""
    if min(difference.shape[-2:]) < 2:
        return difference.new_zeros(())
    across = (difference[..., :, 1:] - difference[..., :, :-1]).abs() * weight[..., :, 1:]
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weight[..., 1:, :]
    return across.mean() + down.mean()
