"""Train the tokenizer: reconstruction and a small KL first; late, a patch critic for the decoder with the encoder frozen.

Adversarial training of the whole autoencoder spoils its latents (owl-vaes), so from `critic_start` on the encoder is a
frozen copy of its average, and only the decoder goes on learning; `freeze_encoder: false` trains both to the end.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wm.artifact import VAEWeights, save_weights
from wm.batch import Batch
from wm.config import config
from wm.engine.learner import LearnerConfig
from wm.engine.protocols import Metrics, Part
from wm.flow import draw_noise
from wm.losses import Mixed, Reconstruction, TermConfig
from wm.losses.adversarial import CriticLoss, adaptive_share, critic_loss, fooling_loss, r1_penalty
from wm.losses.importance import importance
from wm.models.critic import PatchCriticConfig
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
    reconstruction: tuple[TermConfig, ...] = (Mixed(),)
    kl_weight: float = 1e-4  # per latent, against errors per pixel value; the beta of a beta-VAE (Higgins et al. 2017)
    edge_weight: float = 2.0  # how much more a pixel on an edge counts: text, lines, the cursor
    change_weight: float = 0.0  # and one that changed since the frame before
    critic_start: float = 1.0  # part of the run's steps after which the encoder freezes and the critic joins; 1: never
    freeze_encoder: bool = True  # when the critic joins
    critic_loss: CriticLoss = "hinge"
    critic_weight: float = 0.01
    adaptive_critic: bool = False  # then critic_weight is the critic's pull at the frames over the reconstruction's
    r1_weight: float = 0.0  # of the critic's squared slope on real frames

    def __post_init__(self) -> None:
        if self.critic_learner.zero_stage == 3 and (self.adaptive_critic or self.r1_weight):
            raise ValueError(
                "adaptive_critic and r1_weight ask for slopes of the critic before its update, when ZeRO 3 has no whole "
                "critic: give critic_learner a zero_stage of at most 2"
            )
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
        self.reconstruction = Reconstruction(config.reconstruction, context.device)

    def parts(self) -> Mapping[str, Part]:
        return {"vae": self.vae, "critic": self.critic, "encoder": self.encoder}

    def step(self, batch: Batch) -> Metrics:
        vae, critic = self.vae.module, self.critic.module
        assert isinstance(vae, VideoVAE)
        if batch.step < self.critic_start:
            self._train_only(vae)
            return self.vae.update(self.autoencoder_loss, batch)
        if batch.step == self.critic_start and self.config.freeze_encoder:
            self.encoder.copy_from(self.vae)
        self._train_only(vae.decoder if self.config.freeze_encoder else vae)
        metrics = dict(self.vae.update(self.fooling_loss, batch))
        self._train_only(critic)
        for name, value in self.critic.update(self.critic_loss, batch).items():
            metrics[f"critic/{name}"] = value
        return metrics

    def autoencoder_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted reconstruction plus KL (Kingma & Welling 2014, equation 10)."""
        video = self._video(batch)
        made, posterior = self.vae(video, self._noise(batch))
        reconstruction, metrics = self._reconstruction(video, made)
        kl = posterior.kl()
        return reconstruction + self.config.kl_weight * kl, {**metrics, "kl": kl.detach()}

    def fooling_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted reconstruction plus what the critic says of the frames; latents come frozen, or pay their KL."""
        video, config = self._video(batch), self.config
        # Through the forward of the learner: what ZeRO-3 partitions is gathered there and nowhere else.
        made, posterior = self.vae(video, self._noise(batch), self._frozen_posterior(batch))
        verdict = self.critic.module(made)
        fooling = fooling_loss(verdict, config.critic_loss)
        loss, metrics = self._reconstruction(video, made)
        metrics["fooling"] = fooling.detach()
        if not config.freeze_encoder:
            kl = posterior.kl()
            loss, metrics["kl"] = loss + config.kl_weight * kl, kl.detach()
        if config.adaptive_critic:
            share = adaptive_share(loss, fooling, made)
            metrics["critic_share"] = share.mean()
            fooling = fooling_loss(verdict, config.critic_loss, share)
        return loss + config.critic_weight * fooling, metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The critic's own loss on real and decoded frames, and its slope on real ones where that has a weight."""
        video, config = self._video(batch), self.config
        with torch.no_grad():
            made, _ = self.vae.module(video, self._noise(batch), self._frozen_posterior(batch))
        video.requires_grad_(config.r1_weight > 0)
        real, fake = self.critic(torch.cat([video, made])).chunk(2)
        loss, metrics = critic_loss(real, fake, config.critic_loss), {"real": real.detach().mean()}
        if config.r1_weight:
            slope = r1_penalty(real, video)
            loss, metrics["r1"] = loss + config.r1_weight * slope, slope.detach()
        return loss, {**metrics, "made": fake.detach().mean()}

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
    def _frozen_posterior(self, batch: Batch) -> Posterior | None:
        return self.encoder.module.encode(self._video(batch)) if self.config.freeze_encoder else None

    def _reconstruction(self, video: Tensor, made: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all terms, and what is logged of it."""
        counts = importance(video, self.config.edge_weight, self.config.change_weight)
        total, terms = self.reconstruction(made, video, counts)
        metrics = {"reconstruction": total.detach(), "psnr_db": _psnr(video, made)}
        return total, metrics | ({f"reconstruction/{kind}": v for kind, v in terms.items()} if len(terms) > 1 else {})


def _psnr(video: Tensor, made: Tensor) -> Tensor:
    error = (made.detach().float().clamp(-1, 1) - video).square().mean() / 4
    return -10 * torch.log10(error)
