"""Layers that models share: modulation, feed-forward, level embedding."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm.tags import tagged


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised `x` (..., D), scaled and shifted: adaLN (Peebles & Xie 2023, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale + 1)


@dataclass(frozen=True)
class Modulation:
    """What one sublayer does with its condition; each (B, T, 1, D), the same for all tokens of a frame."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def enter(self, x: Tensor) -> Tensor:
        return modulated(x, self.shift, self.scale)

    def leave(self, x: Tensor, change: Tensor) -> Tensor:
        """`x` plus the gated `change` of the sublayer."""
        return torch.addcmul(x, self.gate, change)


class MLP(nn.Module):
    """Two linear layers around a SiLU, which costs a CPU a third of a GELU: (..., D) -> (..., D)."""

    def __init__(self, hidden_size: int, ratio: float) -> None:
        super().__init__()
        self.rise = nn.Linear(hidden_size, int(hidden_size * ratio))
        self.fall = nn.Linear(int(hidden_size * ratio), hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(F.silu(self.rise(x)))


class LevelEmbedding(nn.Module):
    """Noise levels t (B, T) in [0, 1] -> (B, T, D), through sines of geometrically spaced frequencies."""

    def __init__(self, hidden_size: int, num_frequencies: int = 64) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.layers = nn.Sequential(
            tagged(nn.Linear(2 * num_frequencies, hidden_size), hidden=False),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, t: Tensor) -> Tensor:
        # float32 until the sine is taken: bfloat16 cannot tell 0.996 from 1.
        exponents = torch.arange(self.num_frequencies, device=t.device, dtype=torch.float32) / self.num_frequencies
        angles = 1000.0 * t.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.layers(waves.to(next(self.parameters()).dtype))


def zero_initialised(layer: nn.Linear) -> nn.Linear:
    """`layer` with weight and bias zero: a branch that starts as no change. Tagged as an output, whose step is AdamW's."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    tagged(layer, hidden=False)
    return layer
