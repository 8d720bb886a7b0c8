"""Rates of clips that are as their captions say: 1 for what is drawn true, and each fault in its own aspect alone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.environments.shapes import Claim, Shapes, ShapesConfig, draw, draw_scene
from data_pipeline.schema import DatasetManifest
from launch.captions import match_of
from wm.caption_match import match_rates, verdicts
from wm.config import ConfigError, to_dict
from wm.stages.caption_report import write_caption_report
from wm.stages.evaluate_captions import CaptionEvaluation, EvaluateCaptionsConfig

WORLD = ShapesConfig()
SPACE = Shapes(WORLD).action_space
MANIFEST = DatasetManifest(
    action_space=SPACE, fps=6.0, height=32, width=32, kind="video", shards=(), source={"environment": to_dict(WORLD)}
)
MATCH = match_of(MANIFEST)


def clip_of(caption: str, seed: int = 0) -> Tensor:
    """A true clip of `caption`, (T, 3, H, W) uint8, somewhere on the screen."""
    wanted, rng = Claim.of(caption), np.random.default_rng(seed)
    while (scene := draw_scene(WORLD, rng)).claim.direction != wanted.direction:
        pass
    video = draw(WORLD, dataclasses.replace(scene, claim=wanted))
    return torch.from_numpy(video).permute(0, 3, 1, 2)


def some_captions(count: int) -> list[str]:
    rng = np.random.default_rng(2)
    return [str(draw_scene(WORLD, rng).claim) for _ in range(count)]


def evaluation(folder: Path, heard: Callable[[str], str] = str, **changes: object) -> CaptionEvaluation:
    captions = some_captions(11)

    def draw_captions(said: tuple[str, ...], num_frames: int, *, model: str, num_steps: int, seed: int) -> Tensor:
        """True clips of what `heard` makes of the captions."""
        assert num_frames == WORLD.num_frames
        return torch.stack([clip_of(heard(caption), seed + i) for i, caption in enumerate(said)])

    config = EvaluateCaptionsConfig(**{"num_clips": 10, "batch": 4, "shown_clips": 3, "student": None, **changes})
    return config.build(
        folder=folder,
        draw_captions=draw_captions,
        reconstruct=lambda frames: frames,
        videos=torch.stack([clip_of(caption, 50 + i) for i, caption in enumerate(captions)]),
        captions=captions,
        match=MATCH,
        seed=7,
        fingerprint="weights",
    )


def test_what_is_drawn_true_is_right_in_everything(tmp_path: Path) -> None:
    unit = evaluation(tmp_path).measure("teacher", 16)
    rates = {name: unit["measures"][name]["value"] for name in ("colour", "shape", "direction", "depth", "all")}
    assert set(rates.values()) == {1.0}
    assert unit["measures"]["all"]["trials"] == 10
    assert [clip["caption"] for clip in unit["measures"]["clips"]] == some_captions(11)[:3]
    real = evaluation(tmp_path).measure_vae()["measures"]
    assert real["real_all"]["value"] == real["all"]["value"] == 1.0


@pytest.mark.parametrize(
    ("aspect", "heard"),
    [
        ("direction", lambda said: said.replace("left", "up").replace("right", "down")),
        ("depth", lambda said: said.replace("behind", "in front of")),
        ("shape", lambda said: said.replace("circle", "square")),
        ("colour", lambda said: said.replace("red", "@").replace("green", "red").replace("@", "green")),
    ],
)
def test_a_fault_lowers_its_own_rate_alone(tmp_path: Path, aspect: str, heard: Callable[[str], str]) -> None:
    captions = some_captions(11)[:10]
    measures = evaluation(tmp_path, heard).measure("teacher", 16)["measures"]
    right = sum(heard(caption) == caption for caption in captions) / 10
    assert 0 < right < 1
    assert measures[aspect]["value"] == measures["all"]["value"] == pytest.approx(right)
    others = {"colour", "shape", "direction", "depth"} - {aspect}
    assert {measures[other]["value"] for other in others} == {1.0}


def test_rates_need_clips_and_each_its_caption() -> None:
    with pytest.raises(ValueError, match="1 clips and 2 captions"):
        verdicts([clip_of("a red circle moves left behind a green square")], ["a", "b"], MATCH)
    with pytest.raises(ValueError, match="no clips to judge"):
        match_rates([])
    with pytest.raises(ConfigError, match="nothing reads captions out of clips of desktop_sim"):
        match_of(dataclasses.replace(MANIFEST, source={"environment": {"kind": "desktop_sim"}}))


def test_a_unit_is_measured_once_for_the_same_weights(tmp_path: Path) -> None:
    first = evaluation(tmp_path).measure("teacher", 16)
    again = evaluation(tmp_path, lambda said: said.replace("behind", "in front of")).measure("teacher", 16)
    assert again == first
    other = dataclasses.replace(
        evaluation(tmp_path, lambda said: said.replace("behind", "in front of")), fingerprint="new"
    )
    assert other.measure("teacher", 16)["measures"]["depth"] != first["measures"]["depth"]
    with pytest.raises(ValueError, match="has 11 captions and num_clips is 12"):
        evaluation(tmp_path, num_clips=12)


def test_the_report_holds_every_rate_against_its_target(tmp_path: Path) -> None:
    found = evaluation(tmp_path / "evaluate", lambda said: said.replace("circle", "square").replace("left", "up"))
    about = {
        "evaluation": tmp_path / "evaluate",
        "timing": {"dit": 3.25},
        "world": "shapes & co",
        "seed": 7,
        "settings": {},
    }
    with pytest.raises(ValueError, match="evaluation is not finished"):
        write_caption_report(tmp_path / "report", config=found.config, **about)
    found.measure_vae()
    found.measure("teacher", 16)
    report = write_caption_report(tmp_path / "report", config=found.config, **about)
    assert json.loads((tmp_path / "report/report.json").read_text()) == report
    passed = {target["measure"].split(".")[1]: target["passed"] for target in report["targets"]}
    rates = {name: report["teacher-16"][name]["value"] for name in passed}
    assert passed == {name: rate >= 0.8 for name, rate in rates.items()}
    assert passed["colour"]
    assert not passed["shape"]
    page = (tmp_path / "report/report.html").read_text()
    assert "shapes &amp; co" in page
    assert "wrong: " in page
    assert page.count("data:image/png;base64,") == 2


def test_an_evaluation_of_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to measure: name a teacher or a student"):
        EvaluateCaptionsConfig(teacher=None)
    assert EvaluateCaptionsConfig(teacher=None, student="distill").units() == (("student", 2),)
