"""VPT's Minecraft recordings, from a miniature as its recorder writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.importing.__main__ import main
from data_pipeline.importing.vpt import SPACE
from data_pipeline.schema import Sample
from data_pipeline.shards import Dataset
from tests.numbered_film import film, numbered, read_number
from wm.batch import HELD, PRESSED, RELEASED

T = 16


def step(i: int) -> dict[str, Any]:
    """Line i: walks in 3 to 5, hangs on the left button from the start, presses it in 8 and 9, scrolls to slot 4 in 12."""
    keys = ["key.keyboard.w", "key.keyboard.unknown"] if i in (3, 4, 5) else []
    keys += ["key.keyboard.3"] if i in (10, 11) else []
    left = i < 2 or i in (8, 9)
    return {
        "mouse": {
            "x": 640.0,
            "y": 360.0,
            "dx": 64.0 * (i % 3 - 1),
            "dy": 7.2 * i,
            "dwheel": 1.0 if i == 14 else 0.0,
            "buttons": [0] * left + [1] * (i == 9),
            "newButtons": [0] if i in (0, 8) else [],
        },
        "keyboard": {"keys": keys, "newKeys": [], "chars": ""},
        "hotbar": 0 if i < 11 else 2 if i < 12 else 3,
        "isGuiOpen": False,
        "tick": i,
    }


def write(folder: Path, name: str, lines: list[Any], frames: int = T) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mp4").write_bytes(film(numbered(range(frames)), 20, "libx264"))
    (folder / f"{name}.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("vpt")
    write(folder / "raw", "Player1-f153ac423f61-20210620-200000", [step(i) for i in range(T)])
    assert main(["vpt", str(folder / "raw"), str(folder / "made")]) == 0
    dataset = Dataset.open(folder / "made")
    assert (dataset.manifest.fps, dataset.manifest.action_space) == (20.0, SPACE)
    return dataset.read(0)


@pytest.mark.case("D-23")
def test_line_t_is_the_row_of_frame_t_plus_1(sample: Sample) -> None:
    assert sample.video is not None
    assert [read_number(frame) for frame in sample.video] == list(range(T))
    pointer, wheel = sample.actions["pointer"], sample.actions["wheel"]
    assert not pointer[0].any()
    assert np.allclose(pointer[1:, 0] * 1280, [64.0 * (i % 3 - 1) for i in range(T - 1)], atol=1e-3)
    assert np.allclose(pointer[1:, 1] * 720, [7.2 * i for i in range(T - 1)], atol=1e-3)
    assert np.argwhere(wheel).tolist() == [[15, 1]]
    assert wheel[15, 1] == -1  # upwards


def test_keys_and_the_slot_that_the_wheel_chose(sample: Sample) -> None:
    keys = sample.actions["keys"]

    def rows(code: str, what: int) -> list[int]:
        return np.flatnonzero(keys[:, SPACE.keys.index(code), what]).tolist()

    assert (rows("KeyW", HELD), rows("KeyW", PRESSED), rows("KeyW", RELEASED)) == ([4, 5, 6], [4], [7])
    assert (rows("Digit3", HELD), rows("Digit3", PRESSED), rows("Digit3", RELEASED)) == ([11, 12], [11], [13])
    assert (rows("Digit4", HELD), rows("Digit4", PRESSED), rows("Digit4", RELEASED)) == ([], [13], [13])
    assert np.array_equal(keys[..., HELD], np.cumsum(keys[..., PRESSED] - keys[..., RELEASED], axis=0))


def test_a_button_that_hangs_from_the_start_is_not_held(sample: Sample) -> None:
    buttons = sample.actions["buttons"]
    assert np.flatnonzero(buttons[:, 0, HELD]).tolist() == [9, 10]
    assert np.flatnonzero(buttons[:, 0, PRESSED]).tolist() == [9]
    assert np.flatnonzero(buttons[:, 1, HELD]).tolist() == [10]


@pytest.mark.case("D-23")
def test_bad_recordings_are_named(tmp_path: Path) -> None:
    raw, lines = tmp_path / "raw", [step(i) for i in range(T)]
    write(raw, "a", lines[:-1])  # the recorder stopped between a frame and its line
    write(raw, "b", lines[:-2])
    write(raw, "c", [*lines[:5], "{", *lines[6:]])
    write(raw, "d", [*lines[:5], {**lines[5], "hotbar": 9}, *lines[6:]])
    write(raw, "e", [{"keyboard": {"keys": []}}, *lines[1:]])
    write(raw, "f", [])
    write(raw, "g", lines)
    (raw / "g.mp4").unlink()
    assert main(["vpt", str(raw), str(tmp_path / "made")]) == 0
    assert [clip.num_frames for clip in Dataset.open(tmp_path / "made").clips] == [T - 1]
    bad = {
        entry["episode"]: entry["problem"] for entry in json.loads((tmp_path / "made/import.json").read_text())["bad"]
    }
    words = {
        "b": "16 frames but 14",
        "c": "line 5",
        "d": "hotbar 9",
        "e": "'mouse'",
        "f": "no lines",
        "g": "g.mp4 is missing",
    }
    assert bad.keys() == words.keys()
    assert all(words[name] in bad[name] for name in words), bad
