"""NeuralOS's raw recordings, from a miniature as its recorder writes them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.importing.__main__ import main
from data_pipeline.importing.key_names import CODES, PYAUTOGUI
from data_pipeline.importing.neuralos import SPACE
from data_pipeline.schema import Sample
from data_pipeline.shards import Dataset
from tests.numbered_film import HEIGHT, WIDTH, film, numbered, read_number
from wm.batch import HELD, PRESSED, RELEASED

T = 20
HEADER = ("Timestamp", "Timestamp_formated", "X", "Y", "Left Click", "Right Click", "Key Events")
EVENTS: dict[int, str] = {
    3: "[('keydown', 'a'), ('keydown', 'ctrl')]",
    5: "[('keydown', 'a')]",  # repeats
    6: "[('keyup', 'a')]",
    8: "[('keydown', '!'), ('keyup', 'ctrl')]",
    9: "[('keyup', '!'), ('keyup', 'z'), ('keydown', 'final')]",  # z was never down; no key is called final
}


def write_recording(folder: Path, number: int, changes: dict[int, dict[str, str]] | None = None, rows: int = T) -> None:
    for name in ("videos", "actions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "videos" / f"record_{number}.mp4").write_bytes(film(numbered(range(T)), 15))
    with (folder / "actions" / f"record_{number}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        for i in range(rows):
            line = {
                "Timestamp": f"{(i + 1) / 15 + 0.0003}",
                "Timestamp_formated": f"{i // 15}:{i}",
                "X": str(3 * i),
                "Y": str(2 * i),
                "Left Click": str(i == 4),
                "Right Click": str(i in (4, 11)),
                "Key Events": EVENTS.get(i, "[]"),
            }
            writer.writerow(line | (changes or {}).get(i, {}))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("neuralos")
    write_recording(folder / "raw", 0)
    assert main(["neuralos", str(folder / "raw"), str(folder / "made")]) == 0
    dataset = Dataset.open(folder / "made")
    assert dataset.manifest.fps == 15.0
    assert dataset.manifest.action_space == SPACE
    return dataset.read(0)


@pytest.mark.case("D-23")
def test_row_i_is_what_led_to_frame_i(sample: Sample) -> None:
    assert sample.video is not None
    assert [read_number(frame) for frame in sample.video] == list(range(T))
    pixels = np.floor(sample.actions["pointer"] * (WIDTH, HEIGHT)).astype(int)
    assert pixels.tolist() == [[3 * i, 2 * i] for i in range(T)]


def test_a_click_is_a_whole_one(sample: Sample) -> None:
    buttons = sample.actions["buttons"]
    assert not buttons[..., HELD].any()
    assert np.array_equal(buttons[..., PRESSED], buttons[..., RELEASED])
    assert np.argwhere(buttons[..., PRESSED]).tolist() == [[4, 0], [4, 1], [11, 1]]


def test_keys_are_held_from_their_press_to_their_release(sample: Sample) -> None:
    def key(code: str, what: int) -> list[int]:
        return np.flatnonzero(sample.actions["keys"][:, CODES.index(code), what]).tolist()

    assert key("KeyA", HELD) == [3, 4, 5]
    assert (key("KeyA", PRESSED), key("KeyA", RELEASED)) == ([3], [6])
    assert (key("ControlLeft", PRESSED), key("ControlLeft", RELEASED)) == ([3], [8])
    assert (key("Digit1", HELD), key("Digit1", RELEASED)) == ([8], [9])
    assert (key("ShiftLeft", PRESSED), key("ShiftLeft", RELEASED), key("ShiftLeft", HELD)) == ([8, 9], [8, 9], [])
    assert key("KeyZ", RELEASED) == []
    keys = sample.actions["keys"]
    assert np.array_equal(keys[..., HELD], np.cumsum(keys[..., PRESSED] - keys[..., RELEASED], axis=0))


def test_every_name_has_one_physical_code() -> None:
    assert all(PYAUTOGUI[letter] == f"Key{letter.upper()}" for letter in "abcxyz")
    assert [PYAUTOGUI[sign] for sign in '!(~"? '] == ["Digit1", "Digit9", "Backquote", "Quote", "Slash", "Space"]
    assert len(set(CODES)) == len(CODES)


@pytest.mark.case("D-23")
def test_bad_recordings_are_named_counted_and_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, proof = tmp_path / "raw", tmp_path / "was_run"
    bad = {
        1: {7: {"Key Events": f"__import__('pathlib').Path({str(proof)!r}).touch()"}},
        2: {7: {"Key Events": "[('keydown', 'nosuchkey')]"}},
        3: {0: {"X": "64"}},
        4: {19: {"Left Click": "maybe"}},
        5: {2: {"Key Events": "(" * 5000}},
    }
    write_recording(raw, 0)
    for number, changes in bad.items():
        write_recording(raw, number, changes)
    write_recording(raw, 6, rows=T - 1)
    write_recording(raw, 7)
    (raw / "actions" / "record_7.csv").unlink()
    write_recording(raw, 8)
    (raw / "videos" / "record_8.mp4").write_bytes(b"cheese")
    write_recording(raw, 9)
    (raw / "actions" / "record_9.csv").write_text("X,Y\n1,2\n")
    assert main(["neuralos", str(raw), str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    assert "1 of 10 episodes" in said
    assert not proof.exists()
    assert len(Dataset.open(tmp_path / "made").clips) == 1
    problems = (tmp_path / "made" / "import.json").read_text()
    for words in ("row 7: key events", "nosuchkey", "outside the 64x48", "row 19: a click", "row 2: key events",
                  "20 frames but 19 rows", "record_7.csv is missing", "not a video", "no column Key Events"):  # fmt: skip
        assert words in problems, words


def test_a_source_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (tmp_path, tmp_path / "nowhere"):
        assert main(["neuralos", str(source), str(tmp_path / "made")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: importing ")
        assert error.count("\n") == 1
