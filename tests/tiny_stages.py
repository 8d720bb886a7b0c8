"""Training stages over the tiny world, with data in memory. Run as `tiny_stages.py FOLDER [tokenizers] ZERO_STAGE...` it is
the process that test_stages.py starts to hold ZeroLearner to LocalLearner in every stage.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_world import CARD, COLUMNS, DENOISER, HEIGHT, ROWS, SPACE, STRIDE, VAE, WIDTH, denoiser, some_action, vae
from torch import Tensor

from wm.artifact import DenoiserWeights, VAEWeights, load_vae, save_weights
from wm.batch import Batch, Given
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.protocols import Stage
from wm.engine.world import World
from wm.models.critic import PatchCriticConfig
from wm.models.denoiser import DenoiserConfig
from wm.models.dit import DiTConfig
from wm.stages.context import DatasetFacts, StageContext
from wm.stages.distill import DistillConfig
from wm.stages.distill_decoder import DistillDecoderConfig
from wm.stages.train_dit import TrainDiTConfig
from wm.stages.train_vae import TrainVAEConfig

FAST = LearnerConfig(learning_rate=5e-3, warmup_steps=0, average_decay=0.5)
PARITY = dataclasses.replace(FAST, learning_rate=1e-3, micro_batch_size=1)
ALONE = World.single()
B, T = 2, 4
NUM_STEPS = 20  # of the run that a stage believes to be in
CONFIGS: dict[str, type] = {"train_vae": TrainVAEConfig, "train_dit": TrainDiTConfig, "distill": DistillConfig}


@dataclass(frozen=True)
class Latents:
    """What a dataset of latents says of itself."""

    mean: tuple[float, ...] = CARD.mean
    std: tuple[float, ...] = CARD.std
    vae_hash: str = ""
    stride: int = STRIDE


def frames(seed: int = 0) -> Tensor:
    """(B, T, 3, H, W) uint8: a gradient with a bright square that moves."""
    video = torch.linspace(40, 120, WIDTH).expand(B, T, 3, HEIGHT, WIDTH).clone()
    for b in range(B):
        for t in range(T):
            left = (seed + 3 * b + 2 * t) % (WIDTH - 5)
            video[b, t, :, 4:9, left : left + 5] = 230.0
    return video.to(torch.uint8)


def batch(step: int, kind: str, seed: int | None = None) -> Batch:
    """Global batch `step`; its data is drawn from `seed`, or from the step."""
    seed = step if seed is None else seed
    given = Given(action=some_action(B, T, seed=seed))
    index = torch.arange(B * step, B * step + B)
    if kind in ("train_vae", "distill_decoder"):
        return Batch(step=step, index=index, given=given, video=frames(seed))
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        step=step, index=index, given=given, latents=torch.randn(B, T, 3, ROWS, COLUMNS, generator=generator).half()
    )


def open_batches(kind: str) -> Callable[[int], Iterator[tuple[Batch, int]]]:
    def open_at(cursor: int) -> Iterator[tuple[Batch, int]]:
        while True:
            cursor += B
            yield batch(cursor // B - 1, kind), cursor

    return open_at


def make_root(folder: Path) -> Path:
    """A run folder in which a tokenizer and a teacher are finished."""
    save_weights(folder / "vae" / "weights", vae().state_dict(), VAEWeights(vae=VAE))
    card = DenoiserWeights(**{**vars(CARD), "vae_hash": vae_hash(folder), "sampler": "euler"})
    save_weights(folder / "dit" / "weights", denoiser(2).state_dict(), card)
    return folder


def vae_hash(root: Path) -> str:
    return load_vae(root / "vae" / "weights")[1]


def context(root: Path, learner: type = LocalLearner, world: World = ALONE, **latents: Any) -> StageContext:
    facts = Latents(**{"vae_hash": vae_hash(root), **latents})
    return StageContext(
        root=root,
        make_learner=lambda module, config: learner(module, config, num_steps=NUM_STEPS, world=world),
        device=torch.device("cpu"),
        seed=5,
        num_steps=NUM_STEPS,
        facts=DatasetFacts(SPACE, SPACE.fps, HEIGHT, WIDTH, facts),
    )


def make(kind: str, where: StageContext, learner: LearnerConfig = FAST, **changes: Any) -> Any:
    """The stage of `kind`, as small as its networks."""
    small: dict[str, Any] = {"learner": learner}
    if kind == "train_vae":
        critic = PatchCriticConfig(patch=2, width=6, depth=1)
        small |= {"vae": VAE, "critic": critic, "critic_learner": learner, "critic_start": 2 / NUM_STEPS}
    if kind == "train_dit":
        small |= {"denoiser": DENOISER, "drop_condition": 0.5, "num_steps": 2}
    if kind == "distill_decoder":
        return DistillDecoderConfig(**{**small, "decoder_widths": (3, 4), **changes}).build(where)
    return CONFIGS[kind](**{**small, **changes}).build(where)


def run(stage: Stage, kind: str, first: int, last: int, world: World = ALONE) -> float:
    """The loss of the last of the steps first ... last - 1, on this rank's part of the data."""
    for step in range(first, last):
        metrics = stage.step(batch(step, kind)[world.rank :: world.world_size])
    return float(metrics["loss"])


def parity(zero_stage: int, precision: str, root: Path, world: World) -> dict[str, float]:
    """By kind, the largest difference between what ZeroLearner leaves after all that a run does and what LocalLearner does."""
    from wm.engine.zero import ZeroLearner

    found = {}
    settings = dataclasses.replace(PARITY, zero_stage=zero_stage, precision=precision)
    # Wide enough that ZeRO 3 partitions some parameters and keeps others whole.
    wide = DenoiserConfig(dit=DiTConfig(hidden_size=192, depth=1, num_heads=2, patch_size=2, window=3))
    changes: dict[str, dict[str, Any]] = {
        "train_dit": {"denoiser": wide},
        "distill": {"teacher": "train_dit-LocalLearner", "guidance_scale": 1.5},
    }
    for kind in CONFIGS:
        left = []
        for learner, place in ((LocalLearner, ALONE), (ZeroLearner, world)):
            stage = make(kind, context(root, learner, place), settings, **changes.get(kind, {}))
            run(stage, kind, 0, 3, place)
            stage.sample(batch(3, kind)[place.rank :: place.world_size])
            run(stage, kind, 3, 4, place)
            stage.finish(root / f"{kind}-{learner.__name__}")
            world.barrier()
            left.append(next(iter(stage.parts().values())).weights())
        found[kind] = max((left[0][name] - left[1][name]).abs().max().item() for name in left[0])
    return found


def critics(zero_stage: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Tokenizers whose loss asks for slopes of the critic, which ZeRO 3 must not partition, and the fast decoder."""
    critic_learner = dataclasses.replace(PARITY, zero_stage=min(2, zero_stage))
    sloped = {"adaptive_critic": True, "r1_weight": 0.5, "critic_learner": critic_learner}
    both = {"freeze_encoder": False, "critic_loss": "logistic", "critic_start": 0.0}
    return {
        "decoder against the critic": ("train_vae", sloped),
        "all against the critic": ("train_vae", sloped | both),
        "fast decoder": ("distill_decoder", {}),
    }


def tokenizer_parity(zero_stage: int, root: Path, world: World) -> dict[str, float]:
    """As `parity`, of tokenizers, over all that learns; in float32."""
    from wm.engine.zero import ZeroLearner

    settings, found = dataclasses.replace(PARITY, zero_stage=zero_stage), {}
    for name, (kind, changes) in critics(zero_stage).items():
        left: list[dict[str, Tensor]] = []
        for learner, place in ((LocalLearner, ALONE), (ZeroLearner, world)):
            stage = make(kind, context(root, learner, place), settings, **changes)
            run(stage, kind, 0, 4, place)
            parts = {part: one.weights() for part, one in stage.parts().items() if isinstance(one, learner)}
            left.append({f"{part}.{key}": value for part, weights in parts.items() for key, value in weights.items()})
        found[name] = max((left[0][key] - left[1][key]).abs().max().item() for key in left[0])
    return found


def main(folder: Path, zero_stages: list[str]) -> None:
    torch.set_num_threads(1)
    world, results = World.from_environment("cpu", timeout_seconds=120), {}
    tokenizers = zero_stages[0] == "tokenizers"
    precisions = ("float32",) if tokenizers else ("float32", "bfloat16")
    for case in ((int(stage), precision) for stage in zero_stages[tokenizers:] for precision in precisions):
        root = folder / "-".join(map(str, case))
        if world.rank == 0:
            make_root(root)
        world.barrier()
        found = tokenizer_parity(case[0], root, world) if tokenizers else parity(*case, root, world)
        results["-".join(map(str, case))] = found
    (folder / f"results-{world.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
