"""Train the teacher: flow matching over clips of latents, a noise level for every frame (Chen et al. 2024, 2407.01392)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wm.artifact import DenoiserWeights, save_weights
from wm.batch import Batch
from wm.conditioning.caption import without_text
from wm.config import config
from wm.engine.learner import LearnerConfig
from wm.engine.protocols import Metrics, Part
from wm.flow import Flow, FlowConfig, draw_noise, draw_uniform
from wm.guidance import GuidanceLimits
from wm.level_weights import LevelWeightConfig, PowerWeight
from wm.levels import LevelsConfig, RolloutLevels, draw_levels, frames_to_learn
from wm.models.denoiser import DenoiserConfig, WorldShape
from wm.models.memory import Past
from wm.models.vae import LatentScale
from wm.objectives import flow_matching
from wm.samplers import Euler, SamplerConfig
from wm.stages.context import DatasetFacts, StageContext, is_first_rank
from wm.stages.drawn import Drawn, in_a_row
from wm.stages.film import rollout_strip
from wm.time_grids import TimesConfig


@config
class TrainDiTConfig:
    kind: Literal["train_dit"] = "train_dit"
    vae: str = "vae"  # folder of the tokenizer under the root, to draw pictures for the log
    denoiser: DenoiserConfig = DenoiserConfig()
    flow: FlowConfig = FlowConfig()
    levels: LevelsConfig = RolloutLevels()
    learner: LearnerConfig = LearnerConfig()
    level_power: float = 1.0  # errors of the prediction count t^level_power: near data a velocity is mostly noise
    level_weight: LevelWeightConfig | None = None  # in place of level_power: by the signal-to-noise ratio
    huber: float = 0.0  # width of the pseudo-Huber error, which rare events do not rule; 0 is the squared error
    change_weight: float = 1.0  # how much more latents count that differ from the frame before, if all of them do
    change_power: float = 0.75  # how much more again where few do; 1: an event counts the same, whatever its size
    learn_first: bool = True  # whether a clip's first frame counts: only a world that begins from nothing needs it
    drop_condition: float = 0.05  # share of clips trained without condition, for guidance
    drop_text: float = 0.1  # share of clips trained without their text alone
    context_level: float = 0.05  # at which a rollout shows past frames
    past_max: float = 0.2  # levels below it, at which the frame before is shown
    sampler: SamplerConfig = Euler()  # of a rollout
    num_steps: int = 16
    shift: float = 1.0  # of its time grid
    times: TimesConfig | None = None  # another time grid
    rest_below: float = (
        0.0  # what would change less from one frame to the next, in latents' deviations, does not: no creeping
    )
    guidance_scale: float = 1.0
    text_guidance_scale: float = 1.0  # of the text alone
    history_guidance_scale: float = 1.0  # of the frames before
    autoguidance_scale: float = 1.0  # away from a weak model, which export and evaluate name
    guidance_limits: GuidanceLimits = GuidanceLimits()

    def __post_init__(self) -> None:
        if self.denoiser.dit.guess and self.flow.path != "rectified":
            raise ValueError(
                f"dit.guess knows the rectified path alone and flow.path is {self.flow.path}: set dit.guess=false"
            )

    def build(self, context: StageContext) -> "TrainDiT":
        return TrainDiT(self, context)


class TrainDiT:
    """One learner; a Stage of engine/protocols.py."""

    def __init__(self, config: TrainDiTConfig, context: StageContext) -> None:
        self.config, self.seed, self.context = config, context.seed, context
        self.flow = config.flow.build()
        by_level = PowerWeight(power=config.level_power) if config.level_weight is None else config.level_weight
        self.level_weight = by_level.build(self.flow)
        self.shape, self.scale = world_of(context.facts)
        torch.manual_seed(context.seed)
        self.denoiser = context.make_learner(config.denoiser.build(self.shape), config.learner)

    def parts(self) -> Mapping[str, Part]:
        return {"denoiser": self.denoiser}

    def step(self, batch: Batch) -> Metrics:
        return self.denoiser.update(self.loss, batch)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        drawn = in_a_row([self._drawn(clip) for clip in batch.clips()]) if batch.lengths else self._drawn(batch)

        keep = drawn.keep if self.config.drop_condition else None  # the empty condition costs a text encoder once more

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x_t, t, drawn.past, drawn.given, keep, lengths=batch.lengths)

        x, t, noise, weight = drawn[:4]
        return flow_matching(self.flow, predict, x, t, noise, weight, self.level_weight, self.config.huber)

    def _drawn(self, batch: Batch) -> Drawn:
        assert batch.latents is not None, "the denoiser trains on latents"
        x = self.scale.normalised(batch.latents)
        places = x[0, :, 0].numel()  # of a clip
        t = draw_levels(self.config.levels, self.seed, batch.step, batch.index, x.shape[1], self.flow, places).to(
            x.device
        )
        noise = draw_noise(x.shape[1:], self.seed, batch.step, batch.index, x.device)
        kept = draw_uniform((), self.seed, batch.step, batch.index, stream="drop") >= self.config.drop_condition
        keep = kept.to(x.device)
        past = shown_past(self.flow, x, self.config.past_max, self.seed, batch)
        wordless = draw_uniform((), self.seed, batch.step, batch.index, stream="drop text") < self.config.drop_text
        given = without_text(batch.given, wordless)
        weight = change_weight(x, self.config.change_weight, self.config.change_power) * frames_to_learn(t)
        if not self.config.learn_first:
            weight[:, 0] = 0
        return Drawn(x, t, noise, weight, past, given, keep)

    @torch.no_grad()
    def sample(self, batch: Batch) -> Mapping[str, Tensor]:
        """A rollout over the actions of the batch's first clips, under what really happened."""
        return rollout_strip(self.weights_card(), self.denoiser, self.context, self.config.vae, batch)

    def weights_card(self) -> DenoiserWeights:
        config, latents = self.config, self.context.facts.latents
        assert latents is not None
        return DenoiserWeights(
            denoiser=config.denoiser,
            shape=self.shape,
            flow=config.flow,
            mean=latents.mean,
            std=latents.std,
            vae_hash=latents.vae_hash,
            context_level=config.context_level,
            sampler=config.sampler,
            num_steps=config.num_steps,
            shift=config.shift,
            times=config.times,
            rest_below=config.rest_below,
            guidance_scale=config.guidance_scale,
            text_guidance_scale=config.text_guidance_scale,
            history_guidance_scale=config.history_guidance_scale,
            autoguidance_scale=config.autoguidance_scale,
            guidance_limits=config.guidance_limits,
        )

    def finish(self, folder: Path) -> Mapping[str, Any]:
        weights = self.denoiser.weights()
        if is_first_rank():
            save_weights(folder / "weights", weights, self.weights_card())
        return {"parameters": sum(value.numel() for value in weights.values())}


def world_of(facts: DatasetFacts) -> tuple[WorldShape, LatentScale]:
    """The shape that a denoiser is built for, and the scale of the latents that it sees."""
    latents = facts.latents
    if latents is None:
        raise ValueError("this dataset holds frames and a denoiser trains on latents: point data.folder to the latents")
    shape = WorldShape(
        action_space=facts.action_space,
        channels=len(latents.mean),
        rows=facts.height // latents.stride,
        columns=facts.width // latents.stride,
        stride=latents.stride,
    )
    return shape, LatentScale(latents.mean, latents.std)


def shown_past(flow: Flow, x: Tensor, highest: float, seed: int, batch: Batch) -> Past:
    """The past of each frame of `x` (B, T, C, H, W) at random small levels, whatever level the frame itself has.

    So every frame of a clip is learned as a rollout will ask for it, after a frame that is nearly clean.
    """
    level = highest * draw_uniform(x.shape[1:2], seed, batch.step, batch.index, stream="past level").to(x.device)
    noise = draw_noise(x.shape[1:], seed, batch.step, batch.index, x.device, stream="past")
    return Past.of(flow.noised(x, noise, level), level, x)


def change_weight(x: Tensor, weight: float, power: float, threshold: float = 0.25) -> Tensor:
    """(B, T, 1, H, W): 1, and where normalised latents differ from the frame before by more than `threshold` more.

    More by weight x (share of the frame that changed)^(-power): a screen is mostly idle, and without it the few latents of
    an event are lost among those that stay, and a typed letter beside a window that opens. A place that changes with
    probability p is better held than redrawn only while p < 1 / (2 + more): too much more, and what should stay is redrawn.
    """
    moved = torch.diff(x, dim=1, prepend=x[:, :1]).abs().mean(2, keepdim=True) > threshold
    share = moved.to(x.dtype).mean((2, 3, 4), keepdim=True)
    # Where nothing changed nothing is weighted, and any share will do.
    return 1.0 + weight * moved.to(x.dtype) * share.clamp_min(1e-6).pow(-power)
