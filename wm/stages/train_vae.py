"""Train the tokenizer: reconstruction and a small KL first; late, a patch critic for the decoder with the encoder frozen.

Adversarial training of the whole autoencoder spoils its latents (owl-vaes), so from `critic_start` on the encoder is a
frozen copy of its average, and only the decoder goes on learning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm.artifact import VAEWeights, save_weights
from wm.batch import Batch
from wm.config import config
from wm.engine.learner import LearnerConfig
from wm.engine.protocols import Metrics, Part
from wm.flow import draw_noise
from wm.models.critic import PatchCriticConfig, critic_loss, fooling_loss
from wm.models.vae import Posterior, VideoVAE, VideoVAEConfig, to_unit_range
from wm.stages.context import StageContext, is_first_rank
from wm.stages.frozen import FrozenModule


@config
class TrainVAEConfig:
    kind: Literal["train_vae"] = "train_vae"
    vae: VideoVAEConfig = VideoVAEConfig()
    critic: PatchCriticConfig = PatchCriticConfig()
    learner: LearnerConfig = LearnerConfig()
    critic_learner: LearnerConfig = LearnerConfig()
    kl_weight: float = 1e-4  # per latent, against errors per pixel value
    edge_weight: float = 2.0  # how much more a pixel on an edge counts: text, lines, the cursor
    critic_start: float = 1.0  # part of the run's steps after which the encoder freezes and the critic joins; 1: never
    critic_weight: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.critic_start <= 1:
            raise ValueError(f"critic_start is {self.critic_start}: give it as a part of the run's steps, from 0 to 1")

    def build(self, context: StageContext) -> "TrainVAE":
        return TrainVAE(self, context)


class TrainVAE:
    """Two learners, the autoencoder and the critic; a Stage of engine/protocols.py."""

    def __init__(self, config: TrainVAEConfig, context: StageContext) -> None:
        self.config, self.seed = config, context.seed
        self.critic_start = round(config.critic_start * context.num_steps)  # the first step with the critic
        torch.manual_seed(context.seed)
        self.vae = context.make_learner(config.vae.build(), config.learner)
        self.critic = context.make_learner(config.critic.build(), config.critic_learner)
        dtype = next(self.vae.module.parameters()).dtype
        # Outside the learner: what is frozen is neither partitioned nor moved by an optimizer's momentum.
        self.encoder = FrozenModule(config.vae.build().to(context.device, dtype))

    def parts(self) -> Mapping[str, Part]:
        return {"vae": self.vae, "critic": self.critic, "encoder": self.encoder}

    def step(self, batch: Batch) -> Metrics:
        vae, critic = self.vae.module, self.critic.module
        assert isinstance(vae, VideoVAE)
        if batch.step < self.critic_start:
            self._train_only(vae)
            return self.vae.update(self.autoencoder_loss, batch)
        if batch.step == self.critic_start:
            self.encoder.copy_from(self.vae)
        self._train_only(vae.decoder)
        metrics = dict(self.vae.update(self.decoder_loss, batch))
        self._train_only(critic)
        for name, value in self.critic.update(self.critic_loss, batch).items():
            metrics[f"critic/{name}"] = value
        return metrics

    def autoencoder_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted reconstruction plus KL (Kingma & Welling 2014, equation 10)."""
        video = self._video(batch)
        made, posterior = self.vae(video, self._noise(batch))
        reconstruction, kl = self._reconstruction(video, made), posterior.kl()
        metrics = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "psnr_db": _psnr(video, made)}
        return reconstruction + self.config.kl_weight * kl, metrics

    def decoder_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted reconstruction plus what the critic says of the decoder's frames; latents come frozen."""
        video = self._video(batch)
        # Through the forward of the learner: what ZeRO-3 partitions is gathered there and nowhere else.
        made, _ = self.vae(video, self._noise(batch), self._frozen_posterior(batch))
        fooling = fooling_loss(self.critic.module(made))
        reconstruction = self._reconstruction(video, made)
        metrics = {
            "reconstruction": reconstruction.detach(),
            "fooling": fooling.detach(),
            "psnr_db": _psnr(video, made),
        }
        return reconstruction + self.config.critic_weight * fooling, metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        video = self._video(batch)
        with torch.no_grad():
            made, _ = self.vae.module(video, self._noise(batch), self._frozen_posterior(batch))
        real, fake = self.critic(torch.cat([video, made])).chunk(2)
        return critic_loss(real, fake), {"real": real.detach().mean(), "made": fake.detach().mean()}

    @torch.no_grad()
    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        """The first frames of the batch above their reconstructions."""
        video = self._video(batch)[:4, :1]
        with self.vae.averaged() as average:
            assert isinstance(average, VideoVAE)
            encoder = self.encoder.module if self.encoder.filled else average
            made = average.decode(encoder.encode(video).mean).float()
        rows = torch.cat([video, made], dim=1).add(1).div(2).clamp(0, 1)
        return {"reconstruction": torch.cat([torch.cat(list(pair), dim=1) for pair in rows], dim=2)}

    def finish(self, folder: Path) -> Mapping[str, Any]:
        weights = dict(self.vae.weights())
        if self.encoder.filled:
            frozen = self.encoder.module.state_dict()
            weights |= {name: value for name, value in frozen.items() if name.startswith("encoder.")}
        if is_first_rank():
            save_weights(folder / "weights", weights, VAEWeights(vae=self.config.vae))
        return {"parameters": sum(value.numel() for value in weights.values())}

    def _train_only(self, module: nn.Module) -> None:
        """Everything else frozen: engines share a process badly, and ZeRO 3 would step on gradients long past."""
        for learner in (self.vae, self.critic):
            learner.module.requires_grad_(False)
        module.requires_grad_(True)

    def _video(self, batch: Batch) -> Tensor:
        assert batch.video is not None, "the tokenizer trains on frames"
        return to_unit_range(batch.video)

    def _noise(self, batch: Batch) -> Tensor:
        assert batch.video is not None
        vae, (height, width) = self.config.vae, batch.video.shape[-2:]
        num_latents = vae.num_latents(batch.video.shape[1])
        shape = (num_latents, vae.latent_channels, height // vae.stride, width // vae.stride)
        return draw_noise(shape, self.seed, batch.step, batch.index, batch.video.device, stream="posterior")

    @torch.no_grad()
    def _frozen_posterior(self, batch: Batch) -> Posterior:
        return self.encoder.module.encode(self._video(batch))

    def _reconstruction(self, video: Tensor, made: Tensor) -> Tensor:
        difference = made.float() - video
        error = difference.square() + 0.1 * difference.abs()
        return (error * (1.0 + self.config.edge_weight * edges(video))).mean()


def edges(video: Tensor) -> Tensor:
    """How strongly each pixel of (B, T, C, H, W) differs from its neighbours, (B, T, 1, H, W) in [0, 1]."""
    right = F.pad((video[..., :, 1:] - video[..., :, :-1]).abs().amax(2, keepdim=True), (0, 1))
    below = F.pad((video[..., 1:, :] - video[..., :-1, :]).abs().amax(2, keepdim=True), (0, 0, 0, 1))
    across, down = right + F.pad(right[..., :, :-1], (1, 0)), below + F.pad(below[..., :-1, :], (0, 0, 1, 0))
    return (across + down).clamp(max=1.0)


def _psnr(video: Tensor, made: Tensor) -> Tensor:
    error = (made.detach().float().clamp(-1, 1) - video).square().mean() / 4
    return -10 * torch.log10(error)
