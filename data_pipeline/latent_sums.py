"""Mean and standard deviation of latents, each channel for itself, from parts that come in any order."""

from typing import Any

import numpy as np

from data_pipeline.schema import LatentStatistics


class Sums:
    """Sums over latents, a channel each, in float64 so that shards can be added in any order."""

    def __init__(self) -> None:
        self.count = 0
        self.total: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0

    def add(self, latents: np.ndarray) -> None:
        """Count in `latents` (T, C, h, w)."""
        values = latents.astype(np.float64)
        self.count += values.size // values.shape[1]
        self.total = self.total + values.sum(axis=(0, 2, 3))
        self.squares = self.squares + np.square(values).sum(axis=(0, 2, 3))

    def answer(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "sum": np.asarray(self.total).tolist(),
            "squares": np.asarray(self.squares).tolist(),
        }

    def statistics(self, vae_hash: str, stride: int) -> LatentStatistics:
        """Of all that was counted in."""
        mean = np.asarray(self.total) / self.count
        variance = np.asarray(self.squares) / self.count - np.square(mean)
        std = np.sqrt(np.maximum(variance, 1e-12))  # a channel that never changes is not divided by zero
        return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()), vae_hash=vae_hash, stride=stride)
