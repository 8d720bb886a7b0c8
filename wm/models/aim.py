"""Where everything lies as seen from one place: a press on a window's corner closes what lies to the left of it and below."""

import torch
from torch import Tensor, nn

from wm.tags import tagged


class Aim(nn.Module):
    """Condition.place (B, T, H, W) -> ((B T), width, H, W), of the way from there to each latent; 0 where there is no place.

    The way is told as `relative_waves`, of which a layer makes a rectangle at any offset; from the two positions apart it
    would first have to learn to subtract.
    """

    def __init__(self, width: int, num_waves: int) -> None:
        super().__init__()
        self.num_waves = num_waves
        self.read = tagged(nn.Conv2d(4 * num_waves, width, 1, bias=False), hidden=False)

    def forward(self, place: Tensor) -> Tensor:
        waves = relative_waves(place.float().flatten(0, 1), self.num_waves).to(self.read.weight.dtype)
        return self.read(waves.contiguous(memory_format=torch.channels_last))


def relative_waves(place: Tensor, num_waves: int) -> Tensor:
    """(B, 4 num_waves, H, W): cosines and sines of 1 to `num_waves` half turns a frame, down and right from `place`.

    `place` (B, H, W) are weights that sum to 1, or to 0 where nothing is to be told.
    """
    down = _along(place.sum(2), num_waves).unsqueeze(3).expand(-1, -1, -1, place.shape[2])
    right = _along(place.sum(1), num_waves).unsqueeze(2).expand(-1, -1, place.shape[1], -1)
    return torch.cat([down, right], dim=1) * place.sum((1, 2))[:, None, None, None]


def _along(weights: Tensor, num_waves: int) -> Tensor:
    """(B, 2 num_waves, N) along one axis, from the mean position of `weights` (B, N)."""
    at = (torch.arange(weights.shape[1], device=weights.device) + 0.5) / weights.shape[1]
    way = at - (weights * at).sum(1, keepdim=True)
    angles = torch.pi * torch.arange(1, num_waves + 1, device=weights.device).unsqueeze(1) * way.unsqueeze(1)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
