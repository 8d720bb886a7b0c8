"""Drawing a clip from a text: the session's own frames in a lossless file, and one line for what cannot be drawn."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_caption import WORDS
from tiny_world import CARD, SPACE, world

from data_pipeline.video import decode
from tools.draw import DEFAULT_FRAMES, draw, main
from wm import artifact
from wm.batch import Action, Given
from wm.rollout import WorldSession
from wm.stages.export import model_card
from wm.whole_clip import draw_clip

CAPTION = "a red circle"


def speaking() -> artifact.World:
    return world(dataclasses.replace(CARD, denoiser=WORDS, num_steps=2))


def test_the_clip_is_what_a_session_draws_and_every_pixel_reaches_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken = speaking()
    artifact.save(spoken, tmp_path / "artifact", "a card")
    out = tmp_path / "clip.mp4"
    arguments = ["--out", str(out), "--frames", "5", "--seed", "3", "--enlarge", "2"]
    assert main([str(tmp_path / "artifact"), CAPTION, *arguments]) == 0
    assert f"5 frames at {SPACE.fps:g} a second: {out}" in capsys.readouterr().out
    session = WorldSession(spoken, seed=3)
    session.begin((CAPTION,))
    frames = [session.step(Action.idle(SPACE, 1, 1))[0].permute(1, 2, 0).numpy() for _ in range(5)]
    clip = decode(out.read_bytes(), 0, 5)
    assert np.array_equal(clip[:, ::2, ::2], np.stack(frames))
    assert np.array_equal(clip[:, 1::2, 1::2], clip[:, ::2, ::2])


def test_seed_text_and_guidance_each_make_another_clip() -> None:
    spoken = speaking()
    torch.nn.init.normal_(spoken.models["student"].conditioner.project[1].weight, std=3.0)
    first = draw(spoken, CAPTION, num_frames=4)
    assert first.shape == (4, spoken.manifest.height, spoken.manifest.width, 3)
    assert np.array_equal(draw(spoken, CAPTION, num_frames=4), first)
    assert not np.array_equal(draw(spoken, CAPTION, num_frames=4, seed=1), first)
    assert not np.array_equal(draw(spoken, "a blue square", num_frames=4), first)
    assert not np.array_equal(draw(spoken, CAPTION, num_frames=4, guidance=20.0), first)


def test_a_model_that_sees_all_frames_at_once_draws_them_at_once() -> None:
    whole = dataclasses.replace(WORDS, dit=dataclasses.replace(WORDS.dit, causal=False, recall=0, window=0))
    spoken = world(dataclasses.replace(CARD, denoiser=whole, num_steps=2))
    clip = draw_clip(spoken, Given(Action.idle(SPACE, 1, 4), (CAPTION,)), 1, 4, seed=5)
    assert np.array_equal(draw(spoken, CAPTION, num_frames=4, seed=5), clip[0].permute(0, 2, 3, 1).numpy())
    assert len(draw(spoken, CAPTION)) == DEFAULT_FRAMES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": "a caption of more letters than it has tokens"}, "max_tokens is 24: shorten it"),
        ({"out": "clip.avi"}, "is not an .mp4 file"),
        ({"model": "master"}, "this artifact has no master; it has"),
        ({"frames": "0"}, "--frames and --enlarge are at least 1"),
        ({"artifact": "nowhere"}, "no artifact in"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], reason: str
) -> None:
    artifact.save(speaking(), tmp_path / "artifact", "a card")
    given = {"artifact": "artifact", "text": CAPTION, "out": "clip.mp4", "model": "student", "frames": "2", **changes}
    place, text, out = tmp_path / given.pop("artifact"), given.pop("text"), tmp_path / given.pop("out")
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert main([str(place), text, "--out", str(out), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert reason in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_model_that_reads_no_text_is_refused_and_its_card_says_how_it_is_used() -> None:
    assert "tools.draw FOLDER TEXT" in model_card(speaking())
    assert "tools.rollout FOLDER" in model_card(world())
    with pytest.raises(ValueError, match=r"reads no text: play it with .*tools\.rollout"):
        draw(world(), CAPTION)
