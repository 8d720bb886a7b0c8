"""Checkpoints know no world size and no ZeRO stage: 4 to 2 to 1 to 8 processes, every stage to every stage, exactly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gloo_ranks import kept_port

ROOT = Path(__file__).parent.parent


@pytest.mark.case("C-10", "C-11")
@pytest.mark.slow
def test_masters_moments_and_average_are_equal_after_every_conversion(tmp_path: Path):
    """What three steps on four processes left, in float32 and bfloat16, gathered again after each of 48 conversions."""
    (tmp_path / "first").write_text("4")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    for before, world_size in ((0, 4), (4, 2), (2, 1), (1, 8)):
        command = [sys.executable, str(ROOT / "tests/convert_worker.py"), str(tmp_path)]
        output = tmp_path / f"output-{world_size}.txt"
        with kept_port() as port, open(output, "w") as file:
            workers = [
                subprocess.Popen(
                    [*command, str(rank), str(world_size), port, str(before)], env=environment, stdout=file, stderr=file
                )
                for rank in range(world_size)
            ]
            try:
                codes = [worker.wait(timeout=900) for worker in workers]
            finally:
                for worker in workers:
                    worker.kill()
                    worker.wait()
        assert codes == [0] * world_size, output.read_text()
    for stage in range(4):
        assert sorted(path.name for path in (tmp_path / "8").glob(f"{stage}-*")) == [f"{stage}-{o}" for o in range(4)]
