"""Sizes of the diffusion transformer by name, and what one costs: parameters and operations of its blocks by formula.

The formulas are those of block.py and joint_block.py; what stands around the blocks (patches, hourglass, embeddings) is
counted on the meta device, where nothing is computed or stored. An operation is a multiplication or an addition: a product of
matrices (m, k) and (k, n) is 2 m k n. Norms, activations and softmax are left out, as in torch's counter; so is recomputation.
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
    """Parameters of all blocks: attentions, feed-forwards, modulations, of both streams where words are one."""
    size, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    layer, norms = size * (size + 1), 2 * (size // config.num_heads)  # of a head's queries and keys
    attention, forward = 4 * layer + norms, inner * (size + 1) + size * (inner + 1)
    reading = attention + 2 * size  # by queries of a norm of its own
    looking = 0 if config.full else _looking_back(config)
    total = config.depth * (attention + forward + 6 * size) + looking * (attention + 3 * size)
    if config.text == "cross":
        total += config.depth * reading
    if config.text == "joint":  # nobody reads the words of the last block, so they end there
        total += config.depth * (3 * layer + norms + 2 * size) + (config.depth - 1) * (layer + forward + 4 * size)
    if config.action_window:
        total += config.depth * (reading + config.action_window * size)
    return total


def block_operations(
    config: DiTConfig,
    num_frames: int,
    tokens: int,
    *,
    words: int = 0,
    action_tokens: int = 0,
    keys: float | None = None,
    training: bool = False,
) -> float:
    """Operations of all blocks on one clip of `num_frames` frames of `tokens` tokens; three times as many in training.

    `words` is how many tokens a text has, those that only fill up included; `action_tokens` those of one frame's action;
    `keys` is how many frames a frame attends to in the mean: all by default, which is what a kernel without blocks
    computes, or `mean_keys` for what the mask leaves, by which utilisation is counted.
    """
    size, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    projections, forward, reading = 8 * size**2, 4 * size * inner, 4 * size**2
    looking = 0 if config.full else _looking_back(config)
    frame = tokens * (config.depth * (projections + forward) + looking * projections)
    clip = 0
    if config.text == "cross":
        frame += config.depth * tokens * reading
        clip = config.depth * words * reading
    if config.text == "joint":
        frame += words * (config.depth * 6 * size**2 + (config.depth - 1) * (2 * size**2 + forward))
    if config.action_window:
        frame += config.depth * (tokens + config.action_window * action_tokens) * reading
    attention = attention_operations(config, num_frames, tokens, words=words, action_tokens=action_tokens, keys=keys)
    return (num_frames * frame + clip + attention) * (3 if training else 1)


def attention_operations(
    config: DiTConfig,
    num_frames: int,
    tokens: int,
    *,
    words: int = 0,
    action_tokens: int = 0,
    keys: float | None = None,
) -> float:
    """Those among `block_operations` of queries with keys and of weights with values: 4 D for each pair of tokens."""
    keys = num_frames if keys is None else keys
    here = tokens + (words if config.text == "joint" else 0)  # of a frame, in the attention of its tokens to each other
    pairs = config.depth * here * here * (keys if config.full else 1)
    if not config.full:
        pairs += _looking_back(config) * tokens * keys
    if config.text == "cross":
        pairs += config.depth * tokens * words
    pairs += config.depth * tokens * config.action_window * action_tokens
    return 4 * config.hidden_size * num_frames * pairs


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
