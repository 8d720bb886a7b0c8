"""One of the processes that test_sequence_parallel.py starts: the same training alone and with its clips shared, compared."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_stages import FAST, make, make_root, vae_hash
from tiny_stages import Latents as Statistics
from tiny_world import COLUMNS, DENOISER, HEIGHT, ROWS, SPACE, WIDTH, some_action
from torch import Tensor, nn

from wm.batch import Batch, Given
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.caption import TextConditionerConfig
from wm.conditioning.text import ByteTextConfig
from wm.engine.learner import LocalLearner
from wm.engine.world import World
from wm.models.denoiser import DenoiserConfig
from wm.nn.sequence_parallel import SequenceGroup
from wm.stages.context import DatasetFacts, StageContext

B, T = 2, 8
WORDS = ByteTextConfig(width=12, depth=1, num_heads=2, max_tokens=24)
TEXT = ("a red circle", "two blue squares", "", "a star")
DIT = dataclasses.replace(DENOISER.dit, window=3, carry=True, action_window=2)
CASES = {
    "factorised": DIT,
    "sinks, global layers, text": dataclasses.replace(DIT, sinks=1, global_every=2, text="cross"),
    "full, two streams": dataclasses.replace(DIT, full=True, text="joint"),
    "both ways": dataclasses.replace(DIT, causal=False, recall=0, carry=False, window=0, full=True),
}


def batch(step: int) -> Batch:
    """The same on every process that shares clips."""
    generator = torch.Generator().manual_seed(step)
    latents = torch.randn(B, T, 3, ROWS, COLUMNS, generator=generator).half()
    given = Given(some_action(B, T, seed=step), TEXT[step % 2 : step % 2 + B])
    return Batch(step=step, index=torch.arange(B * step, B * step + B), given=given, latents=latents)


def computed(root: Path, case: str, world: World, group: SequenceGroup | None) -> tuple[list[float], dict[str, Tensor]]:
    """(losses of a batch and of the next after a step, the first one's gradients as a learner averages them)."""

    def make_learner(module: nn.Module, config: Any) -> LocalLearner:
        torch.manual_seed(7)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
        if group is not None:
            module.dit.share_frames(group)
        return LocalLearner(module, config, num_steps=20, world=world)

    acting, dit = ActionConditionerConfig(tokens=True), CASES[case]
    conditioner = acting if dit.text == "none" else TextConditionerConfig(encoder=WORDS, action=acting)
    facts = DatasetFacts(SPACE, SPACE.fps, HEIGHT, WIDTH, Statistics(vae_hash=vae_hash(root)))
    context = StageContext(root, make_learner, torch.device("cpu"), seed=5, num_steps=20, facts=facts)
    stage = make(
        "train_dit", context, FAST, denoiser=DenoiserConfig(dit=dit, conditioner=conditioner), drop_condition=0.3
    )
    module = stage.denoiser.module
    loss, _ = stage.loss(batch(0))
    loss.backward()
    gradients = {n: world.all_reduce_mean(p.grad) for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return [float(loss), *(float(stage.step(batch(step))["loss"]) for step in range(2))], gradients


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = World.from_environment("cpu", timeout_seconds=300)
    group = SequenceGroup(world.neighbours(world.world_size))
    root, results = folder / str(world.rank), {}
    make_root(root)
    for case in CASES:
        (losses, wanted), (shared, found) = (computed(root, case, world, where) for where in (None, group))
        largest = {name: float(value.abs().max()) for name, value in wanted.items()}
        apart = {
            name: float((value - wanted[name]).abs().max()) / max(largest.values()) for name, value in found.items()
        }
        results[case] = {
            "losses": [losses, shared],
            "gradients": [sorted(wanted), sorted(found)],
            "apart": max(apart.values()),  # as a share of the largest gradient
            "silent": sum(value == 0 for value in largest.values()),
        }
    (folder / f"results-{world.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
