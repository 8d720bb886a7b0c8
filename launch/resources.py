"""What a stage may use of a machine: workers, cores, GPUs, patience."""

import os

from wm.config import config

START_SECONDS = 300.0  # for all workers that Ray starts for a training to come up
# For a worker to answer Ray, which a stopped one does not, nor its watchdog; Ray's default is 600.
SILENT_SECONDS = 180.0
MEET_SECONDS = 900.0  # for workers to meet where Ray has them wait for each other; Ray's default is for ever


@config
class Resources:
    """Cores and GPUs are what Ray counts when it places work; the cores are also the threads that a worker uses."""

    num_workers: int = 1  # ranks of a training stage; tasks at once of a stage that makes files
    min_workers: int = 0  # a training goes on with as few when nodes are lost, and grows back; 0: num_workers
    cpus_per_worker: float = 0.0  # 0: the cores of this machine, divided by the workers
    gpus_per_worker: float = 0.0  # training: 0 or 1; tasks may share one GPU, as 0.25
    max_failures: int = 1  # times a lost worker is replaced; training goes on from its own last checkpoint
    timeout_seconds: float = 900.0  # a rank in one phase of a step for longer hangs: it says where and is restarted

    def __post_init__(self) -> None:
        if self.timeout_seconds < 1:
            raise ValueError(f"timeout_seconds {self.timeout_seconds:g} must be at least 1")
        if not 0 <= self.min_workers <= self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} must be from 0 to num_workers, {self.num_workers}")

    @property
    def fewest(self) -> int:
        """Ranks below which a training does not go on."""
        return self.min_workers or self.num_workers

    @property
    def elastic(self) -> bool:
        """Whether a training's ranks may come and go."""
        return self.fewest < self.num_workers

    @property
    def cpus(self) -> float:
        """Cores that one worker reserves."""
        return self.cpus_per_worker or num_cores() / self.num_workers

    @property
    def collective_seconds(self) -> float:
        """After how long a collective fails by itself: later than the watchdog, which says more."""
        return 1.5 * self.timeout_seconds

    @property
    def threads(self) -> int:
        """Threads that one worker computes with."""
        return max(1, int(self.cpus))


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
