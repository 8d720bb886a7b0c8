"""The explorer goes where others do not; tasks are done by name; an action file is repeated; the report counts all of it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline import coverage as report
from data_pipeline.controls import Controls, ControlsLog, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.environments.environment import Target
from data_pipeline.explorer_policy import ExplorerPolicyConfig, coarse
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.policies import RandomPolicyConfig
from data_pipeline.record import cursor_images, record
from data_pipeline.replay_policy import ReplayPolicyConfig
from data_pipeline.schema import DataError, DatasetManifest, Sample
from data_pipeline.shards import Dataset, write_manifest, write_shard
from data_pipeline.task_policy import TaskPolicyConfig
from tools import actions

KEYS = ("KeyA", "KeyD", "KeyE", "KeyH", "KeyL", "KeyO", "ShiftLeft", "Enter", "Digit7", "Backspace")


def full() -> Any:
    return DesktopSimConfig(profile="full", width=256, height=192, keys=KEYS).build()


def used(sample: Sample) -> set[str]:
    return {name for name, (times, _) in sample.meta["targets"].items() if times}


def test_an_explorer_uses_more_things_than_a_person_or_chance() -> None:
    env = full()
    counts = {}
    for kind in (ExplorerPolicyConfig(), HumanPolicyConfig(), RandomPolicyConfig()):
        counts[kind.kind] = sum(len(used(record(env, kind.build(), 250, seed, "a"))) for seed in range(2))
    assert counts["explore"] > 1.4 * counts["human"] > 1.4 * counts["random"]


def test_explorers_repeat_themselves_and_do_only_what_is_possible() -> None:
    for env in (full(), DesktopSimConfig().build()):
        height, width = env.reset(seed=0)[0].shape[:2]
        runs = []
        for _ in range(2):
            policy, info, log = (
                ExplorerPolicyConfig().build(),
                env.reset(seed=3)[1],
                ControlsLog(env.action_space, width, height),
            )
            policy.reset(env, 3)
            runs.append([])
            for _ in range(80):
                runs[-1].append(policy.act(env, info))
                log.row(runs[-1][-1])
                info = env.step(runs[-1][-1])[4]
        assert runs[0] == runs[1]


class Unknown(DesktopSim):
    """A desktop that does not say what is on it, as a real one."""

    def targets(self) -> list[Target]:
        return []


def test_an_explorer_finds_things_on_a_screen_that_names_none() -> None:
    env = Unknown(DesktopSimConfig())
    sample = record(env, ExplorerPolicyConfig().build(), 300, 1, "a")
    assert len({kind for kinds in sample.meta["events"] for kind in kinds}) >= 6
    assert sample.actions["keys"].any()


def test_a_screen_is_the_same_one_wherever_the_cursor_is() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    moved = frame.copy()
    moved[20:26, 30:35] = 0  # a cursor, tip at (30, 20)
    bare = coarse(frame, (60, 44), np.zeros((12, 16), np.uint8))
    bare = coarse(frame, (0, 0), bare)
    assert np.array_equal(coarse(moved, (30, 20), bare), bare)
    assert not np.array_equal(coarse(moved, (0, 0), bare), bare)


def test_a_task_is_done_step_by_step() -> None:
    env = full()
    task = (
        "click panel: Menu",
        "click menu: Editor",
        "type Hello7",
        "key Enter",
        "click editor: menu File",
        "click menu: File Save",
        "wait 40",
    )
    sample = record(env, TaskPolicyConfig(tasks=(task,)).build(), 60, 4, "a")
    editors = [window for window in sample.meta["state"][-1]["windows"] if window["app"] == "editor"]
    assert any(window["contents"]["text"] == "Hello7\n" and not window["contents"]["modified"] for window in editors)
    kinds = [kind for kinds in sample.meta["events"] for kind in kinds if kind not in ("hover", "raise")]
    assert kinds == ["menu", "choose", "open", *["type"] * 7, "menu", "choose", "save"]


def test_a_task_that_cannot_be_done_is_given_up_and_the_next_begins() -> None:
    env = full()
    policy = TaskPolicyConfig(tasks=(("click nothing of that name", "key KeyA"), ("click panel: Menu",))).build()
    sample = record(env, policy, 60, 5, "a")
    assert policy.given_up > 1
    assert "panel: Menu" in used(sample)
    assert not sample.actions["keys"].any()


@pytest.mark.parametrize("step", ["jump over", "click", "wait long"])
def test_steps_that_mean_nothing_are_refused(step: str) -> None:
    with pytest.raises(ValueError, match="begin with one of click"):
        TaskPolicyConfig(tasks=((step,),))


def test_a_played_session_is_repeated_from_its_file(tmp_path: Path) -> None:
    env, hand = full(), HumanPolicyConfig().build()
    info = env.reset(seed=6)[1]
    hand.reset(env, 6)
    played = []
    for _ in range(50):
        played.append(hand.act(env, info))
        info = env.step(played[-1])[4]
    played.append(Controls((9, 9), (Event("wheel", dx=0.0, dy=-2.0), Event("press", "left"), Event("release", "left"))))
    actions.write(tmp_path / "played.jsonl", actions.Header(begin=actions.Beginning(seed=6)), played)
    policy = ReplayPolicyConfig(file=str(tmp_path / "played.jsonl")).build()
    policy.reset(env, 0)
    info = env.reset(seed=6)[1]
    assert [policy.act(env, info) for _ in range(51)] == played
    assert policy.act(env, info) == Controls(info["pointer"])
    again = record(env, policy, 51, 6, "a")
    assert np.isclose(again.actions["wheel"].sum(), sum(event.dy for one in played[:50] for event in one.events))


def test_what_is_no_action_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text, message in (
        ("{}\n", "no frames"),
        ('{}\n{"pointer": [1, 2]}\n{"pointer": 3}\n', "line 3"),
        ('{}\n{"pointer": [1, 2], "events": [["press"]]}\n', "line 2"),
        ("{}\nnot json\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            ReplayPolicyConfig(file=str(path)).build()
    with pytest.raises(DataError, match="cannot be read"):
        ReplayPolicyConfig(file=str(tmp_path / "none")).build()


def dataset(folder: Path, env: Any, samples: list[Sample]) -> Dataset:
    height, width = samples[0].video.shape[1:3]
    manifest = DatasetManifest(
        action_space=env.action_space, fps=10.0, height=height, width=width, kind="video", source={},
        shards=(write_shard(folder / "0.tar", samples),), cursors=cursor_images(env),
    )  # fmt: skip
    write_manifest(folder, manifest)
    return Dataset.open(folder)


def test_the_report_counts_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = full()
    samples = [record(env, HumanPolicyConfig().build(), 80, seed, f"c{seed}") for seed in range(2)]
    found = report.coverage(dataset(tmp_path, env, samples), screens=True)
    same = [i for s in samples for i in range(len(s)) if i == 0 or np.array_equal(s.video[i], s.video[i - 1])]
    assert found.num_frames == 160
    assert found.unchanged == len(same) / 160
    presses = Counter(
        name
        for s in samples
        for name, n in zip(KEYS, s.actions["keys"][..., 1].sum(0), strict=True)
        for _ in range(int(n))
    )
    assert {name: n for name, n in found.keys.items() if n} == dict(presses)
    assert set(found.keys) == set(KEYS)
    assert sum(found.events.values()) == sum(len(kinds) for s in samples for kinds in s.meta["events"])
    assert {name for name, n in found.targets.items() if n} == used(samples[0]) | used(samples[1])
    assert any(n == 0 for n in found.targets.values())
    assert found.screens is not None
    assert 1 < found.screens <= 160
    assert report.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"nothing changed in {found.unchanged:.1%}" in text
    assert "never: " in text
    assert report.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["keys"] == found.keys
    assert report.main([str(tmp_path / "none")]) == 2


def test_recordings_of_the_simple_desktop_are_as_they_were(tmp_path: Path) -> None:
    """Its targets have no names, so nothing is added to its recordings; the report names what its state names."""
    env = DesktopSimConfig().build()
    sample = record(env, HumanPolicyConfig().build(), 120, 3, "a")
    assert set(sample.meta) == {
        "fps",
        "num_frames",
        "source",
        "environment",
        "version",
        "seed",
        "policy",
        "policy_seed",
        "events",
        "state",
    }
    found = report.coverage(dataset(tmp_path, env, [sample]))
    assert any(name.startswith("launcher ") for name in found.targets)
