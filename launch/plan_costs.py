"""What a training step costs a machine: memory by ZeRO stage, communication, time. Plain formulas over plain numbers.

P parameters, W ranks, all sizes in bytes, all rates a second. What DeepSpeed holds is that of wm/engine/zero.py: gradients
are accumulated in float32 (at ZeRO 0 in the precision of the weights), and masters, moments and average are float32.
"""

from dataclasses import dataclass

from wm.engine.learner import LearnerConfig
from wm.engine.zero import REDUCE_BUCKET_ELEMENTS

MASTER, MOMENTS, AVERAGE, GRADIENT = 4, 8, 4, 4  # bytes a parameter, float32
GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """A data sheet: dense operations (no sparsity), memory that a program can have, rates one way."""

    bfloat16_flops: float
    float32_flops: float  # without TF32, which torch leaves off
    memory: int
    memory_rate: float
    node_rate: float  # from one GPU to the others of its node
    network_rate: float  # from one GPU to other nodes: its own network adapter

    def flops(self, precision: str) -> float:
        return self.bfloat16_flops if precision == "bfloat16" else self.float32_flops


# NVIDIA's data sheets of the SXM versions. Networks: a 200 Gbit/s adapter a GPU beside the A100, 400 beside the others.
GPUS = {
    "a100": GPU(312e12, 19.5e12, 79 * GIB, 2.0e12, 300e9, 25e9),
    "h100": GPU(989e12, 67e12, 79 * GIB, 3.35e12, 450e9, 50e9),
    "h200": GPU(989e12, 67e12, 140 * GIB, 4.8e12, 450e9, 50e9),
    "b200": GPU(2250e12, 75e12, 178 * GIB, 7.7e12, 900e9, 50e9),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU."""

    weights: float
    gradients: float
    optimizer: float  # masters and moments
    average: float
    buckets: float  # DeepSpeed's buffers for communication

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.average + self.buckets

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def memory(parameters: int, config: LearnerConfig, zero_stage: int, ranks: int, on_gpu: bool = True) -> Memory:
    """What a learner holds on each rank: ZeRO 1 partitions the optimizer, 2 the gradients, 3 the weights (Rajbhandari et
    al. 2020, figure 1). At ZeRO 0 in float32 the masters are the weights. What is offloaded is not on the GPU; for a rank
    that has none, what lies in the host's memory is in the memory that counts."""
    low = config.dtype.itemsize
    own = parameters / ranks if zero_stage else parameters
    master = 0 if zero_stage == 0 and config.precision == "float32" else MASTER
    gradient = low if zero_stage == 0 else GRADIENT
    here = config.offload == "none" or (config.offload == "cpu" and not on_gpu)
    averages = AVERAGE * (bool(config.average_decay) + len(config.average_lengths))
    bucket = min(parameters, REDUCE_BUCKET_ELEMENTS) * (GRADIENT if zero_stage else low) if ranks > 1 else 0
    return Memory(
        weights=low * (own if zero_stage == 3 else parameters),
        gradients=gradient * (own if zero_stage >= 2 else parameters),
        optimizer=(master + here * MOMENTS) * own,
        average=here * averages * own,
        buckets=bucket,
    )


def sent(parameters: int, config: LearnerConfig, ranks: int, micro_batches: int) -> float:
    """Bytes that each rank sends in one step.

    By rings, a reduce-scatter or an all-gather of n bytes sends n (W-1)/W, an all-reduce both (Patarasuk & Yuan 2009). ZeRO
    0 reduces gradients to all ranks; ZeRO 1 does too, in float32, and gathers the weights that each rank has stepped; ZeRO 2
    reduces those of every micro-batch to all ranks, each of which keeps its part: DeepSpeed scatters nothing there. ZeRO 3
    scatters them, and gathers the weights in its forward and its backward.
    """
    low, stage = config.dtype.itemsize, config.zero_stage
    once = {
        0: 2 * low,
        1: 2 * GRADIENT + low,
        2: micro_batches * 2 * low + low,
        3: micro_batches * (low + 2 * low),
    }[stage]
    return once * parameters * (ranks - 1) / ranks


def step_bytes(config: LearnerConfig) -> int:
    """Bytes of memory traffic a parameter for one AdamW step: master, moments and gradient in, master and moments out, the
    average in and out, the master in for it, the weight out."""
    average = 2 * AVERAGE + MASTER if config.average_decay else 0
    return 2 * (MASTER + MOMENTS) + GRADIENT + average + config.dtype.itemsize


@dataclass(frozen=True)
class Time:
    """Seconds of one step, one thing after the other: what overlaps is time won."""

    compute: float
    communication: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.compute + self.communication + self.optimizer


def utilisation(flops: float, seconds: float, gpu: GPU, precision: str, ranks: int) -> float:
    """Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): what the step must compute, of what `ranks` GPUs could."""
    return flops / (seconds * gpu.flops(precision) * ranks)
