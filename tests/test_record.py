"""A recording is what the environment showed for the controls it was given, frame by frame; the disk keeps all."""

import functools
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.policies import ScriptedPolicyConfig
from data_pipeline.record import cursor_images, derived_seed, record
from data_pipeline.schema import DatasetManifest, Sample, changed_fraction, check
from data_pipeline.shards import Dataset, write_manifest, write_shard
from tools import inspect_shards
from wm.batch import HELD, PRESSED, RELEASED

T = 120


@pytest.fixture(scope="module")
def environment() -> DesktopSim:
    return DesktopSimConfig().build()


@pytest.fixture(scope="module")
def sample(environment: DesktopSim) -> Sample:
    return record(environment, HumanPolicyConfig().build(), T, seed=4, key="clip-4")


def pixel(row: np.ndarray, height: int = 64, width: int = 96) -> tuple[int, int]:
    x, y = row * (width, height) - 0.5
    return round(float(x)), round(float(y))


def test_a_recording_is_whole_and_says_where_it_is_from(sample: Sample) -> None:
    check(sample)
    assert sample.video is not None
    assert sample.video.shape == (T, 64, 96, 3)
    assert len(sample) == T
    expected = {"environment": "desktop_sim", "policy": "human", "seed": 4, "policy_seed": derived_seed(4), "fps": 10.0}
    assert expected.items() <= sample.meta.items()
    assert derived_seed(4) != 4
    assert any(sample.meta["events"])
    assert sample.meta["num_frames"] == T


def test_the_same_seed_gives_the_same_recording_and_another_seed_another(
    environment: DesktopSim, sample: Sample
) -> None:
    again = record(environment, HumanPolicyConfig().build(), T, seed=4, key="clip-4")
    assert np.array_equal(again.video, sample.video)
    assert again.meta == sample.meta
    other = record(environment, HumanPolicyConfig().build(), T, seed=5, key="clip-5")
    assert not np.array_equal(other.video, sample.video)


def test_a_shorter_recording_is_the_beginning_of_a_longer_one(environment: DesktopSim, sample: Sample) -> None:
    short = record(environment, HumanPolicyConfig().build(), 9, seed=4, key="clip-4")
    assert sample.video is not None
    assert np.array_equal(short.video, sample.video[:9])
    assert all(np.array_equal(rows, sample.actions[name][:9]) for name, rows in short.actions.items())


def test_row_i_is_what_led_to_frame_i(environment: DesktopSim, sample: Sample) -> None:
    """The cursor stands in every frame where that frame's row says, and where the environment's truth says."""
    assert sample.video is not None
    sprites = environment.cursors()
    for frame, row, state in zip(sample.video, sample.actions["pointer"], sample.meta["state"], strict=True):
        assert pixel(row) == tuple(state["pointer"])
        assert any(drawn_at(frame, pixel(row), sprite.hotspot, sprite.rgba) for sprite in sprites)


def drawn_at(frame: np.ndarray, pointer: tuple[int, int], hotspot: tuple[int, int], rgba: np.ndarray) -> bool:
    """Whether every opaque pixel of the sprite that is on the screen is in the frame."""
    ys, xs = np.nonzero(rgba[..., 3] == 255)
    rows, columns = ys + pointer[1] - hotspot[1], xs + pointer[0] - hotspot[0]
    on = (rows >= 0) & (rows < frame.shape[0]) & (columns >= 0) & (columns < frame.shape[1])
    return bool((frame[rows[on], columns[on]] == rgba[ys[on], xs[on], :3]).all())


def test_what_is_held_is_presses_minus_releases_from_an_idle_first_row(sample: Sample) -> None:
    for name in ("buttons", "keys"):
        rows = sample.actions[name]
        assert not rows[0].any()
        assert np.array_equal(rows[..., HELD], np.cumsum(rows[..., PRESSED] - rows[..., RELEASED], axis=0))
    assert sample.actions["buttons"][..., PRESSED].sum() > 3


@pytest.mark.case("D-20")
def test_scripted_controls_are_the_rows(environment: DesktopSim) -> None:
    tap = (Event("press", "KeyO"), Event("release", "KeyO"))
    steps = [Controls((5, 6)), Controls((90, 3), (Event("press", "left"),)), Controls((80, 9), tap)]
    policy = ScriptedPolicyConfig(steps=tuple(step.to_dict() for step in steps)).build()
    made = record(environment, policy, 6, seed=1, key="scripted")
    assert [pixel(row) for row in made.actions["pointer"]][1:] == [(5, 6), (90, 3), (80, 9), (80, 9), (80, 9)]
    key = environment.action_space.keys.index("KeyO")
    assert made.actions["keys"][:, key].tolist() == [[0, 0, 0]] * 3 + [[0, 1, 1]] + [[0, 0, 0]] * 2
    assert made.actions["buttons"][:, 0].tolist() == [[0, 0, 0]] * 2 + [[1, 1, 0]] + [[1, 0, 0]] * 3


class Ending(DesktopSim):
    """A desktop whose episodes end after five steps."""

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return super().reset(**arguments)

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        frame, reward, _, truncated, info = super().step(action)
        return frame, reward, self.steps == 5, truncated, info


def test_an_episode_that_ends_gives_a_shorter_recording() -> None:
    made = record(Ending(DesktopSimConfig()), HumanPolicyConfig().build(), 20, seed=0, key="ended")
    check(made)
    assert len(made) == 6
    assert made.meta["num_frames"] == 6
    with pytest.raises(ValueError, match="at least 1"):
        record(Ending(DesktopSimConfig()), HumanPolicyConfig().build(), 0, seed=0, key="none")


@pytest.fixture
def folder(tmp_path: Path, environment: DesktopSim, sample: Sample) -> Path:
    shard = write_shard(tmp_path / "000.tar", [sample])
    manifest = DatasetManifest(
        action_space=environment.action_space,
        fps=10.0,
        height=64,
        width=96,
        kind="video",
        shards=(shard,),
        source={"environment": environment.name, "policy": "human"},
        cursors=cursor_images(environment),
    )
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_the_disk_changes_nothing(folder: Path, environment: DesktopSim, sample: Sample) -> None:
    dataset = Dataset.open(folder)
    back = dataset.read(0)
    assert np.array_equal(back.video, sample.video)
    assert all(np.array_equal(back.actions[name], rows) for name, rows in sample.actions.items())
    assert sample.meta.items() <= back.meta.items()
    assert np.allclose(back.meta["changed"], changed_fraction(back.video), atol=5e-5)
    for kept, sprite in zip(dataset.manifest.cursors, environment.cursors(), strict=True):
        assert np.array_equal(kept.array(), sprite.rgba)
        assert kept.hotspot == tuple(sprite.hotspot)


def test_a_moving_cursor_alone_is_not_an_event(sample: Sample) -> None:
    assert sample.video is not None
    quiet, windows = [], []
    for changed, kinds in zip(changed_fraction(sample.video), sample.meta["events"], strict=True):
        if not kinds:
            quiet.append(changed)
        if {"open", "close", "minimise", "restore"} & set(kinds):
            windows.append(changed)
    assert max(quiet) < 0.03 < min(windows)


def test_the_inspector_describes_verifies_and_draws(
    folder: Path, sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect_shards.main([str(folder), "--sheet", str(folder / "sheet.png"), "--index"]) == 0
    said = capsys.readouterr().out
    for words in (
        f"{T} frames",
        "desktop_sim",
        "as they were written",
        *functools.reduce(operator.iadd, sample.meta["events"], []),
    ):
        assert words in said
    assert (folder / "sheet.png").stat().st_size > 1000
    with (folder / "000.tar").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    assert inspect_shards.main([str(folder), "--quick"]) == 0
    capsys.readouterr()
    assert inspect_shards.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "000.tar" in error
    assert error.count("\n") == 1
