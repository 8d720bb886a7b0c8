"""The folders of Ray's runtimes: what has ended goes, what runs or failed stays."""

import fcntl
import os
from pathlib import Path

import pytest

from launch.entry import StageError
from launch.ray_runtime import KEPT, PREFIX, _own_folder, sweep


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_there_while_it_is_used_and_a_second_one_leaves_it_alone(temporary: Path) -> None:
    with _own_folder() as one, _own_folder() as other:
        assert names(temporary) == sorted(Path(folder).name for folder in (one, other))
        (Path(one) / "session").mkdir()
        sweep(temporary)
        assert Path(one, "session").is_dir()
    assert names(temporary) == []


def test_what_a_killed_run_left_goes_and_what_is_not_ours_stays(temporary: Path) -> None:
    for name in (f"{PREFIX}killed", f"{PREFIX}running", "ray"):
        (temporary / name / "logs").mkdir(parents=True)
    running = os.open(temporary / f"{PREFIX}running", os.O_RDONLY)
    fcntl.flock(running, fcntl.LOCK_EX)
    sweep(temporary)
    assert names(temporary) == ["ray", f"{PREFIX}running"]
    os.close(running)
    sweep(temporary)
    assert names(temporary) == ["ray"]


@pytest.mark.parametrize(("error", "stays"), [(StageError("Ray did not start"), True), (KeyboardInterrupt(), False)])
def test_logs_of_a_failure_stay_and_are_named(
    temporary: Path, error: BaseException, stays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error)), _own_folder() as folder:
        raise error
    sweep(temporary)
    assert Path(folder).exists() == stays
    assert (folder in caplog.text) == stays
    assert (temporary / Path(folder).name / KEPT).exists() == stays
