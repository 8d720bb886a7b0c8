"""Each finding of the linter is planted in a real recording and found; the recording itself has none."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline import video
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.lint import __main__ as command
from data_pipeline.lint.dataset import Report, lint
from data_pipeline.lint.finding import Limits, worst
from data_pipeline.record import record
from data_pipeline.schema import DatasetManifest, LatentStatistics, Sample
from data_pipeline.shards import Dataset, write_manifest, write_shard
from launch.linting import look
from launch.recordings import RecordConfig, make_recordings
from launch.resources import Resources
from launch.shard_work import map_here
from wm.batch import HELD, PRESSED, RELEASED

T = 170
Plant = Callable[[Sample], Sample]


@pytest.fixture(scope="module")
def world() -> DesktopSim:
    return DesktopSimConfig().build()


@pytest.fixture(scope="module")
def samples(world: DesktopSim) -> list[Sample]:
    return [record(world, HumanPolicyConfig().build(), T, seed, f"clip-{seed}") for seed in range(4)]


def write(
    folder: Path, world: DesktopSim, samples: list[Sample], codec: video.Codec = "lossless", **changes: Any
) -> Path:
    height, width = world.render().shape[:2]
    about = {
        "action_space": world.action_space,
        "fps": 10.0,
        "height": height,
        "width": width,
        "kind": "video",
        "source": {},
    }
    shards = (write_shard(folder / "0.tar", samples, codec),)
    write_manifest(folder, DatasetManifest(**{**about, "shards": shards, **changes}))
    return folder


def found(report: Report) -> set[tuple[str, str]]:
    return {(finding.severity, finding.check) for finding in report.findings}


def planted(folder: Path, world: DesktopSim, sample: Sample, plant: Plant, **limits: Any) -> Report:
    return lint([write(folder, world, [plant(sample)])], limits=Limits(coverage_frames=T + 1, **limits))


def with_rows(sample: Sample, **rows: np.ndarray) -> Sample:
    return dataclasses.replace(sample, actions={**sample.actions, **rows})


def with_meta(sample: Sample, **meta: Any) -> Sample:
    return dataclasses.replace(sample, meta={**sample.meta, **meta})


def with_video(sample: Sample, frames: np.ndarray) -> Sample:
    return dataclasses.replace(sample, video=np.ascontiguousarray(frames))


def moved_rows(sample: Sample, offsets: np.ndarray) -> Sample:
    """Row i becomes row i + offsets[i]; what is held follows from the rows' presses, as it would in a recorder."""
    place = np.clip(np.arange(len(sample)) + offsets, 0, len(sample) - 1)
    return dataclasses.replace(sample, actions={name: rows[place] for name, rows in sample.actions.items()})


def test_a_clean_dataset_has_no_finding(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    train, heldout = write(tmp_path / "train", world, samples[:3]), write(tmp_path / "heldout", world, samples[3:])
    report = lint([train, heldout])
    assert report.findings == []
    assert (report.num_clips, report.num_frames) == (4, 4 * T)
    for folder in (train, heldout):
        assert lint([folder], num_clips=1).findings == []


@pytest.mark.parametrize(("lag", "says"), [(1, "before their row.* 1 earlier"), (-1, "after"), (-2, "2 frames after")])
def test_actions_a_frame_off_are_an_error_that_says_which_way(
    tmp_path: Path, world: DesktopSim, samples: list[Sample], lag: int, says: str
) -> None:
    shifted = [moved_rows(sample, np.full(T, -lag)) for sample in samples[:2]]
    report = lint([write(tmp_path, world, shifted)], limits=Limits(coverage_frames=9999))
    (finding,) = [finding for finding in report.findings if finding.check == "action lag"]
    assert finding.severity == "error"
    assert re.search(says, finding.message)


def test_a_pointer_in_another_unit_or_a_screen_without_cursor_is_a_warning(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    halved = planted(
        tmp_path / "a", world, samples[0], lambda s: with_rows(s, pointer=s.actions["pointer"] * np.float32(0.5))
    )
    assert found(halved) == {("warning", "pointer")}
    swapped = planted(
        tmp_path / "b", world, samples[0], lambda s: with_rows(s, pointer=s.actions["pointer"][:, ::-1].copy())
    )
    assert ("warning", "pointer") in found(swapped)


def test_a_dropped_and_a_doubled_frame_are_found_near_their_place(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    def drop(sample: Sample) -> Sample:
        return with_video(sample, np.concatenate([sample.video[:80], sample.video[81:], sample.video[-1:]]))

    def double(sample: Sample) -> Sample:
        return with_video(sample, np.concatenate([sample.video[:80], sample.video[79:-1]]))

    for name, plant in (("dropped frames", drop), ("duplicated frames", double)):
        report = planted(tmp_path / name.split()[0], world, samples[0], plant)
        (finding,) = [finding for finding in report.findings if finding.check == name]
        assert finding.severity == "error"
        first, last = (int(word) for word in finding.message.split("frames ")[1].split(",")[0].split(" and "))
        assert first < 80 + 25
        assert last > 80 - 25


def test_clocks_that_drift_are_found_by_screen_and_by_their_own_times(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    drifting = -(np.arange(T) // 60)
    report = planted(tmp_path / "a", world, samples[1], lambda s: moved_rows(s, drifting))
    assert ("error", "clock drift") in found(report)

    times = np.arange(T) / 10.0
    clean = planted(tmp_path / "b", world, samples[1], lambda s: with_meta(s, times=times.tolist()))
    assert clean.findings == []
    slow = planted(tmp_path / "c", world, samples[1], lambda s: with_meta(s, times=(times * 1.02).tolist()))
    assert found(slow) == {("error", "clock drift")}
    gap = times + 0.1 * (np.arange(T) > 50)
    report = planted(tmp_path / "d", world, samples[1], lambda s: with_meta(s, times=gap.tolist()))
    assert found(report) == {("error", "dropped frames")}
    assert "frame 51, 0.200 s" in report.findings[0].message


def test_a_capture_that_stands_still_while_the_pointer_moves(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    sample = samples[0]
    x = sample.actions["pointer"][:, 0] * 96
    moves = np.flatnonzero((np.abs(np.diff(x)) > 6)[:-1] & (np.abs(np.diff(x)) > 6)[1:]) + 1

    def freeze(sample: Sample) -> Sample:
        frames = sample.video.copy()
        frames[moves[::3]] = frames[moves[::3] - 1]
        return with_video(sample, frames)

    report = planted(tmp_path / "a", world, sample, freeze)
    assert ("warning", "frozen frames") in found(report)
    assert any(str(moves[0]) in finding.message for finding in report.findings if finding.check == "frozen frames")
    dead = planted(tmp_path / "b", world, sample, lambda s: with_video(s, np.repeat(s.video[:1], T, 0)))
    assert ("error", "frozen frames") in found(dead)


def test_a_key_that_stays_down_is_a_warning(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    key = world.action_space.keys.index("KeyO")

    def hold(sample: Sample) -> Sample:
        keys = sample.actions["keys"].copy()
        keys[30:, key] = [1, 0, 0]
        keys[30, key, PRESSED] = 1 - keys[29, key, HELD]
        return with_rows(sample, keys=keys)

    report = planted(tmp_path, world, samples[0], hold)
    assert found(report) == {("warning", "stuck keys")}
    assert report.findings[0].message.startswith("KeyO is held from frame 30 to the end, 14.0 s")


def test_a_lost_row_breaks_the_sum_of_presses(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    sample = samples[0]
    press = int(np.flatnonzero((sample.actions["buttons"][:, 0] == [1, 1, 0]).all(-1))[0])

    def lose(sample: Sample) -> Sample:
        kept = np.delete(np.arange(T), press)
        rows = {name: values[kept] for name, values in sample.actions.items()}
        meta = {**sample.meta, "events": [sample.meta["events"][i] for i in kept], "num_frames": T - 1}
        meta["state"] = [sample.meta["state"][i] for i in kept]
        return Sample(sample.key, rows, meta, sample.video[kept])

    report = planted(tmp_path, world, sample, lose)
    assert found(report) == {("error", "edges")}
    assert f"left at frame {press} is not held as its presses" in report.findings[0].message


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("pointer", lambda rows: rows * np.float32([96, 64]), "fraction of the screen"),
        ("buttons", lambda rows: rows * np.float32([255, 1, 1]), "held by 255"),
        ("keys", lambda rows: rows - np.float32([0, 0, 0.5]), "not whole numbers"),
        ("wheel", lambda rows: rows + np.float32(120), "turns by 120"),
    ],
)
def test_another_unit_is_an_error(
    tmp_path: Path, world: DesktopSim, samples: list[Sample], name: str, change: Any, says: str
) -> None:
    report = planted(tmp_path, world, samples[0], lambda s: with_rows(s, **{name: change(s.actions[name])}))
    messages = [finding.message for finding in report.findings if finding.check == "ranges"]
    assert len(messages) == 1
    assert says in messages[0]
    assert worst(report.findings) == 2


def test_axes_beyond_one_and_pixels_that_were_fractions(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    sample = with_rows(samples[0], axes=np.full((T, 1), -1.5, np.float32))
    space = dataclasses.replace(world.action_space, axes=("x",))
    report = lint([write(tmp_path / "a", world, [sample], action_space=space)], limits=Limits(coverage_frames=9999))
    assert [finding.message.split(";")[0] for finding in report.findings] == ["an axis is at -1.5"]
    dark = planted(tmp_path / "b", world, samples[0], lambda s: with_video(s, (s.video / 255).astype(np.uint8)))
    assert ("error", "ranges") in found(dark)


def test_rest_is_found_as_a_stretch_and_as_a_share(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    def rest(sample: Sample) -> Sample:
        """The last frame of ten stays for 16 s, with nothing held."""
        rows = {name: np.zeros_like(values) for name, values in sample.actions.items()}
        rows["pointer"][:] = sample.actions["pointer"][9]
        for name in rows:
            rows[name][:10] = sample.actions[name][:10]
        rows["buttons"][:10] = rows["keys"][:10] = 0
        return with_video(with_rows(sample, **rows), np.concatenate([sample.video[:10], [sample.video[9]] * (T - 10)]))

    report = planted(tmp_path, world, samples[0], rest)
    assert found(report) == {("warning", "idle")}
    assert len(report.findings) == 2
    assert "for 16.0 s from frame 10 on" in report.findings[0].message


def test_what_was_never_done_is_named(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    quiet = [with_rows(s, keys=np.zeros_like(s.actions["keys"])) for s in samples]
    corner = [with_rows(s, pointer=s.actions["pointer"] * np.float32(0.2)) for s in samples]
    space = dataclasses.replace(world.action_space, wheel=True)
    for name, clips, says in (("keys", quiet, "keys were never pressed"), ("corner", corner, "parts of the screen")):
        report = lint([write(tmp_path / name, world, clips, action_space=space)])
        (finding,) = [finding for finding in report.findings if finding.check == "coverage"]
        assert finding.severity == "warning"
        assert says in finding.message
        assert "the wheel was never turned" in finding.message


def test_mixed_sizes_and_rates_are_errors_inside_and_between_datasets(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    odd = [with_video(with_meta(samples[1], fps=15.0), samples[1].video[:, :60])]
    report = lint([write(tmp_path / "train", world, [samples[0], *odd])], limits=Limits(coverage_frames=9999))
    assert {("error", "resolution"), ("error", "frame rate")} <= found(report)
    write(tmp_path / "small", world, [with_meta(odd[0], fps=12.0)], height=60, fps=12.0)
    write(tmp_path / "train", world, samples[:1])
    report = lint([tmp_path / "small", tmp_path / "train"], limits=Limits(coverage_frames=9999))
    assert {finding.check for finding in report.findings} == {"resolution", "frame rate"}
    assert {finding.where for finding in report.findings} == {str(tmp_path / "train")}


def test_held_out_clips_that_were_trained_on_are_found_even_encoded_anew(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    train = write(tmp_path / "train", world, samples[:3])
    # Other actions, another codec: only the screens tell.
    rows = {name: np.concatenate([values[:1], values[:-1]]) for name, values in samples[2].actions.items()}
    copy = dataclasses.replace(samples[2], actions=rows, key="copy")
    limits = Limits(coverage_frames=9999, lag_moves=9999)
    for name, clip, codec, says in (
        ("a", samples[1], "lossless", "the same was done in"),
        ("b", copy, "yuv444", "different screens are in the training set"),
    ):
        heldout = write(tmp_path / name / "heldout", world, [samples[3], clip], codec)
        report = lint([train, heldout], limits=limits)
        (finding,) = report.findings
        assert finding.check == "leakage"
        assert finding.where.endswith(clip.key)
        assert says in finding.message


def test_what_cannot_be_read_is_named_and_the_rest_is_linted(
    tmp_path: Path, world: DesktopSim, samples: list[Sample]
) -> None:
    write(tmp_path, world, samples)
    member = Dataset.open(tmp_path).clips[2].members["mp4"]
    with (tmp_path / "0.tar").open("r+b") as file:
        file.seek(member.offset + member.size // 2)
        file.write(b"damage")
    report = lint([tmp_path])
    (finding,) = report.findings
    assert (finding.severity, finding.check) == ("error", "unreadable")
    assert "clip-2.mp4" in finding.message
    assert report.num_clips == 3
    (tmp_path / "0.tar").unlink()
    report = lint([tmp_path, tmp_path / "nothing"])
    assert [finding.check for finding in report.findings] == ["unreadable"] * 6
    assert "is not a dataset" in report.findings[-1].message


def test_latents_far_from_their_statistics(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    rng = np.random.default_rng(0)
    latents = (rng.normal(size=(T, 3, 8, 12)) * 2 + 1).astype(np.float16)
    sample = dataclasses.replace(samples[0], video=None, latents=latents)
    for name, std, says in (("good", 2.0, None), ("bad", 0.02, "root mean square of 100"), ("nan", 2.0, "not finite")):
        if name == "nan":
            sample.latents[3, 1] = np.nan
        statistics = LatentStatistics(mean=(1.0,) * 3, std=(std,) * 3, vae_hash="x", stride=8)
        folder = write(tmp_path / name, world, [sample], kind="latents", latents=statistics)
        messages = [finding.message for finding in lint([folder], limits=Limits(coverage_frames=9999)).findings]
        assert len(messages) == (says is not None)
        assert says is None or says in messages[0]


def test_the_command_prints_one_table_or_json_and_its_status_is_the_worst(
    tmp_path: Path, world: DesktopSim, samples: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train", world, samples[:3])
    write(tmp_path / "heldout", world, samples[3:])
    assert command.main([str(tmp_path)]) == 0
    assert "680 frames" in capsys.readouterr().out
    assert command.main([str(tmp_path), "--limits", '{"pointer_coverage": 1.0}']) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["severity", "check", "number", "where", "and", "what"]
    assert said[1].startswith("warning   coverage  1")
    write(tmp_path / "heldout", world, samples[:1])
    assert command.main([str(tmp_path), "--json"]) == 2
    tree = json.loads(capsys.readouterr().out)
    assert tree["status"] == 2
    assert [finding["check"] for finding in tree["findings"]] == ["leakage"]
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--limits", '{"max_lagg": 1}'])
    assert "max_lagg: unknown field; did you mean" in capsys.readouterr().err


def test_released_keys_are_not_stuck(tmp_path: Path, world: DesktopSim, samples: list[Sample]) -> None:
    """A key held for long and released is somebody playing."""
    keys = np.zeros_like(samples[0].actions["keys"])
    keys[5:160, 0] = [1, 0, 0]
    keys[5, 0, PRESSED] = keys[160, 0, RELEASED] = 1
    assert planted(tmp_path, world, samples[0], lambda s: with_rows(s, keys=keys)).findings == []


def test_the_record_stage_writes_what_the_linter_says_and_warns(
    tmp_path: Path, world: DesktopSim, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train", world, samples[:2])
    write(tmp_path / "heldout", world, samples[1:2])
    folders = [tmp_path / "train", tmp_path / "heldout"]
    assert look(folders, 2, tmp_path / "lint.json") == 1
    assert json.loads((tmp_path / "lint.json").read_text())["findings"][0]["check"] == "leakage"
    assert "python -m data_pipeline.lint" in caplog.text
    settings = RecordConfig(
        environment=DesktopSimConfig(), policy=HumanPolicyConfig(), num_recordings=2, num_heldout=1, num_frames=12
    )
    result = make_recordings(settings, 1, tmp_path / "made", map_here, Resources(), lambda done: None)
    assert result["num_findings"] == 0
    assert json.loads((tmp_path / "made" / "lint.json").read_text())["num_clips"] == 3
