"""What a person sees of a dataset: bars that sum up, films that play, a page that has every frame."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import video
from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.policies import ScriptedPolicyConfig
from data_pipeline.record import record
from data_pipeline.schema import DatasetManifest, Sample
from data_pipeline.shards import Dataset, write_manifest, write_shard
from tools import inspect_shards
from tools.histograms import histograms
from tools.overlay import drawn, words

T = 12
STEPS = (
    Controls((5, 6)),
    Controls((90, 3), (Event("press", "left"),)),
    Controls((80, 9), (Event("press", "KeyO"), Event("release", "KeyO"))),
    Controls((80, 9), (Event("release", "left"),)),
)


@pytest.fixture(scope="module")
def world() -> DesktopSim:
    return DesktopSimConfig().build()


@pytest.fixture(scope="module")
def sample(world: DesktopSim) -> Sample:
    policy = ScriptedPolicyConfig(steps=tuple(step.to_dict() for step in STEPS)).build()
    made = record(world, policy, T, seed=1, key="scripted")
    made.meta["events"][4] = ["</script><b>"]
    return made


@pytest.fixture
def folder(tmp_path: Path, world: DesktopSim, sample: Sample) -> Path:
    shard = write_shard(tmp_path / "0.tar", [sample])
    about = {"action_space": world.action_space, "fps": 10.0, "height": 64, "width": 96, "kind": "video", "source": {}}
    write_manifest(tmp_path, DatasetManifest(**about, shards=(shard,)))
    return tmp_path


def test_words_say_what_was_done(world: DesktopSim, sample: Sample) -> None:
    said = [words(sample, world.action_space, i) for i in range(6)]
    assert said == ["", "", "left pressed", "left held, KeyO pressed and released", "left released", ""]


def test_what_is_drawn_is_the_frame_with_marks_at_the_pointer(world: DesktopSim, sample: Sample) -> None:
    frames = drawn(sample, world.action_space)
    assert frames.shape == (T, 64 * 4 + 28, 96 * 4, 3)
    large = np.repeat(np.repeat(sample.video, 4, 1), 4, 2)
    differs = (frames[:, :256] != large).any(-1)
    ys, xs = np.nonzero(differs[-1])  # the hand rests: only the cross is drawn
    assert abs(xs.mean() - 80.5 * 4) < 2
    assert abs(ys.mean() - 9.5 * 4) < 2
    assert differs[-1].sum() < differs[2].sum()  # a press has its rings, a movement its line
    assert (frames[:, 256:] > 0).any()


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif", "png"])
def test_a_film_has_every_frame(folder: Path, suffix: str) -> None:
    path = folder / f"clip.{suffix}"
    assert inspect_shards.main([str(folder), "--quick", "--film", str(path)]) == 0
    if suffix == "mp4":
        assert len(video.decode(path.read_bytes())) == T
    else:
        with Image.open(path) as film:
            seconds = 0
            for i in range(film.n_frames):
                film.seek(i)
                film.load()
                seconds += film.info["duration"]
        assert seconds == pytest.approx(T * 100, abs=1)  # frames that are the same may be one that lasts longer


def test_a_page_has_every_frame_and_needs_nothing_else(folder: Path, world: DesktopSim, sample: Sample) -> None:
    path = folder / "clip.html"
    assert inspect_shards.main([str(folder), "--quick", "--page", str(path), "--clip", "scripted"]) == 0
    text = path.read_text()
    assert "http" not in text.lower()
    assert text.count("</script>") == 1
    episode = json.loads(re.search(r"const episode = (.*);\n", text)[1])
    assert episode["events"][4] == ["</script><b>"]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in episode["frames"]]
    assert np.array_equal(np.stack(shown), drawn(sample, world.action_space))


def test_histograms_count_everything_once(folder: Path) -> None:
    lines = list(histograms(Dataset.open(folder)))
    counted = {line.split()[0]: int(line.split()[1]) for line in lines if re.fullmatch(r"  \w+ +\d+.*", line)}
    assert counted[str(T)] == 1
    assert counted["left"] == 1
    assert counted["KeyO"] == 1
    assert counted["KeyA"] == 0
    start = lines.index("pixels changed") + 1
    assert sum(int(re.search(r" (\d+)(  #+)?$", line)[1]) for line in lines[start : start + 8]) == T
    assert len(lines[-12:]) == 12
    assert all(len(line) == 36 for line in lines[-12:])


def test_what_cannot_be_shown_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["--film", str(folder / "a.avi")], "can be an .mp4, .webp, .gif or .png"),
        (["--film", str(folder / "a.mp4"), "--clip", "nobody"], "has no clip 'nobody'; it has scripted"),
    ):
        assert inspect_shards.main([str(folder), "--quick", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
