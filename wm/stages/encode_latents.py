"""Frames to latents by the frozen tokenizer. Files and shards are the caller's."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from wm.artifact import load_vae
from wm.config import config
from wm.models.vae import to_unit_range
from wm.nn.causal import FrameCache


@config
class EncodeLatentsConfig:
    kind: Literal["encode_latents"] = "encode_latents"
    vae: str = "vae"  # folder of the stage that trained the tokenizer, under the root
    batch_frames: int = 64  # encoded at once
    precision: Literal["float32", "bfloat16"] = "float32"  # of the tokenizer while it encodes

    def build(self, root: Path, device: torch.device) -> "Encoder":
        return Encoder(self, root, device)


class Encoder:
    def __init__(self, config: EncodeLatentsConfig, root: Path, device: torch.device) -> None:
        self.config, self.device = config, device
        self.vae, self.vae_hash = load_vae(root / config.vae / "weights", device)
        self.stride = self.vae.stride
        if self.vae.temporal_stride != 1:
            raise ValueError(
                f"the tokenizer in {root / config.vae} makes one latent of {self.vae.temporal_stride} frames, and a dataset "
                "of latents has one for the action of each frame: train one of temporal_stride 1"
            )
        self.dtype = getattr(torch, config.precision)
        self.vae.to(self.dtype)

    @torch.inference_mode()
    def encode(self, video: np.ndarray) -> np.ndarray:
        """Raw latents (T, C, h, w) float16 of frames (T, H, W, 3) uint8: the posterior's mean, without its noise."""
        frames = torch.from_numpy(video).permute(0, 3, 1, 2).unsqueeze(0)
        cache = FrameCache()
        parts = [
            self.vae.encode(to_unit_range(part.to(self.device)).to(self.dtype), cache).mean[0]
            for part in frames.split(self.config.batch_frames, dim=1)
        ]
        return torch.cat(parts).to(torch.float16).cpu().numpy()
