"""The bench: ratios that a slow machine does not move, real models in their order of cost, one line for a mistake."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.playing import small_world
from tools.bench import Case, compared, main, timed, usual
from wm.artifact import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "artifact"
    save(small_world(), folder, "# A world for tests\n")
    return folder


def test_ratios_are_those_of_the_cases_however_the_machine_changes() -> None:
    rounds, frames = 12, 3
    mood = np.random.default_rng(1).lognormal(0, 1, (rounds, 1)) * np.ones(frames)  # of the machine, round by round
    cases = {Case("student", 2): 0.010, Case("student", 1): 0.004, Case("teacher", 16): 0.080}
    rows = compared({case: cost * mood for case, cost in cases.items()}, batch=5)
    for row, cost in zip(rows, cases.values(), strict=True):
        ratio = row["times_the_first"]
        assert ratio["value"] == ratio["low"] == ratio["high"] == pytest.approx(0.010 / cost, abs=1e-4)
        assert ratio["trials"] == rounds
        rate = row["frames_per_second"]
        assert rate["value"] == pytest.approx(5 / (cost * mood.mean()), rel=1e-3)
        assert rate["low"] <= rate["value"] <= rate["high"]
        assert row["latency_ms"]["p50"] == pytest.approx(1000 * cost * np.median(mood), rel=1e-2)


def test_more_steps_cost_more_and_every_case_gets_its_turns() -> None:
    world = small_world()
    cases = [Case("student", 1), Case("student", 6), Case("teacher", 2)]
    seconds = timed({"float32": world}, cases, rounds=3, frames=2)
    assert {case: taken.shape for case, taken in seconds.items()} == dict.fromkeys(cases, (3, 2))
    assert all((taken > 0).all() for taken in seconds.values())
    _, more, _ = compared(seconds)
    assert more["times_the_first"]["value"] < 0.7


def test_the_command_measures_an_artifact_and_writes_what_it_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    asked = ["student@1", "student@2/bfloat16"]
    assert main([str(folder), *asked, "--rounds", "2", "--frames", "1", "--batch", "3", "--json", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["case", *asked]
    found = json.loads(out.read_text())
    assert [row["case"] for row in found["cases"]] == asked
    assert found["settings"]["batch"] == 3
    assert found["hardware"]["cores"] >= 1
    assert [str(case) for case in usual(small_world())] == ["student@2", "teacher@3", "student@1", "student@4"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["student"], "write MODEL@STEPS"),
        (["student@0"], "write MODEL@STEPS"),
        (["artist@2"], "has no artist; it has student, teacher"),
        (["--rounds", "1"], "--rounds is 1; it must be at least 2"),
    ],
)
def test_mistakes_are_one_line(folder: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), *more]) == 2
    assert re.fullmatch(f"error: .*{re.escape(said)}.*\n", capsys.readouterr().err)
