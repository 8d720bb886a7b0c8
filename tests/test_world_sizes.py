"""The same run on one to four workers, and in micro-batches: the same samples in every step, and the same losses."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import world_run
from gloo_ranks import run_ranks

HERE = Path(__file__).parent.parent
SMOKE = HERE / "configs" / "smoke"
STEPS = 20
TRAINING = [
    f"loop.num_steps={STEPS}", "loop.log_every=1", "loop.save_every=0", "loop.sample_every=0", "data.global_batch_size=12",
    "stage.learner.precision=float32",
]  # fmt: skip
PATIENCE = 300.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sizes") / "smoke"
    for stage in ("record", "vae", "encode"):
        command = [sys.executable, "-m", "launch.run", str(SMOKE / f"{stage}.yaml"), "--root", str(made), "--local"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=PATIENCE)
    return made


def ran(root: Path, name: str, world_size: int, *more: str) -> tuple[list[float], list[list[list[object]]]]:
    """The losses of all steps, and the samples of each in the order of their places in the global batch."""
    settings = [str(root), str(SMOKE / "dit.yaml"), *TRAINING, f"folder={name}", *more]
    outputs = run_ranks(world_run.__file__, settings, world_size, PATIENCE)
    parts = [root / name / f"ids-{rank}.json" for rank in range(world_size)]
    assert all(part.exists() for part in parts), "\n".join(outputs)
    rows = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
    ids = [sorted(chain(*step)) for step in zip(*(json.loads(part.read_text()) for part in parts), strict=True)]
    return [row["loss"] for row in rows if "loss" in row], ids


@pytest.mark.slow
@pytest.mark.case("T-03", "D-08")
def test_workers_and_micro_batches_change_neither_samples_nor_losses(root: Path) -> None:
    losses, ids = ran(root, "one", 1)
    assert len(losses) == len(ids) == STEPS
    assert all(len(step) == 12 for step in ids)
    assert losses[-1] < losses[0]
    others = [ran(root, f"workers-{n}", n) for n in (2, 3, 4)]
    others.append(ran(root, "accumulated", 1, "stage.learner.micro_batch_size=5"))
    for found, seen in others:
        assert seen == ids
        assert found == pytest.approx(losses, rel=1e-5)
