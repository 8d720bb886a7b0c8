"""Ray's workers are killed while they write shards: the preparation ends with the bytes of one that nobody disturbed."""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.schema import Sample
from data_pipeline.shards import Dataset, write_manifest, write_shard
from launch.cluster import Cluster
from launch.latents import make_latents
from launch.recordings import RecordConfig, make_recordings
from launch.resources import Resources
from tests.test_preparation import contents
from tests.test_shards import make_manifest, make_sample
from tests.tiny_world import HEIGHT, VAE, WIDTH, some_frames, vae
from wm.artifact import VAEWeights, save_weights
from wm.stages.encode_latents import EncodeLatentsConfig

pytestmark = pytest.mark.slow
KILLS_OF_A_SHARD = 2  # Ray runs a task again three times

SETTINGS = RecordConfig(
    environment=DesktopSimConfig(),
    policy=HumanPolicyConfig(),
    num_recordings=5,
    num_heldout=2,
    num_frames=150,
    recordings_per_shard=1,
)


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@contextmanager
def killing_writers(folder: Path) -> Iterator[Counter[str]]:
    """Whoever has a shard half written under `folder` is killed, each shard's writer twice; counts the deaths by shard."""
    deaths: Counter[str] = Counter()
    rng, over = random.Random(7), threading.Event()

    def hunt() -> None:
        while not over.wait(0.002):
            for path in folder.rglob(".*.tar.*.partial"):
                shard, process = re.fullmatch(r"\.(.+\.tar).*\.(\d+)\.partial", path.name).groups()
                where = str(path.parent / shard)
                if int(process) == os.getpid() or deaths[where] >= KILLS_OF_A_SHARD:
                    continue
                time.sleep(rng.uniform(0, 0.02))  # so that they die at different places
                with suppress(ProcessLookupError):
                    if path.exists():
                        os.kill(int(process), signal.SIGKILL)
                        deaths[where] += 1

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield deaths
    finally:
        over.set()
        hunter.join()


def undisturbed_and_killed(make: Callable[[Path], Any], folder: Path) -> tuple[dict[str, bytes], dict[str, bytes], int]:
    """The files of two preparations, the second with its workers killed, and how many were."""
    make(folder / "undisturbed")
    with killing_writers(folder / "killed") as deaths:
        make(folder / "killed")
    undisturbed, killed = (
        {name: data for name, data in contents(folder / side).items() if name != "lint.json" and ".notes" not in name}
        for side in ("undisturbed", "killed")
    )
    return undisturbed, killed, deaths.total()


@pytest.mark.case("D-17")
def test_recorders_that_are_killed_leave_every_shard_once_and_bit_for_bit(tmp_path: Path, ray: Cluster) -> None:
    def make(folder: Path) -> None:
        make_recordings(SETTINGS, 5, folder, ray.map_tasks, Resources(), lambda done: None)

    undisturbed, killed, deaths = undisturbed_and_killed(make, tmp_path)
    assert deaths >= 3
    assert killed == undisturbed
    keys = [clip.key for clip in Dataset.open(tmp_path / "killed" / "train").clips]
    assert keys == [f"train-{number:05d}" for number in range(5)]


@pytest.mark.case("D-17")
def test_encoders_that_are_killed_leave_the_same_latents(tmp_path: Path, ray: Cluster) -> None:
    save_weights(tmp_path / "vae" / "weights", vae(1).state_dict(), VAEWeights(vae=VAE))
    source = tmp_path / "clips"
    write_clips(source)

    def make(folder: Path) -> None:
        make_latents(EncodeLatentsConfig(), tmp_path, source, folder, ray.map_tasks, Resources(), lambda done: None)

    undisturbed, killed, deaths = undisturbed_and_killed(make, tmp_path / "latents")
    assert deaths >= 1
    assert killed == undisturbed
    Dataset.open(tmp_path / "latents" / "killed").verify()


def write_clips(folder: Path, num_shards: int = 4, clips: int = 15) -> None:
    """Shards whose encoding takes long enough to die in it."""
    entries = []
    for index in range(num_shards):
        samples = [filmed(number) for number in range(clips * index, clips * (index + 1))]
        entries.append(write_shard(folder / f"{index}.tar", samples))
    write_manifest(folder, replace(make_manifest(entries), height=HEIGHT, width=WIDTH))


def filmed(number: int) -> Sample:
    """A sample whose frames have the size of the tiny world."""
    sample = make_sample(number)
    return replace(sample, video=some_frames(1, len(sample), number)[0].permute(0, 2, 3, 1).numpy())
