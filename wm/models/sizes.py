"""Sizes of the diffusion transformer by name, and what one costs: parameters and operations of its blocks by formula.

The formulas are those of block.py's Block; what stands around the blocks (patches, hourglass, embeddings) is counted on the
meta device, where nothing is computed or stored. An operation is a multiplication or an addition: a product of matrices
(m, k) and (k, n) is 2 m k n. Norms, activations and softmax are left out, as in torch's counter; so is recomputation.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from wm.models.dit import DiT, DiTConfig
from wm.nn.frame_mask import FrameMask


@dataclass(frozen=True)
class Size:
    hidden_size: int
    depth: int
    num_heads: int
    about: str  # parameters, all told


SIZES = {
    "tiny": Size(96, 5, 3, "1 M"),
    "small": Size(256, 8, 4, "9 M"),
    "base": Size(512, 12, 8, "54 M"),
    "large": Size(1024, 18, 16, "320 M"),
    "xl": Size(2048, 28, 16, "1.9 B"),
    "xxl": Size(3072, 40, 24, "6.2 B"),
}


def sized(name: str, **changes: Any) -> DiTConfig:
    """The config of a size, other fields as in `changes`. ValueError for a name that is not in SIZES."""
    if name not in SIZES:
        raise ValueError(f"size {name!r} is not one of {', '.join(SIZES)}")
    size = dataclasses.asdict(SIZES[name])
    del size["about"]
    return DiTConfig(**(size | changes))


def on_meta(config: DiTConfig, channels: int, num_maps: int) -> DiT:
    """The network without storage, for counting and for shapes: 6 billion parameters take no memory."""
    with torch.device("meta"):
        return config.build(channels, num_maps)


def num_parameters(config: DiTConfig, channels: int, num_maps: int) -> int:
    """All of the network's parameters."""
    return sum(p.numel() for p in on_meta(config, channels, num_maps).parameters())


def block_parameters(config: DiTConfig) -> int:
    """Parameters of all blocks: two attentions (one where a block does not look back), a feed-forward, a modulation."""
    size, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    attention = 4 * size * (size + 1) + 2 * (size // config.num_heads)  # in, out, and the two norms of a head
    forward = inner * (size + 1) + size * (inner + 1)
    looking = 0 if config.full else _looking_back(config)
    return config.depth * (attention + forward + 6 * size) + looking * (attention + 3 * size)


def block_operations(
    config: DiTConfig, num_frames: int, tokens: int, *, keys: float | None = None, training: bool = False
) -> float:
    """Operations of all blocks on one clip of `num_frames` frames of `tokens` tokens; three times as many in training.

    `keys` is how many frames a frame attends to in the mean: all by default, which is what a kernel without blocks
    computes, or `mean_keys` for what the mask leaves, by which utilisation is counted.
    """
    size, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    keys = num_frames if keys is None else keys
    all_tokens = num_frames * tokens
    projections, forward = 8 * size**2, 4 * size * inner
    looking = _looking_back(config)
    if config.full:  # a token meets all tokens of the frames in view, by one attention
        return all_tokens * config.depth * (projections + forward + 4 * size * tokens * keys) * (3 if training else 1)
    per_token = config.depth * (projections + forward + 4 * size * tokens) + looking * (projections + 4 * size * keys)
    return all_tokens * per_token * (3 if training else 1)


def mean_keys(config: DiTConfig, num_frames: int) -> float:
    """How many frames a frame of a clip attends to in the mean, itself included."""
    layers = config.patterns()[: _looking_back(config)]
    seen = [float(FrameMask.of_clip(pattern, num_frames).table.sum()) / num_frames for pattern in layers]
    return sum(seen) / len(seen)


def _looking_back(config: DiTConfig) -> int:
    """How many blocks attend to other frames."""
    if config.full:
        return config.depth
    return -(-config.depth // config.time_every)
