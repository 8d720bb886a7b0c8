"""The evaluation on a small real world: a perfect model scores perfectly, a frozen one fails, noise costs what it must."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from panel_world import HEIGHT, SPACE, WIDTH, Frozen, Noisy, Perfect, arrow, record

from wm.batch import HELD, PRESSED, Action, ActionSpace
from wm.measures import PSNR_CAP_DB, TransitionRule
from wm.stages.bench import Counts, unit_name
from wm.stages.evaluate import Clip, EvaluateConfig, Evaluation, reconstruction
from wm.stages.trials import all_positions, draw, gather, hold, otherwise, pointer_pixels, transitions, windows

COUNTS = Counts(
    context_frames=3,
    batch=16,
    transitions_per_kind=10,
    next_frames=20,
    idle_rollouts=3,
    idle_frames=5,
    rollouts=3,
    rollout_frames=50,
    cursor_every=5,
    counterfactuals=6,
    speed_frames=4,
    strip_every=10,
    strip_trials=3,
)
CONFIG = EvaluateConfig(counts=COUNTS, teacher_steps=(4,), student_steps=(1, 2), vae_frames=20)


@functools.cache
def clips() -> tuple[Clip, ...]:
    return tuple(record(110, seed) for seed in (1, 2))


def evaluation(folder: Path, open_session: Callable[..., Any], **changes: Any) -> Evaluation:
    cursors = [tuple(arrow())]
    arguments: dict[str, Any] = {"clips": clips(), "cursors": cursors, "space": SPACE, "seed": 7, "fingerprint": "a"}
    return CONFIG.build(folder=folder, open_session=open_session, reconstruct=lambda x: x, **(arguments | changes))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    models = {"perfect": Perfect, "frozen": Frozen, "noisy": Noisy, "fading": functools.partial(Noisy, growth=0.5)}
    folder = tmp_path_factory.mktemp("evaluate")
    return {name: evaluation(folder / name, model).measure("student", 2)["measures"] for name, model in models.items()}


def test_a_perfect_model_scores_perfectly(measured: dict[str, Any]):
    perfect = measured["perfect"]
    assert perfect["next_frame_psnr_db"]["value"] == PSNR_CAP_DB
    assert perfect["idle_stability_db"]["value"] == PSNR_CAP_DB
    assert perfect["drift_db_per_100_frames"]["value"] == 0
    assert perfect["cursor_error_px"]["median"] == perfect["cursor_error_px"]["p95"] == 0
    assert perfect["transition_accuracy"]["value"] == 1
    assert perfect["counterfactual_sensitivity"]["same"]["value"] == 0
    assert perfect["counterfactual_sensitivity"]["value"] > 20


def test_a_frozen_model_stands_still_and_misses_everything(measured: dict[str, Any]):
    frozen = measured["frozen"]
    assert frozen["transition_accuracy"]["value"] == 0
    assert frozen["cursor_error_px"]["median"] > 5
    assert frozen["idle_stability_db"]["value"] == PSNR_CAP_DB
    assert frozen["counterfactual_sensitivity"]["value"] == 0


def test_noise_costs_its_own_level_and_nothing_else(measured: dict[str, Any]):
    noisy, level_db = measured["noisy"], 20 * math.log10(255 / 4)
    assert noisy["next_frame_psnr_db"]["value"] == pytest.approx(level_db, abs=0.3)
    assert noisy["idle_stability_db"]["value"] == pytest.approx(level_db, abs=0.3)
    assert noisy["drift_db_per_100_frames"]["value"] == pytest.approx(0, abs=0.5)
    assert noisy["transition_accuracy"]["value"] == 1
    assert noisy["cursor_error_px"]["median"] == 0


def test_growing_noise_is_seen_as_drift(measured: dict[str, Any]):
    drift = measured["fading"]["drift_db_per_100_frames"]
    assert drift["high"] < -10


def test_every_measure_has_trials_and_an_interval_around_it(measured: dict[str, Any]):
    for measures in measured.values():
        by_kind = measures["transition_accuracy"]["by_kind"]
        assert set(by_kind) == {"open", "close", "type"}
        assert {row["trials"] for row in by_kind.values()} == {COUNTS.transitions_per_kind}
        rows = [measures[n] for n in measures if n not in ("speed", "cursor_error_px")]
        for row in (*rows, *by_kind.values(), measures["speed"]["frames_per_second"]):
            assert row["trials"] > 0
            assert row["low"] <= row["value"] <= row["high"]
        cursor = measures["cursor_error_px"]
        assert cursor["low"] <= cursor["median"] <= cursor["high"] <= cursor["p95_high"]
        assert measures["speed"]["latency_ms"]["p50"] <= measures["speed"]["latency_ms"]["p95"]


def test_a_model_that_also_opens_another_window_is_wrong(tmp_path: Path):
    class TwoWindows(Perfect):
        def step(self, action: Action) -> torch.Tensor:
            frames = super().step(action)
            clicked = action.buttons[:, 0, 0, PRESSED] > 0
            frames[clicked, :, 20:30, 20:34] = 240
            return frames

    by_kind = evaluation(tmp_path, TwoWindows).measure("student", 1)["measures"]["transition_accuracy"]["by_kind"]
    assert by_kind["open"]["value"] == by_kind["close"]["value"] == by_kind["open"]["nothing_else"] == 0
    assert by_kind["type"]["value"] == by_kind["open"]["changed"] == 1


def test_a_world_without_events_or_cursor_says_what_it_does_not_measure(tmp_path: Path):
    silent = tuple(Clip(clip.video, clip.action) for clip in clips())
    measures = evaluation(tmp_path, Perfect, clips=silent, cursors=()).measure("student", 1)["measures"]
    assert "no inner state" in measures["transition_accuracy"]["reason"]
    assert measures["transition_accuracy"]["value"] is None
    assert "no cursor" in measures["cursor_error_px"]["reason"]
    assert measures["next_frame_psnr_db"]["value"] == PSNR_CAP_DB


def test_clips_too_short_for_a_rollout_are_said_and_none_are_refused(tmp_path: Path):
    short = tuple(record(40, seed) for seed in (1, 2))
    drift = evaluation(tmp_path, Perfect, clips=short).measure("student", 1)["measures"]["drift_db_per_100_frames"]
    assert drift["reason"] == "not measured: no held-out clip has 53 frames"
    with pytest.raises(ValueError, match="no held-out clips"):
        evaluation(tmp_path, Perfect, clips=())
    with pytest.raises(ValueError, match="needs one more"):
        evaluation(tmp_path, Perfect, clips=(record(3, 1),))


def test_a_finished_unit_is_not_measured_again_until_something_changes(tmp_path: Path):
    opened = []

    def opening(**arguments: Any) -> Frozen:
        opened.append(arguments)
        return Frozen()

    first = evaluation(tmp_path, opening).measure("student", 1)
    count = len(opened)
    assert evaluation(tmp_path, opening).measure("student", 1) == first
    assert len(opened) == count
    assert {(a["model"], a["num_steps"]) for a in opened} == {("student", 1)}
    evaluation(tmp_path, opening, fingerprint="other weights").measure("student", 1)
    assert len(opened) == 2 * count
    (tmp_path / "student-1.json").write_text('{"hash": "cut o')
    evaluation(tmp_path, opening).measure("student", 1)
    assert len(opened) == 3 * count


def test_units_pictures_and_vae(tmp_path: Path):
    job = evaluation(tmp_path, Perfect)
    assert job.units() == (("teacher", 4), ("student", 1), ("student", 2))
    job.measure_all()
    assert {f"{unit_name(*unit)}.json" for unit in CONFIG.all_units()} == {p.name for p in tmp_path.glob("*.json")}
    unit = json.loads((tmp_path / "student-2.json").read_text())
    assert {"transition-open", "transition-close", "transition-type", "rollout", "animation"} == set(unit["pictures"])
    assert all((tmp_path / file).stat().st_size > 0 for file in unit["pictures"].values())
    vae = json.loads((tmp_path / "vae.json").read_text())["measures"]
    assert (vae["psnr_db"]["value"], vae["ssim"]["value"], vae["psnr_db"]["trials"]) == (PSNR_CAP_DB, 1.0, 20)
    assert vae["cursor_instrument_px"]["p95"] == vae["cursor_error_px"]["p95"] == 0


def test_reconstruction_goes_through_the_posterior_mean_and_keeps_exact_pixels():
    class Identity:
        def encode(self, video: torch.Tensor) -> Any:
            return torch.distributions.Normal(video, 1.0)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

    video = clips()[0].video[:40]
    assert torch.equal(reconstruction(Identity())(video), video)


def test_trials_are_the_same_for_a_seed_and_never_repeat():
    positions = all_positions(clips(), 3)
    assert len(positions) == 2 * (110 - 3)
    drawn = draw(positions, 30, seed=5)
    assert drawn == draw(positions, 30, seed=5) != draw(positions, 30, seed=6)
    assert len(set(drawn)) == 30


def test_gather_gives_the_past_and_what_followed():
    positions = all_positions(clips(), 3)[::50]
    trials = gather(clips(), positions, 3)
    for n, (c, i) in enumerate(positions):
        assert torch.equal(trials.frames[n], clips()[c].video[i - 3 : i])
        assert torch.equal(trials.next_frame[n], clips()[c].video[i])
        assert torch.equal(trials.next_action.pointer[n, 0], clips()[c].action.pointer[0, i])


def test_transitions_are_at_events_that_can_be_seen():
    found = transitions(clips(), [arrow()], 3, TransitionRule())
    assert all(kind in clips()[p.clip].events[p.frame] for kind, positions in found.items() for p in positions)
    assert transitions(clips(), [arrow()], 3, TransitionRule(min_changed_px=10**6)) == {}


def test_windows_do_not_overlap_and_spread_over_clips_first():
    starts = windows(clips(), 50, 3)
    assert starts == [(0, 0), (1, 0), (0, 50)]


def test_hold_does_nothing_and_otherwise_does_something_else():
    last, action = clips()[0].action[:, 4:5], clips()[0].action[:, 5:6]
    still = hold(last, SPACE)
    assert torch.equal(still.pointer, last.pointer)
    assert still.buttons.sum() == still.keys.sum() == still.wheel.abs().sum() == 0
    other = otherwise(action, last, SPACE)
    assert other.buttons[0, 0, 0, [HELD, PRESSED]].tolist() == [1, 1]
    moved = (pointer_pixels(other, HEIGHT, WIDTH) - pointer_pixels(action, HEIGHT, WIDTH)).abs()
    assert moved[0, 0].tolist() == [WIDTH // 2, HEIGHT // 2]
    game = ActionSpace(pointer="none", axes=("x",))
    idle = Action.idle(game, 2, 1)
    assert (otherwise(idle, idle, game).axes != idle.axes).all()
