"""Where all layers meet: a run config, a dataset, a stage, a learner and the loop become one training run."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from data_pipeline.schema import DatasetManifest
from data_pipeline.shards import Dataset
from data_pipeline.worker_processes import open_with_workers
from launch.denormals import denormals_are_zero
from launch.logs import failing_noted, logged_to
from launch.processes import introduce
from launch.run_config import RunConfig, TrainingConfig, load_run
from wm.config import to_dict
from wm.engine.learner import LocalLearner
from wm.engine.loop import run as run_loop
from wm.engine.protocols import Learner, MakeLearner, Stage
from wm.engine.saving import WRITE_SECONDS
from wm.engine.watchdog import watched
from wm.engine.world import World
from wm.engine.zero import ZeroLearner
from wm.models.denoiser import Denoiser
from wm.nn.sequence_parallel import SequenceGroup
from wm.stages.context import DatasetFacts, StageContext

__all__ = ["RunConfig", "build_stage", "facts_of", "load_run", "make_learner", "train"]

log = logging.getLogger(__name__)


def train(
    run: RunConfig,
    root: Path,
    world: World,
    on_checkpoint: Callable[[int, Path], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    trust_checkpoint: bool = False,
) -> dict[str, Any]:
    """What `result.json` says after the training stage `run` under `root`. Every rank calls; resumes by itself."""
    data, loop = run.parts()
    folder = run.output(root)
    patience = run.resources.timeout_seconds
    with logged_to(folder, world), failing_noted(folder, world), watched(folder, world, patience), denormals_are_zero():
        log.info(
            "time-outs: a phase of a step %g s, a collective %g s, writing a checkpoint %g s",
            patience, run.resources.collective_seconds, WRITE_SECONDS,
        )  # fmt: skip
        introduce(folder, world.rank)
        stage = build_stage(run, root, world)
        batches = open_with_workers(data, root, *run.data_place(world.rank, world.world_size), run.seed)
        return run_loop(
            stage,
            batches,
            loop,
            folder,
            world,
            to_dict(run),
            on_checkpoint=on_checkpoint,
            should_stop=should_stop,
            trust_checkpoint=trust_checkpoint,
        )


def build_stage(run: RunConfig, root: Path, world: World) -> Stage:
    """The stage of a training run before its first step, with what it reads under `root`."""
    data, loop = run.parts()
    assert isinstance(run.stage, TrainingConfig), f"{run.kind} does not train"
    context = StageContext(
        root=root,
        make_learner=make_learner(run, loop.num_steps, world),
        device=world.device,
        seed=run.seed,
        num_steps=loop.num_steps,
        facts=facts_of(Dataset.open(run.located(root, data.folder)).manifest),
    )
    return run.stage.build(context)


def make_learner(run: RunConfig, num_steps: int, world: World) -> MakeLearner:
    """How the stages of `run` get their learners."""
    kind = ZeroLearner if run.learner == "zero" else LocalLearner
    run.data_place(world.rank, world.world_size)

    def make(module: nn.Module, config: Any) -> Learner:
        if run.sequence_parallel > 1 and isinstance(module, Denoiser):
            module.dit.share_frames(SequenceGroup(world.neighbours(run.sequence_parallel)))
        return kind(module, config, num_steps=num_steps, world=world)

    return make


def facts_of(manifest: DatasetManifest) -> DatasetFacts:
    """What a stage may know of the data that it is trained on."""
    return DatasetFacts(
        action_space=manifest.action_space,
        fps=manifest.fps,
        height=manifest.height,
        width=manifest.width,
        latents=manifest.latents,
    )
