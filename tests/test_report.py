"""The report of a small real world: complete, strict JSON, a page that loads nothing, verdicts that follow the numbers."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from panel_world import SPACE, Frozen, Noisy, Perfect, arrow, record
from PIL import Image

from wm.stages.bench import Counts, unmeasured
from wm.stages.charts import Bar, Line, _ticks, bars, lines
from wm.stages.evaluate import EvaluateConfig, Target
from wm.stages.further_rows import further_rows, reasons
from wm.stages.pictures import film, strip
from wm.stages.report import hardware, judged, versions, write_report
from wm.stages.video_measures import Legibility, Lines, VideosConfig

COUNTS = Counts(
    context_frames=3,
    transitions_per_kind=6,
    next_frames=8,
    idle_rollouts=2,
    idle_frames=3,
    rollouts=2,
    rollout_frames=52,
    counterfactuals=3,
    speed_frames=3,
)
CONFIG = EvaluateConfig(counts=COUNTS, vae_frames=12)
MEASURES = (
    "cursor_error_px",
    "transition_accuracy",
    "next_frame_psnr_db",
    "idle_stability_db",
    "drift_db_per_100_frames",
    "counterfactual_sensitivity",
)


def open_session(*, model: str, num_steps: int, **more: Any) -> Any:
    """The teacher understands; the student is noisy, and has not learned at one step."""
    return Perfect() if model == "teacher" else Frozen() if num_steps == 1 else Noisy(seed=num_steps)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    clips = [record(60, seed) for seed in (1, 2, 3)]
    CONFIG.build(
        folder=folder / "evaluate",
        open_session=open_session,
        reconstruct=lambda video: (video.float() * 0.98).to(torch.uint8),
        clips=clips,
        cursors=[tuple(arrow())],
        space=SPACE,
        seed=5,
    ).measure_all()
    return folder, report_of(folder, CONFIG)


def report_of(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    return write_report(
        folder / "report",
        evaluation=folder / "evaluate",
        config=config,
        timing={"record": 12.34, "train_vae": 200.0},
        world="panel & <world>",
        seed=5,
        settings={"train_vae": {"note": "</pre><script>"}},
    )


def test_report_json_holds_what_a_reader_asks_for(run: tuple[Path, dict[str, Any]]):
    folder, report = run

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert json.loads((folder / "report" / "report.json").read_text(), parse_constant=refuse) == report
    assert report["vae"]["psnr_db"]["trials"] == 12
    assert 0 < report["vae"]["ssim"]["value"] <= 1
    assert set(report["teacher"]) == {"16"}
    assert set(report["student"]) == {"1", "2", "4"}
    assert report["student"]["2"]["cursor_error_px"]["median"] == 0
    for model in (*report["teacher"].values(), *report["student"].values()):
        assert set(MEASURES) == set(model)
        assert all(model[name]["trials"] > 0 and {"low", "high"} <= set(model[name]) for name in MEASURES)
    assert report["speed"]["student"]["2"]["frames_per_second"]["value"] > 0
    assert report["timing"] == {"record": 12.3, "train_vae": 200.0}
    assert report["hardware"]["cores"] >= 1
    assert {"python", "torch"} <= set(report["versions"])
    assert report["rules"]["transition"]["change_error"] == 0.25
    assert report["seed"] == 5


def test_targets_follow_the_numbers(run: tuple[Path, dict[str, Any]]):
    passed = {target["name"]: target["passed"] for target in run[1]["targets"]}
    assert passed["cursor error, median px"] is True
    assert passed["transition accuracy"] is True
    assert passed["next frame at 2 steps, dB above the teacher"] is False  # 36 dB of noise against a perfect teacher
    assert passed["next frame at 1 step, dB above the teacher"] is False


def test_a_target_is_met_at_its_end_and_missed_beyond():
    tree = {"a": {"value": 30.0, "low": 29.0, "high": 31.0}, "b": {"value": 31.0}, "none": {"value": None}}
    row = judged(Target(name="a", measure="a.value", at_least=30.0), tree)
    assert (row["passed"], row["low"], row["high"]) == (True, 29.0, 31.0)
    assert judged(Target(name="a", measure="a.value", at_least=30.1), tree)["passed"] is False
    assert judged(Target(name="a", measure="a.value", at_most=29.9), tree)["passed"] is False
    assert judged(Target(name="d", measure="a.value", relative_to="b.value", at_least=-1.0), tree)["passed"] is True
    assert judged(Target(name="n", measure="none.value", at_least=0.0), tree)["passed"] is None
    assert judged(Target(name="x", measure="nowhere.value", at_least=0.0), tree)["passed"] is None


class _Page(HTMLParser):
    """What a page would load, which tags are open, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_is_whole_loads_nothing_and_escapes_what_it_is_given(run: tuple[Path, dict[str, Any]]):
    text = (run[0] / "report" / "report.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert page.loads
    assert all(load.startswith("data:image/") for load in page.loads)
    assert "url(" not in text
    assert "@import" not in text
    assert "script" not in page.tags
    for words in (
        "panel & <world>",
        "transition accuracy",
        "before, real, dreamed",
        "student, 1 step",
        "</pre><script>",
    ):
        assert words in page.said
    assert page.tags.count("svg") == 3
    assert page.tags.count("img") >= 3 + 2 + 1


def test_a_world_that_says_little_still_gets_a_page(tmp_path: Path):
    videos = VideosConfig(measures=(Lines(shortest_px=4), Legibility()), clips=2, frames=3)
    config = EvaluateConfig(counts=COUNTS, vae_frames=4, teacher=None, student_steps=(4,), targets=(), videos=videos)
    clips = [record(60, 1)]
    silent = [type(clip)(clip.video, clip.action) for clip in clips]
    arguments: dict[str, Any] = {"open_session": open_session, "reconstruct": lambda v: v, "space": SPACE, "seed": 1}
    config.build(folder=tmp_path / "evaluate", clips=silent, cursors=(), **arguments).measure_all()
    report = report_of(tmp_path, config)
    assert report["teacher"] == {}
    assert report["student"]["4"]["transition_accuracy"]["value"] is None
    said = _Page((tmp_path / "report" / "report.html").read_text()).said
    assert "this world has no inner state" in said
    assert "no targets set" in said
    # Measures of whole videos stand beside the others, of the tokenizer too, with what could not be measured and why.
    assert said.count("lines of one pixel that stay, share") == said.count("legible letters, share") == 2
    assert said.count("not measured: this world says of no font") == 2


def test_every_measure_that_was_named_has_a_row():
    taken, absent = {"value": 0.5, "low": 0.25, "high": 0.75, "trials": 4}, unmeasured("its weights are not there")
    columns = [
        {"psnr_db": taken, "line_retention": taken, "speed": 3.0},
        {"psnr_db": taken, "fid": absent, "a_b": taken},
    ]
    rows = further_rows(columns, known=["psnr_db"])
    assert [row[0] for row in rows] == ["lines of one pixel that stay, share", "FID", "a b"]
    shown = "0.50 <small>[0.25, 0.75]</small> <small>n=4</small>"
    assert [row[1:] for row in rows] == [[shown, "–"], ["–", "–"], ["–", shown]]
    assert reasons(columns) == "<p class='soft'>not measured: its weights are not there</p>"


def test_a_missing_unit_is_named(run: tuple[Path, dict[str, Any]]):
    more = EvaluateConfig(counts=COUNTS, student_steps=(1, 2, 4, 8))
    with pytest.raises(ValueError, match=r"student-8\.json is missing.*run the evaluate stage"):
        report_of(run[0], more)


def test_strips_keep_every_pixel(tmp_path: Path):
    rows = [torch.arange(2 * 3 * 4 * 96).remainder(251).to(torch.uint8).view(2, 3, 4, 96) for _ in range(3)]
    picture = strip(rows)
    assert picture.shape == (3 * 4 + 2 * 2, 2 * 96 + 2, 3)
    assert (picture[6:10, 98:] == rows[1][1].permute(1, 2, 0).numpy()).all()


def test_a_film_wraps_and_keeps_pairs_together():
    real = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 6).contiguous()
    picture = film(real, real + 100, columns=3)
    assert picture.shape == (4 * 4 + 3 * 2, 3 * 6 + 2 * 2, 3)
    assert [int(v) for v in picture[::6, 0, 0]] == [0, 100, 3, 103]
    assert [int(v) for v in picture[6, ::8, 0]] == [100, 101, 102]


def test_the_animation_plays_every_frame(run: tuple[Path, dict[str, Any]]):
    with Image.open(run[0] / "evaluate" / "student-2" / "rollout.webp") as image:
        assert image.n_frames == COUNTS.rollout_frames
        assert image.size == (2 * 48 + 2, 32)


def test_ticks_are_round_and_enclose():
    for low, high in ((0.0, 1.0), (-3.7, 41.2), (27.31, 27.34), (5.0, 5.0)):
        ticks = _ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 8


def test_charts_stay_inside_their_box():
    plots = lines([Line("a", [1.0, 9.0, -2.0], [0.0, 8.0, -3.0], [2.0, 10.0, 0.0])], x_label="x", y_label="y")
    plots += bars(
        ["g", "h"], {"m": [Bar(1.0, 0.9, 1.0), None], "n": [Bar(0.0, 0.0, 0.2), Bar(0.5, 0.4, 0.6)]}, y_label="y"
    )
    places = [float(n) for points in re.findall(r'points="([^"]+)"', plots) for n in re.split("[ ,]", points)]
    assert min(places) >= 0
    assert max(places) <= 920
    assert plots.count("<rect") == 3


def test_hardware_and_versions_say_only_what_is_there():
    assert hardware()["cpu"]
    assert "no-such-package-anywhere" not in versions(["torch", "no-such-package-anywhere"])


def test_chromium_draws_the_page_without_a_request(run: tuple[Path, dict[str, Any]], tmp_path: Path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (`make system-deps`)")
    shot = tmp_path / "report.png"
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1100,1400", f"--screenshot={shot}", (run[0] / "report" / "report.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with Image.open(shot) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # text, tables and pictures: not an empty page
