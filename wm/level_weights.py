"""How much an error counts at each noise level: weights (B, T) of the squared error of whatever is predicted.

The papers state weights for the error of the clean data (`x`) or of the noise. On one x_t these errors differ by a factor
that the path and the prediction give (`Flow.clean_error`), so one statement serves all sixteen pairs. Levels are held
LEVEL_MARGIN off both ends, where some of the weights are infinite.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from wm.config import Kind, config
from wm.flow import LEVEL_MARGIN, Flow

LevelWeight = Callable[[Tensor], Tensor]  # (B, T) levels -> (B, T) weights


def _of_clean_error(flow: Flow, weight: Callable[[Tensor], Tensor]) -> LevelWeight:
    """A weight of the squared error of x, told as a function of the noise ratio, for the prediction of `flow`."""

    def at(t: Tensor) -> Tensor:
        t = t.clamp(LEVEL_MARGIN, 1 - LEVEL_MARGIN)
        return weight(flow.noise_ratio(t)) * flow.clean_error(t) ** 2

    return at


@config
class PowerWeight:
    """t^power: errors of the prediction count less near data, where a velocity is mostly noise."""

    kind: Literal["power"] = "power"
    power: float = 1.0

    def build(self, flow: Flow) -> LevelWeight:
        return lambda t: t**self.power


@config
class MinSNRWeight:
    """min(SNR, gamma) on x, SNR = a^2 / b^2 (Hang et al. 2023, arXiv:2303.09556, section 3.4)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ValueError(f"gamma is {self.gamma}; it must be above 0")

    def build(self, flow: Flow) -> LevelWeight:
        return _of_clean_error(flow, lambda ratio: (ratio**-2).clamp(max=self.gamma))


@config
class EDMWeight:
    """(sigma^2 + data^2) / (sigma data)^2 on x, sigma = b / a (Karras et al. 2022, arXiv:2206.00364, table 1)."""

    kind: Literal["edm"] = "edm"
    data_deviation: float = 1.0  # of normalised latents

    def __post_init__(self) -> None:
        if self.data_deviation <= 0:
            raise ValueError(f"data_deviation is {self.data_deviation}; it must be above 0")

    def build(self, flow: Flow) -> LevelWeight:
        return _of_clean_error(flow, lambda ratio: ratio**-2 + self.data_deviation**-2)


@config
class SigmoidWeight:
    """sigmoid(bias - log SNR) on the noise (Kingma & Gao 2023, arXiv:2303.00848; Hoogeboom et al. 2024, 2410.19324)."""

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float = -1.0

    def build(self, flow: Flow) -> LevelWeight:
        # An error of the noise is a / b times that of x.
        return _of_clean_error(flow, lambda ratio: torch.sigmoid(self.bias + 2 * torch.log(ratio)) * ratio**-2)


LevelWeightConfig = Annotated[PowerWeight | MinSNRWeight | EDMWeight | SigmoidWeight, Kind]
