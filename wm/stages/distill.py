"""Distil the teacher into a student of one to four steps: causal consistency distillation, guidance baked in.

The student's clean answer at level t must be the one that its average gives a teacher's step nearer to data (Song et al.
2023, 2303.01469, algorithm 2; Luo et al. 2023, 2310.04378, for the guided step). Some frames rest: they stay pure noise
and carry no loss, so that the others have the past that a rollout remembers.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wm.artifact import DenoiserWeights, load_denoiser, save_weights
from wm.batch import Batch
from wm.conditioning.caption import without_text
from wm.config import config
from wm.engine.learner import LearnerConfig
from wm.engine.protocols import Metrics, Part
from wm.flow import draw_noise, draw_uniform, time_grid
from wm.guidance import GuidanceLimits, guided
from wm.levels import draw_neighbours
from wm.models.vae import LatentScale
from wm.objectives import consistency_distillation
from wm.samplers import Consistency
from wm.stages.context import StageContext, is_first_rank
from wm.stages.film import rollout_strip
from wm.stages.frozen import FrozenModule
from wm.stages.train_dit import change_weight, shown_past


@config
class DistillConfig:
    kind: Literal["distill"] = "distill"
    teacher: str = "dit"  # folder of the stage that trained it, under the root
    vae: str = "vae"  # folder of the tokenizer, to draw pictures for the log
    learner: LearnerConfig = LearnerConfig()
    num_intervals: int = 16  # of the time grid that a teacher's step spans
    shift: float = 1.0  # of that grid: above 1 more of it lies near noise
    guidance_scale: float = 1.0  # of the teacher, which the student then has without a second call
    text_guidance_scale: float = 1.0  # of the text alone, likewise
    resting_frames: float = 0.5  # share of frames that stay pure noise and carry no loss, as the past of the others
    past_max: float = 0.2  # levels below it, at which the frame before is shown
    change_weight: float = 1.0  # as of the teacher
    change_power: float = 0.75  # likewise
    huber: float = 0.0  # width of the pseudo-Huber error; 0 is the squared error
    target_every: int = 1  # steps after which the target network takes the student's average
    num_steps: int = 2  # of a rollout with the student
    rollout_shift: float = 1.0  # of its time grid

    def build(self, context: StageContext) -> "Distill":
        return Distill(self, context)


class Distill:
    """One learner, the student; beside it the frozen teacher and the target. A Stage of engine/protocols.py."""

    def __init__(self, config: DistillConfig, context: StageContext) -> None:
        self.config, self.seed, self.context = config, context.seed, context
        folder = context.root / config.teacher / "weights"
        module, self.card = load_denoiser(folder)
        self._refuse_other_latents()
        self.flow = self.card.flow.build()
        self.scale = LatentScale(self.card.mean, self.card.std)  # the teacher's: what it learned on, it is asked on
        self.student = context.make_learner(module.requires_grad_(True).train(), config.learner)
        dtype = next(self.student.module.parameters()).dtype
        self.teacher = load_denoiser(folder, context.device)[0].to(dtype)
        self.target = FrozenModule(load_denoiser(folder, context.device)[0].to(dtype))
        self.times = time_grid(config.num_intervals, config.shift)

    def parts(self) -> Mapping[str, Part]:
        return {"student": self.student, "target": self.target}

    def step(self, batch: Batch) -> Metrics:
        metrics = self.student.update(self.loss, batch)
        if (batch.step + 1) % self.config.target_every == 0:
            self.target.copy_from(self.student)
        return metrics

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        assert batch.latents is not None, "the student trains on latents"
        x = self.scale.normalised(batch.latents)
        noise = draw_noise(x.shape[1:], self.seed, batch.step, batch.index, x.device)
        t, s = self._levels(batch, x.shape[1])
        past = shown_past(self.flow, x, self.config.past_max, self.seed, batch)
        given = {"past": past, "given": batch.given}
        nothing = torch.zeros(len(batch), dtype=torch.bool, device=x.device)
        wordless = partial(self.teacher, past=past, given=without_text(batch.given, ~nothing))
        teacher = guided(partial(self.teacher, **given), wordless, self.config.text_guidance_scale)
        teacher = guided(teacher, partial(self.teacher, **given, keep=nothing), self.config.guidance_scale)
        student, target = partial(self.student, **given), partial(self.target.module, **given)
        weight = change_weight(x, self.config.change_weight, self.config.change_power)
        return consistency_distillation(self.flow, student, target, teacher, x, t, s, noise, weight, self.config.huber)

    @torch.no_grad()
    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        """A rollout over the actions of the batch's first clips, under what really happened."""
        return rollout_strip(self.weights_card(), self.student, self.context, self.config.vae, batch)

    def weights_card(self) -> DenoiserWeights:
        return replace(
            self.card,
            sampler=Consistency(),
            num_steps=self.config.num_steps,
            shift=self.config.rollout_shift,
            times=None,
            guidance_scale=1.0,
            text_guidance_scale=1.0,
            history_guidance_scale=1.0,
            autoguidance_scale=1.0,
            guidance_limits=GuidanceLimits(),
        )

    def finish(self, folder: Path) -> Mapping[str, Any]:
        weights = self.student.weights()
        if is_first_rank():
            save_weights(folder / "weights", weights, self.weights_card())
        return {"parameters": sum(value.numel() for value in weights.values())}

    def _levels(self, batch: Batch, frames: int) -> tuple[Tensor, Tensor]:
        """(t, s) (B, T): neighbours on the grid, or pure noise twice in the frames that rest."""
        t, s = draw_neighbours(self.times, self.seed, batch.step, batch.index, frames)
        rests = draw_uniform((frames,), self.seed, batch.step, batch.index, stream="rest") < self.config.resting_frames
        device = self.context.device
        return t.masked_fill(rests, 1.0).to(device), s.masked_fill(rests, 1.0).to(device)

    def _refuse_other_latents(self) -> None:
        latents = self.context.facts.latents
        if latents is None or latents.vae_hash != self.card.vae_hash:
            raise ValueError(
                f"the teacher was trained on latents of tokenizer {self.card.vae_hash}, and this dataset holds "
                f"{'frames' if latents is None else 'latents of ' + latents.vae_hash}: give it the teacher's latents"
            )
