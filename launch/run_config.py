"""What one run of one stage is told: the complete content of a stage file, and where its output goes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from data_pipeline.loader import DataConfig
from data_pipeline.mirror import located
from launch.recordings import RecordConfig
from launch.resources import Resources
from wm.config import ConfigError, Kind, config, load
from wm.engine.loop import LoopConfig
from wm.stages.distill import DistillConfig
from wm.stages.distill_decoder import DistillDecoderConfig
from wm.stages.encode_latents import EncodeLatentsConfig
from wm.stages.evaluate import EvaluateConfig
from wm.stages.evaluate_captions import EvaluateCaptionsConfig
from wm.stages.export import ExportConfig
from wm.stages.train_dit import TrainDiTConfig
from wm.stages.train_vae import TrainVAEConfig

TrainingConfig = TrainVAEConfig | DistillDecoderConfig | TrainDiTConfig | DistillConfig
MeasuringConfig = EvaluateConfig | EvaluateCaptionsConfig
StageConfig = Annotated[RecordConfig | TrainingConfig | EncodeLatentsConfig | MeasuringConfig | ExportConfig, Kind]

# Where a stage writes, under the root of its world, when its file does not say.
FOLDERS: Mapping[str, str] = {
    "record": "recordings",
    "train_vae": "vae",
    "distill_decoder": "fast_vae",
    "encode_latents": "latents",
    "train_dit": "dit",
    "distill": "distill",
    "evaluate": "evaluate",
    "evaluate_captions": "evaluate",
    "export": "export",  # its notes; the world itself is in artifact/
}
RECORDINGS: Mapping[str, str] = {"encode_latents": "recordings/train", "export": "recordings/heldout"}


@config
class RunConfig:
    """One stage file."""

    stage: StageConfig
    data: DataConfig | None = None  # what a training stage reads; `data.folder` is relative to the root
    loop: LoopConfig | None = None  # how long a training stage goes on
    seed: int = 0
    recordings: str = ""  # dataset that encode_latents and export read; "" is the usual one (RECORDINGS)
    folder: str = ""  # where the output goes, relative to the root; "" is the stage's usual place
    learner: Literal["zero", "local"] = "zero"
    sequence_parallel: int = 1  # workers that share each clip, some of its frames each: for clips too long for one
    resources: Resources = Resources()

    def __post_init__(self) -> None:
        in_a_row = self.data is not None and self.data.shortest_clip > 0
        if in_a_row and (self.sequence_parallel > 1 or not isinstance(self.stage, TrainDiTConfig)):
            raise ValueError(
                f"data.shortest_clip puts clips of different lengths in a row, which train_dit alone trains on, and only where "
                f"workers share no clips; this is {self.kind} with sequence_parallel {self.sequence_parallel}: set it to 0"
            )

    @property
    def kind(self) -> str:
        return self.stage.kind

    @property
    def source(self) -> str:
        """The dataset that this run reads, relative to the root; "" for a run that reads none."""
        if self.data is not None:
            return self.data.folder
        return self.recordings or RECORDINGS.get(self.kind, "")

    @property
    def mixed_in(self) -> tuple[str, ...]:
        """The other datasets of a mixture, relative to the root."""
        return () if self.data is None else tuple(part.folder for part in self.data.mixture)

    def located(self, root: Path, name: str) -> Path:
        """The folder of the dataset `name` that this run reads: under the root, or the mirror of the address that it is."""
        if self.data is None:
            return located(root, name)
        return located(root, name, self.data.shard_cache, self.data.retries)

    @property
    def trains(self) -> bool:
        return isinstance(self.stage, TrainingConfig)

    def output(self, root: Path) -> Path:
        """The folder that this run writes."""
        return Path(root) / (self.folder or FOLDERS[self.kind])

    def parts(self) -> tuple[DataConfig, LoopConfig]:
        """Data and loop of a training stage; ConfigError where the file has none."""
        if self.data is None or self.loop is None:
            raise ConfigError(f"a {self.kind} run needs the sections data and loop; see configs/desktop_sim")
        return self.data, self.loop

    def share(self, num_workers: int) -> int:
        """Samples of a global batch that one of `num_workers` has; ConfigError where it does not divide."""
        data, _ = self.parts()
        _, readers = self.data_place(0, num_workers)
        if data.global_batch_size % readers:
            raise ConfigError(
                f"{self.kind}: data.global_batch_size {data.global_batch_size} does not divide among {readers} workers: "
                f"give a multiple of {readers}, or another number of workers"
            )
        return data.global_batch_size // readers

    def data_place(self, rank: int, num_workers: int) -> tuple[int, int]:
        """(rank, number) of worker `rank` among those that read different data: workers that share clips read the same."""
        together = self.sequence_parallel
        if together == 1:
            return rank, num_workers
        if not isinstance(self.stage, TrainDiTConfig | DistillConfig):
            raise ConfigError(f"sequence_parallel is {together}, and {self.kind} has no clips to share: set it to 1")
        if together < 1 or num_workers % together:
            raise ConfigError(
                f"sequence_parallel {together} does not divide {num_workers} workers: give a multiple of {together} workers"
            )
        return rank // together, num_workers // together


def load_run(path: Path, overrides: Sequence[str] = (), hours: float = 0.0) -> RunConfig:
    """The run that the file at `path` describes, its training made 4 * `hours` as long where `hours` is given."""
    run = load(RunConfig, path, overrides)
    if run.trains:
        run.parts()
    return scaled(run, hours) if hours else run


def scaled(run: RunConfig, hours: float) -> RunConfig:
    """`run` with 4 * `hours` times the optimizer steps: the files are written for a quarter of an hour of training."""
    if not hours > 0:
        raise ConfigError(f"hours is {hours}; it must be above 0 (0.25 is what the files are written for)")
    if run.loop is None:
        return run
    loop = dataclasses.replace(run.loop, num_steps=math.ceil(run.loop.num_steps * 4 * hours))
    return dataclasses.replace(run, loop=loop)
