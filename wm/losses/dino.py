"""What DINO sees in each patch of a frame (Caron et al. 2021; Oquab et al. 2023), by transformers from a local folder."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from wm.losses.perceptual import imagenet


def patch_tokens(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Frames (N, 3, H, W) in [-1, 1], scaled to whole patches -> tokens (N, patches, D). ValueError for other models."""
    network = AutoModel.from_pretrained(folder, local_files_only=True).to(device).eval().requires_grad_(False)
    patch = getattr(network.config, "patch_size", None)
    if not isinstance(patch, int):
        raise ValueError(f"{folder} holds a {network.config.model_type}, which has no patches: give a DINO or DINOv2")
    extra = 1 + getattr(network.config, "num_register_tokens", 0)  # the class token and registers stand in front
    options = {"interpolate_pos_encoding": True} if network.config.model_type == "vit" else {}

    def tokens(frames: Tensor) -> Tensor:
        size = [max(1, round(side / patch)) * patch for side in frames.shape[-2:]]
        scaled = F.interpolate(frames, size, mode="bilinear", antialias=True)
        seen: Tensor = network(imagenet(scaled), **options).last_hidden_state[:, extra:]
        return seen

    return tokens
