"""The measures an evaluation chooses by name: perfect on itself, lost where they should be, absent with a reason."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panel_world import SPACE, arrow, record
from torch import Tensor

from data_pipeline.environments.bitmap_font import GLYPHS, draw_text
from wm.config import ConfigError, from_dict, to_dict
from wm.measures import PSNR_CAP_DB
from wm.stages.bench import Counts
from wm.stages.evaluate import Clip, EvaluateConfig, Evaluation
from wm.stages.video_clips import measured_model, measured_tokenizer
from wm.stages.video_measures import Aids, Compared, Diversity, VideosConfig

NAMES = ["latent_frechet", "precision_recall", "diversity", "legibility", "line_retention", "cursor_psnr_db"]
VIDEOS = from_dict(VideosConfig, {"measures": NAMES, "clips": 3, "frames": 6, "seeds": 2})


def written() -> Clip:
    """A clip of the panel with a word and a line on it."""
    clip = record(40, seed=3)
    video = clip.video.permute(0, 2, 3, 1).contiguous().numpy()
    for frame in video:
        frame[17:23, 2:20] = 240
        draw_text(frame, 3, 18, "TEXT", (20, 20, 20))
        frame[1:4, 2:40] = 200
        frame[2, 4:38] = 10
    return dataclasses.replace(clip, video=torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2))


class Played:
    """A model that shows the recording itself, less what `spoiled` makes of it."""

    def __init__(self, spoiled: Callable[[Tensor], Tensor] = lambda frame: frame, **_: object) -> None:
        self.spoiled, self.ahead = spoiled, []  # type: ignore[var-annotated]

    def reset(self, frames: Tensor, action: Any) -> Tensor:
        video = written().video
        starts = [next(i for i in range(40) if torch.equal(video[i : i + 3], clip)) for clip in frames]
        self.ahead = [list(video[i + 3 :]) for i in starts]
        return frames[:, -1]

    def step(self, action: Any) -> Tensor:
        return self.spoiled(torch.stack([frames.pop(0) for frames in self.ahead]))


def evaluation(folder: Path, model: Callable[..., Any], videos: VideosConfig = VIDEOS) -> Evaluation:
    config = EvaluateConfig(counts=Counts(context_frames=3), videos=videos)
    glyphs = {letter: torch.from_numpy(glyph) for letter, glyph in GLYPHS.items()}
    return config.build(
        folder=folder,
        open_session=model,
        reconstruct=lambda frames: frames,
        clips=[written()],
        cursors=[tuple(arrow())],
        space=SPACE,
        seed=7,
        aids=Aids(encode=lambda video: video[..., ::4, ::4].float() / 255, glyphs=glyphs),
    )


def rows(folder: Path, model: Callable[..., Any], videos: VideosConfig = VIDEOS) -> dict[str, Any]:
    made = evaluation(folder, model, videos)
    return measured_model(videos, made._bench("student", 1), made.aids)


def erased(frames: Tensor) -> Tensor:
    made = frames.clone()
    made[..., 18:23, 2:20] = 240
    return made


def test_the_recording_itself_is_perfect_in_all(tmp_path: Path) -> None:
    found = rows(tmp_path, Played)
    assert set(found) == {"precision", "recall", *NAMES} - {"precision_recall"}
    assert found["latent_frechet"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["diversity"]["value"] == 0
    assert found["cursor_psnr_db"]["value"] == PSNR_CAP_DB
    for name in ("precision", "recall", "legibility", "line_retention"):
        assert found[name]["value"] == 1.0
        assert found[name]["trials"] > 10
    assert found["legibility"]["low"] <= 1 <= found["legibility"]["high"]


def test_each_measure_falls_by_what_it_is_about(tmp_path: Path) -> None:
    without_text = rows(tmp_path, functools.partial(Played, erased))
    assert without_text["legibility"]["value"] == 0
    assert without_text["line_retention"]["value"] == 1
    assert without_text["latent_frechet"]["value"] > 0.01
    noise = torch.Generator().manual_seed(0)

    def noisy(frames: Tensor) -> Tensor:
        return (frames + 30 * torch.randn(frames.shape, generator=noise)).clamp(0, 255).byte()

    found = rows(tmp_path, functools.partial(Played, noisy))
    assert found["cursor_psnr_db"]["value"] < 20
    assert found["diversity"]["value"] > 0.1


def test_the_tokenizer_is_measured_by_the_same_names(tmp_path: Path) -> None:
    made = evaluation(tmp_path, Played)
    found = measured_tokenizer(VIDEOS, made._bench("vae", 0), lambda frames: frames, made.aids)
    assert (found["legibility"]["value"], found["line_retention"]["value"]) == (1.0, 1.0)
    assert found["diversity"]["reason"].startswith("not measured: one seed")
    unit = made.measure_vae()["measures"]
    assert unit["legibility"] == found["legibility"]
    assert {"psnr_db", "ssim", "cursor_error_px"} <= unit.keys()


def test_what_a_world_does_not_have_is_said(tmp_path: Path) -> None:
    clip = Compared(torch.zeros(2, 3, 3, 16, 16).byte(), torch.zeros(1, 2, 3, 3, 16, 16).byte())
    found = VIDEOS.measure(clip, Aids())
    assert all(row["value"] is None and row["reason"] for row in found.values())
    assert "no lines" in found["line_retention"]["reason"]
    long = dataclasses.replace(VIDEOS, frames=100)
    assert "no held-out clip has 103 frames" in rows(tmp_path, Played, long)["videos"]["reason"]
    absent = from_dict(VideosConfig, {"measures": [{"kind": "pretrained", "folder": str(tmp_path)}]})
    reasons = absent.measure(clip, Aids())
    assert set(reasons) == {"lpips", "fid", "fvd", "clip_score"}
    assert str(tmp_path / "vgg16.pt") in reasons["lpips"]["reason"]


def test_names_are_the_registry(tmp_path: Path) -> None:
    assert from_dict(VideosConfig, to_dict(VIDEOS)) == VIDEOS
    with pytest.raises(ConfigError, match="legibilty"):
        from_dict(VideosConfig, {"measures": ["legibilty"]})
    clip = Compared(torch.zeros(2, 3, 3, 16, 16).byte(), torch.zeros(1, 2, 3, 3, 16, 16).byte())
    with pytest.raises(ValueError, match="diversity is measured twice"):
        VideosConfig(measures=(Diversity(), Diversity())).measure(clip, Aids())
