"""Frames to latents by the frozen tokenizer, captions to tokens by a frozen text encoder. Files and shards are the caller's."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm.artifact import load_vae
from wm.conditioning.text import PretrainedTextConfig
from wm.conditioning.text_cache import encoder_hash
from wm.config import config
from wm.models.tiling import TilingConfig
from wm.models.vae import to_unit_range
from wm.nn.causal import FrameCache
from wm.precision import Precision, dtype_of
from wm.stages.clip_filter import ClipFilterConfig


@config
class EncodeLatentsConfig:
    kind: Literal["encode_latents"] = "encode_latents"
    vae: str = "vae"  # folder of the stage that trained the tokenizer, under the root
    batch_frames: int = 64  # encoded at once
    precision: Precision = "float32"  # of the tokenizer while it encodes
    tiling: TilingConfig | None = None  # for frames that do not fit the memory; then its `frames` go through at once
    text: PretrainedTextConfig | None = None  # encodes the captions too, once and for all; None leaves them words
    keep: ClipFilterConfig = ClipFilterConfig()  # which clips are encoded at all

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
        self.dtype = dtype_of(config.precision)
        self.vae.to(self.dtype)
        self.text = None if config.text is None else config.text.build()
        self.text_hash = "" if config.text is None else encoder_hash(config.text)

    @torch.inference_mode()
    def encode(self, video: np.ndarray) -> np.ndarray:
        """Raw latents (T, C, h, w) float16 of frames (T, H, W, 3) uint8: the posterior's mean, without its noise."""
        frames = torch.from_numpy(video).permute(0, 3, 1, 2).unsqueeze(0)
        if self.config.tiling is not None:
            means = self.config.tiling.build(self.vae).encode(self._scaled(frames)).mean
        else:
            cache, parts = FrameCache(), frames.split(self.config.batch_frames, dim=1)
            means = torch.cat([self.vae.encode(self._scaled(part), cache).mean for part in parts], dim=1)
        return means[0].to(torch.float16).cpu().numpy()

    def _scaled(self, frames: Tensor) -> Tensor:
        return to_unit_range(frames.to(self.device)).to(self.dtype)

    def encode_caption(self, caption: str) -> Tensor:
        """(L, width) the real tokens of a caption, in the precision of the text encoder."""
        assert self.text is not None, "encode_caption is for a config with text"
        tokens, mask = self.text((caption,), self.device)
        return tokens[0][mask[0]].cpu()
