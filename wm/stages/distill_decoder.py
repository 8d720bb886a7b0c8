"""Distill a small fast decoder from the tokenizer's large one, for playing: the same latents, the same interface.

What comes out is a tokenizer whose encoder is the large one's, bit for bit, and whose latents are therefore those that
models were trained on. The small decoder is held to what the large one draws, and a little to the recording itself.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wm.artifact import VAEWeights, load_vae, save_weights
from wm.batch import Batch
from wm.config import config
from wm.engine.learner import LearnerConfig
from wm.engine.protocols import Metrics, Part
from wm.flow import draw_noise
from wm.losses import Mixed, Reconstruction, TermConfig
from wm.losses.importance import importance
from wm.measures import psnr
from wm.models.vae import Posterior, VideoVAE, to_unit_range
from wm.stages.context import StageContext, is_first_rank


@config
class DistillDecoderConfig:
    kind: Literal["distill_decoder"] = "distill_decoder"
    vae: str = "vae"  # folder of the tokenizer under the root
    decoder_widths: tuple[int, ...]  # of the small decoder, one per resolution as the large one's
    decoder_depth: int = 1
    learner: LearnerConfig = LearnerConfig()
    reconstruction: tuple[TermConfig, ...] = (Mixed(),)
    truth_weight: float = 0.5  # of the error to the recording, beside that to the large decoder
    edge_weight: float = 2.0  # how much more a pixel on an edge counts
    change_weight: float = 0.0  # and one that changed since the frame before

    def build(self, context: StageContext) -> "DistillDecoder":
        return DistillDecoder(self, context)


class DistillDecoder:
    """One learner, the tokenizer with a small decoder and a frozen encoder; a Stage of engine/protocols.py."""

    def __init__(self, config: DistillDecoderConfig, context: StageContext) -> None:
        self.config, self.seed = config, context.seed
        self.large, self.hash = load_vae(context.root / config.vae / "weights", context.device)
        self.small = dataclasses.replace(
            self.large.config, decoder_widths=config.decoder_widths, decoder_depth=config.decoder_depth
        )
        torch.manual_seed(context.seed)
        module = self.small.build()
        module.encoder.load_state_dict(self.large.encoder.state_dict())
        module.encoder.requires_grad_(False)
        self.vae = context.make_learner(module, config.learner)
        self.reconstruction = Reconstruction(config.reconstruction, context.device)

    def parts(self) -> Mapping[str, Part]:
        return {"vae": self.vae}

    def step(self, batch: Batch) -> Metrics:
        return self.vae.update(self.loss, batch)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Error to the large decoder's frames from the same latents, plus the weighted error to the recording."""
        assert batch.video is not None, "a decoder trains on frames"
        video, weights = to_unit_range(batch.video), self.config
        with torch.no_grad():
            posterior = self.large.encode(video)
            noise = self._noise(posterior, batch)
            goal, _ = self.large(video, noise, posterior)
        made, _ = self.vae(video, noise, posterior)
        counts = importance(video, weights.edge_weight, weights.change_weight)
        (copied, _), (true, _) = (self.reconstruction(made, real, counts) for real in (goal, video))
        near = psnr((made.detach().float() + 1) / 2, (goal + 1) / 2).mean()
        metrics = {"to_large": copied.detach(), "to_recording": true.detach(), "psnr_to_large_db": near}
        return copied + weights.truth_weight * true, metrics

    def _noise(self, posterior: Posterior, batch: Batch) -> Tensor:
        shape = tuple(posterior.mean.shape[1:])
        return draw_noise(shape, self.seed, batch.step, batch.index, posterior.mean.device, stream="posterior")

    @torch.no_grad()
    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        """The first frames of the batch above what the large and the small decoder make of them."""
        assert batch.video is not None
        video = to_unit_range(batch.video)[:4, :1]
        latents = self.large.encode(video).mean
        with self.vae.averaged() as average:
            assert isinstance(average, VideoVAE)
            made = average.decode(latents).float()
        rows = torch.cat([video, self.large.decode(latents), made], dim=1).add(1).div(2).clamp(0, 1)
        return {"decoders": torch.cat([torch.cat(list(three), dim=1) for three in rows], dim=2)}

    def finish(self, folder: Path) -> Mapping[str, Any]:
        """The tokenizer with the small decoder; it carries the hash of the one whose latents it shares."""
        large = {f"encoder.{name}": value for name, value in self.large.encoder.state_dict().items()}
        weights = dict(self.vae.weights()) | large
        if is_first_rank():
            save_weights(folder / "weights", weights, VAEWeights(vae=self.small, latents=self.hash))
        return {"parameters": sum(v.numel() for n, v in weights.items() if n.startswith("decoder."))}
