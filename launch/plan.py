"""A training on paper: `python -m launch.plan CONFIG --gpus N --nodes M --gpu h100|h200|b200|a100`.

Memory by ZeRO stage, operations, communication, time, data and storage, for nodes of N GPUs each. CONFIG is a stage file, or
a folder for all its trainings. The formulas are in plan_networks.py and plan_costs.py; nothing is run and no GPU is needed.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.schema import DatasetManifest
from data_pipeline.shards import Dataset
from launch.entry import OK, guarded
from launch.pipeline import ORDER
from launch.plan_costs import GIB, GPU, GPUS, Memory, Time, memory, sent, step_bytes, utilisation
from launch.plan_networks import Facts, Work, facts_of, work_of
from launch.precision import with_precision
from launch.recordings import RecordConfig
from launch.run_config import RunConfig, load_run
from launch.stage_state import DATASET
from wm.config import ConfigError
from wm.models.denoiser import DenoiserConfig
from wm.stages.train_dit import TrainDiTConfig
from wm.stages.train_vae import TrainVAEConfig

CHECKPOINT_BYTES = 16  # a parameter: master, two moments and average in float32


@dataclass(frozen=True)
class Machine:
    """Nodes of equal GPUs, and the part of their peak that is reached while they compute."""

    gpu: GPU
    nodes: int
    gpus: int  # of one node
    efficiency: float

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def rate(self) -> float:
        """Bytes a second that a ring through all GPUs carries: its slowest link decides."""
        return self.gpu.node_rate if self.nodes == 1 else min(self.gpu.node_rate, self.gpu.network_rate)


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 2 wrong input."""
    arguments = parser().parse_intermixed_args(argv)
    command = shlex.join(["python", "-m", "launch.plan", *(sys.argv[1:] if argv is None else argv)])
    return guarded(lambda: show(arguments), command, show_traceback=False)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.plan", description="What a training needs and how long it takes."
    )
    parser.add_argument("config", type=Path, help="stage file, or folder of stage files")
    parser.add_argument("overrides", nargs="*", help="changes of the stage file, as data.global_batch_size=256")
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--gpus", type=int, default=8, help="of one node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--samples", type=float, help="clips to train on; default what the stage file says")
    parser.add_argument(
        "--root", type=Path, help="outputs whose recordings say what the world is; default: record.yaml does"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.4,
        help="part of the GPU's peak that is reached while it computes; default 0.4, published trainings reach 0.3 to 0.5",
    )
    return parser


def show(arguments: argparse.Namespace) -> int:
    config: Path = arguments.config
    if config.is_dir() and arguments.overrides:
        raise ConfigError("overrides belong to one stage: give its file instead of the folder")
    if arguments.gpus < 1 or arguments.nodes < 1 or not 0 < arguments.efficiency <= 1:
        raise ConfigError("--gpus and --nodes must be at least 1, and --efficiency in (0, 1]")
    machine = Machine(GPUS[arguments.gpu], arguments.nodes, arguments.gpus, arguments.efficiency)
    files = [config / f"{name}.yaml" for name in ORDER] if config.is_dir() else [config]
    runs = [
        with_precision(load_run(file, arguments.overrides), "bfloat16")
        for file in files
        if file.exists() or file == config
    ]
    trained = [run for run in runs if run.trains]
    if not trained:
        raise ConfigError(f"{config} trains nothing; give a stage file of a training, as configs/desktop/dit.yaml")
    folder = config if config.is_dir() else config.parent
    if (folder / "record.yaml").exists():
        print(storage(load_run(folder / "record.yaml"), load_run(folder / "vae.yaml")))
    for run in trained:
        print("\n".join(plan(run, _work(run, folder, arguments.root), machine, arguments.gpu, arguments.samples)))
    return OK


def _work(run: RunConfig, folder: Path, root: Path | None) -> Work:
    """What `run` computes, in the world of the stage files beside it."""
    vae = load_run(folder / "vae.yaml")
    if root is None:
        record = load_run(folder / "record.yaml")
        facts = facts_of(record, vae)
    else:
        facts = _facts_on_disk(Dataset.open(_first_dataset(root)).manifest, vae)
    assert isinstance(vae.stage, TrainVAEConfig)
    return work_of(run, facts, _teacher(folder), vae.stage.vae)


def _first_dataset(root: Path) -> Path:
    for folder in (root / "recordings" / "train", root / "latents"):
        if (folder / DATASET).exists():
            return folder
    raise ConfigError(
        f"no {DATASET} under {root}/recordings/train or {root}/latents: record first, or leave out --root"
    )


def _facts_on_disk(manifest: DatasetManifest, vae: RunConfig) -> Facts:
    assert isinstance(vae.stage, TrainVAEConfig)
    tokenizer = vae.stage.vae
    return Facts(manifest.action_space, manifest.height, manifest.width, tokenizer.latent_channels, tokenizer.stride)


def _teacher(folder: Path) -> DenoiserConfig | None:
    file = folder / "dit.yaml"
    stage = load_run(file).stage if file.exists() else None
    return stage.denoiser if isinstance(stage, TrainDiTConfig) else None


def plan(run: RunConfig, work: Work, machine: Machine, gpu: str, samples: float | None) -> Iterator[str]:
    """The lines of the plan of one training."""
    data, loop = run.parts()
    batch, ranks = data.global_batch_size, machine.ranks
    share = run.share(ranks)
    config = work.learned[0].config
    micro = min(config.micro_batch_size or share, share)
    time = step_time(work, machine, batch, -(-share // micro))
    flops = batch * work.flops
    used = utilisation(flops, time.total, machine.gpu, config.precision, ranks)
    networks = ", ".join(f"{one.name} {one.parameters:,} parameters" for one in work.learned)
    yield f"{run.kind}: {networks}; {config.precision}, ZeRO {config.zero_stage}, {machine.nodes} x {machine.gpus} {gpu}"
    yield from _memory_lines(work, machine, micro)
    yield f"  a step        {batch} samples, {share} a GPU, {micro} at once; {flops:.3e} operations, {work.flops:.3e} a sample"
    yield f"  sent          {_sent(work, ranks, -(-share // micro)) / 1e9:.3f} GB a GPU and step, at {machine.rate / 1e9:g} GB/s"
    yield (
        f"  time          {time.total:.4f} s a step: computing {time.compute:.4f} at {machine.efficiency:.0%} of the peak, "
        f"communication {time.communication:.4f}, optimizer {time.optimizer:.4f}"
    )
    yield f"  MFU           {used:.1%}, if nothing overlaps and data is never late"
    rate = batch * work.sample_bytes / time.total
    yield f"  data          {batch / time.total:,.1f} samples a second, {rate / 1e6:,.1f} MB/s over all nodes, before compression"
    kept = loop.keep_last + (loop.num_steps // loop.keep_every if loop.keep_every else 0)
    yield f"  checkpoints   {_checkpoints(work, kept + 1) / 1e9:.2f} GB for {kept} and the next one"
    wanted = samples or float(loop.num_steps * batch)
    hours = wanted / batch * time.total / 3600
    yield f"  to the end    {wanted:,.0f} samples: {hours / 24:.2f} days, {hours * ranks:,.1f} GPU-hours"
    yield ""


def storage(record: RunConfig, vae: RunConfig) -> str:
    """What the datasets of a world take on disk: pixels of three bytes, latents in float16 of what is trained on."""
    stage, facts = record.stage, facts_of(record, vae)
    assert isinstance(stage, RecordConfig)
    frames = stage.num_recordings * stage.num_frames
    pixels = 3 * facts.height * facts.width * (frames + stage.num_heldout * stage.num_frames)
    latents = 2 * facts.channels * facts.shape.rows * facts.shape.columns * frames
    return (
        f"datasets: {frames:,} frames to train on; recordings of {pixels / 1e9:.4g} GB before lossless compression, "
        f"latents of {latents / 1e9:.4g} GB"
    )


def _memory_lines(work: Work, machine: Machine, micro: int) -> Iterator[str]:
    """By ZeRO stage; the run's own is marked."""
    rest = work.frozen_bytes + micro * work.activation_bytes
    yield "  GiB a GPU     weights  gradients  optimizer  average  buckets  frozen  activations    sum"
    for stage in (0, 1, 2, 3):
        held = sum(
            (memory(one.parameters, one.config, stage, machine.ranks) for one in work.learned), Memory(0, 0, 0, 0, 0)
        )
        total = held.total + rest
        parts = (held.weights, held.gradients, held.optimizer, held.average, held.buckets)
        words = "".join(f"{part / GIB:>{width}.2f}" for part, width in zip(parts, (9, 11, 11, 9, 9), strict=True))
        fits = "fits" if total < machine.gpu.memory else f"more than the {machine.gpu.memory / GIB:.0f} that there are"
        mark = "<-" if stage == work.learned[0].config.zero_stage else ""
        yield (
            f"    ZeRO {stage}    {words}{work.frozen_bytes / GIB:8.2f}{micro * work.activation_bytes / GIB:13.2f}"
            f"{total / GIB:7.2f} {fits} {mark}"
        ).rstrip()


def step_time(work: Work, machine: Machine, batch: int, micro_batches: int) -> Time:
    """The time of a step on `batch` samples over all ranks."""
    config = work.learned[0].config
    compute = batch * work.flops / (machine.efficiency * machine.gpu.flops(config.precision) * machine.ranks)
    moved = sum(
        step_bytes(one.config) * one.parameters / (machine.ranks if one.config.zero_stage else 1)
        for one in work.learned
    )
    return Time(compute, _sent(work, machine.ranks, micro_batches) / machine.rate, moved / machine.gpu.memory_rate)


def _sent(work: Work, ranks: int, micro_batches: int) -> float:
    return sum(sent(one.parameters, one.config, ranks, micro_batches) for one in work.learned)


def _checkpoints(work: Work, count: int) -> float:
    return count * CHECKPOINT_BYTES * work.parameters


if __name__ == "__main__":
    sys.exit(main())
