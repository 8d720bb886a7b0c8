"""What the log writes can be read back, by our own eyes and by TensorBoard; what cannot be written stops nothing."""

import io
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wm.engine import metrics
from wm.engine.metrics import MetricsLog
from wm.engine.world import World


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_scalars_are_in_both_logs(tmp_path: Path):
    log = MetricsLog(tmp_path, World.single())
    for step in (1, 2, 3):
        log.log(step, {"loss": 1 / step, "rate": 0.5})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": s, "loss": 1 / s, "rate": 0.5} for s in (1, 2, 3)]
    scalars = read(tmp_path).Scalars("loss")
    assert [(e.step, e.value) for e in scalars] == [(s, pytest.approx(1 / s)) for s in (1, 2, 3)]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path):
    log = MetricsLog(tmp_path, World.single())
    log.log(4, {"loss": math.nan, "norm": math.inf, "rate": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 4, "loss": None, "norm": None, "rate": 1.0}
    assert read(tmp_path).Tags()["scalars"] == ["rate"]


def test_a_picture_is_exact_and_a_video_moves(tmp_path: Path):
    picture = torch.rand(3, 6, 10)
    video = torch.zeros(5, 3, 6, 10)
    for frame in range(5):
        video[frame, :, :, 2 * frame : 2 * frame + 2] = 1.0
    log = MetricsLog(tmp_path, World.single())
    log.pictures(7, {"picture": picture, "rollout": video, "grey": torch.rand(1, 6, 10)})
    log.close()
    found = read(tmp_path)
    (still,) = found.Images("picture")
    shown = np.asarray(Image.open(io.BytesIO(still.encoded_image_string)))
    assert np.array_equal(shown, (picture * 255).round().byte().permute(1, 2, 0).numpy())
    (moving,) = found.Images("rollout")
    assert (moving.step, moving.width, moving.height) == (7, 10, 6)
    animation = Image.open(io.BytesIO(moving.encoded_image_string))
    assert animation.n_frames == 5
    for frame in range(5):
        animation.seek(frame)
        assert np.array_equal(np.asarray(animation.convert("RGB"))[0, :, 0].argmax(), 2 * frame)


def test_a_resumed_run_hides_what_it_does_again(tmp_path: Path):
    first = MetricsLog(tmp_path, World.single())
    for step in (1, 2, 3, 4):
        first.log(step, {"loss": 1.0})
    first.close()
    second = MetricsLog(tmp_path, World.single(), first_step=3)
    second.log(3, {"loss": 2.0})
    second.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_only_rank_0_writes(tmp_path: Path):
    log = MetricsLog(tmp_path / "run", World(rank=1, world_size=2))
    log.log(1, {"loss": 1.0})
    log.pictures(1, {"picture": torch.rand(3, 6, 10)})
    assert not (tmp_path / "run").exists()


@pytest.mark.case("T-18")
def test_a_folder_that_cannot_be_written_gives_one_warning_and_recovers(tmp_path: Path, caplog):
    folder = tmp_path / "run"
    folder.write_text("a file where the folder should be")
    log = MetricsLog(folder, World.single())
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            log.log(step, {"loss": 1.0})
            log.pictures(step, {"picture": torch.rand(3, 6, 10)})
    assert len(caplog.records) == 1
    folder.unlink()
    log.log(4, {"loss": 4.0})
    assert json.loads((folder / "metrics.jsonl").read_text())["step"] == 4
    assert [e.step for e in read(folder).Scalars("loss")] == [4]


@pytest.mark.case("T-18")
def test_a_full_disk_stops_nothing(tmp_path: Path, caplog, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    monkeypatch.setattr(metrics, "open", lambda _, mode, **given: open("/dev/full", mode, **given), raising=False)  # noqa: SIM115
    log = MetricsLog(tmp_path, World.single())
    with caplog.at_level(logging.WARNING):
        log.log(1, {"loss": 1.0})
    assert "No space left" in caplog.text


@pytest.mark.parametrize("shape", [(6, 10), (2, 6, 10), (4, 2, 6, 10)])
def test_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="picture wrong has shape"):
        MetricsLog(tmp_path, World.single()).pictures(1, {"wrong": torch.rand(shape)})
