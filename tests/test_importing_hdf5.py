"""Counter-Strike as DIAMOND reads it and Minari datasets in both storages, from miniatures of their published layouts."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.importing.__main__ import main
from data_pipeline.importing.csgo import SPACE as CSGO
from data_pipeline.shards import Dataset
from tests.numbered_film import numbered, read_number
from wm.batch import HELD, PRESSED, RELEASED

h5py = pytest.importorskip("h5py", reason="these formats are HDF5: pip install 'wm[importing]'")

T = 12
MOUSE_X = [-1000, -500, -300, -200, -100, -60, -30, -20, -10, -4, -2, 0, 2, 4, 10, 20, 30, 60, 100, 200, 300, 500, 1000]
MOUSE_Y = [-200, -100, -50, -20, -10, -4, -2, 0, 2, 4, 10, 20, 50, 100, 200]


def shot(i: int) -> dict[str, Any]:
    """What was done on seeing frame i."""
    return {"w": i in (2, 3, 4), "r": i == 6, "left": i in (6, 7), "x": MOUSE_X[i], "y": MOUSE_Y[(3 * i) % 15]}


def vector(i: int) -> np.ndarray:
    done, made = shot(i), np.zeros(51)
    made[[0, 10, 11]] = [done["w"], done["r"], done["left"]]
    made[13 + MOUSE_X.index(done["x"])] = made[13 + 23 + MOUSE_Y.index(done["y"])] = 1
    return made


def write_csgo(path: Path, changes: dict[str, Any] | None = None, without: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.zeros((T, 150, 280, 3), np.uint8)
    colours[...] = numbered(range(T), 150, 280)
    colours[:, 100:] = (10, 60, 200)  # red, green, blue
    with h5py.File(path, "w") as file:
        for i in range(T):
            members = {f"frame_{i}_x": colours[i, ..., ::-1], f"frame_{i}_y": vector(i), f"frame_{i}_helperarr": [0, 0]}
            for name, value in (members | {k: v for k, v in (changes or {}).items() if k in members}).items():
                if name != without:
                    file.create_dataset(name, data=value)


@pytest.mark.case("D-23")
def test_counter_strike_action_t_is_the_row_of_frame_t_plus_1(tmp_path: Path) -> None:
    for number in (10, 9):
        write_csgo(tmp_path / "raw" / "1-200" / f"hdf5_dm_july2021_{number}.hdf5")
    assert main(["csgo", str(tmp_path / "raw"), str(tmp_path / "made")]) == 0
    dataset = Dataset.open(tmp_path / "made")
    assert [dataset.meta(i)["episode"][-2:] for i in range(2)] == ["_9", "10"]
    assert (dataset.manifest.fps, dataset.manifest.height, dataset.manifest.width) == (16.0, 150, 280)
    sample = dataset.read(0)
    assert sample.video is not None
    assert [read_number(frame) for frame in sample.video] == list(range(T))
    assert sample.video[5, 120, 100].tolist() == [10, 60, 200]
    keys, buttons, axes = (sample.actions[name] for name in ("keys", "buttons", "axes"))
    w, r = CSGO.keys.index("KeyW"), CSGO.keys.index("KeyR")
    assert np.flatnonzero(keys[:, w, HELD]).tolist() == [3, 4, 5]
    assert np.flatnonzero(keys[:, w, PRESSED]).tolist() == [3]
    assert np.flatnonzero(keys[:, w, RELEASED]).tolist() == [6]
    assert np.flatnonzero(keys[:, r, HELD]).tolist() == [7]
    assert np.flatnonzero(buttons[:, 0, HELD]).tolist() == [7, 8]
    assert not axes[0].any()
    source = dataset.manifest.source
    assert (source["mouse_x"], source["mouse_y"]) == (MOUSE_X, MOUSE_Y)
    for i in range(1, T):
        x, y = ((axes[i] + 1) / 2 * (len(MOUSE_X) - 1, len(MOUSE_Y) - 1)).round().astype(int)
        assert (MOUSE_X[x], MOUSE_Y[y]) == (shot(i - 1)["x"], shot(i - 1)["y"])


@pytest.mark.case("D-23")
def test_bad_counter_strike_files_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_csgo(raw / "a_0.hdf5")
    write_csgo(raw / "a_1.hdf5", without="frame_4_x")
    write_csgo(raw / "a_2.hdf5", without="frame_4_y")
    write_csgo(raw / "a_3.hdf5", {"frame_7_y": vector(7)[:-1]})
    write_csgo(raw / "a_4.hdf5", {"frame_7_y": vector(7) * 0})
    (raw / "a_5.hdf5").write_bytes((raw / "a_0.hdf5").read_bytes()[:5000])
    write_csgo(raw / "a_6.hdf5", without="frame_4_y")
    with h5py.File(raw / "a_6.hdf5", "a") as file:
        file["frame_4_y"] = h5py.ExternalLink(str(raw / "a_0.hdf5"), "frame_4_y")
    write_csgo(raw / "a_7.hdf5", {"frame_3_x": np.zeros((150, 280), np.uint8)})
    assert main(["csgo", str(raw), str(tmp_path / "made")]) == 0
    bad = json.loads((tmp_path / "made" / "import.json").read_text())["bad"]
    problems = {entry["episode"]: entry["problem"] for entry in bad}
    assert list(problems) == [f"a_{i}" for i in range(1, 8)]
    for i, words in enumerate(
        ("not all of them", "no frame_4_y", "frame_7_y", "frame_7_y", "not an HDF5", "a link", "frame_3_x"), 1
    ):
        assert words in problems[f"a_{i}"], (i, problems)


DISCRETE = {"type": "Discrete", "dtype": "int64", "start": 0, "n": 3}
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, 0.0], "high": [1.0, 4.0]}
PICTURE = {"type": "Box", "dtype": "uint8", "shape": [48, 64, 3], "low": 0, "high": 255}
SMALL = {"type": "Box", "dtype": "float32", "shape": [5], "low": -1.0, "high": 1.0}


def jpegs(frames: np.ndarray) -> list[np.ndarray]:
    found = []
    for frame in frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "jpeg")
        found.append(np.frombuffer(out.getvalue(), np.uint8))
    return found


def write_arrow(data: Path, actions: list[np.ndarray], view: str) -> None:
    """As Minari's own writer: observations flattened, actions padded to as many, a folder and a metadata.json an episode."""
    pyarrow = pytest.importorskip("pyarrow", reason="Arrow needs pyarrow: pip install 'wm[importing]'")

    def flat(values: np.ndarray) -> Any:
        rows = values.reshape(len(values), -1)
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])

    for number, done in enumerate(actions):
        seen = flat(numbered(range(30 * number, 30 * number + len(done) + 1)))
        if view:
            speed = flat(np.zeros((len(done) + 1, 5), np.float32))
            seen = pyarrow.StructArray.from_arrays([seen, speed], names=[view, "speed"])
        padded = np.pad(done, ((0, 1), *((0, 0),) * (done.ndim - 1)))
        did = flat(padded) if done.ndim > 1 else pyarrow.array(padded, pyarrow.int32())
        batch = pyarrow.RecordBatch.from_pydict(
            {"observations": seen, "actions": did, "rewards": np.zeros(len(padded))}
        )
        (data / str(number)).mkdir()
        path = str(data / str(number) / "part-0.arrow")
        with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        about = {"id": number, "total_steps": len(done), "seed": 40 + number}
        (data / str(number) / "metadata.json").write_text(json.dumps(about))


def write_minari(
    folder: Path, action_space: dict[str, Any], actions: list[np.ndarray], stored: str, view: str = ""
) -> None:
    (folder / "data").mkdir(parents=True)
    seen: dict[str, Any] = {"type": "Dict", "subspaces": {view: PICTURE, "speed": SMALL}} if view else PICTURE
    about = {
        "dataset_id": "tests/tiny-v0",
        "total_episodes": len(actions),
        "data_format": "arrow" if stored == "arrow" else "hdf5",
        "jpeg_encoding": stored == "jpeg",
    }
    about |= {"observation_space": json.dumps(seen), "action_space": json.dumps(action_space)}
    (folder / "data" / "metadata.json").write_text(json.dumps(about))
    if stored == "arrow":
        write_arrow(folder / "data", actions, view)
        return
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, done in enumerate(actions):
            group = file.create_group(f"episode_{number}")
            group.attrs["seed"] = 40 + number
            group.create_dataset("actions", data=done)
            name = f"observations/{view}" if view else "observations"
            frames = numbered(range(30 * number, 30 * number + len(done) + 1))
            if stored == "raw":
                group.create_dataset(name, data=frames)
            else:
                group.create_dataset(name, data=jpegs(frames), dtype=h5py.vlen_dtype(np.uint8))


@pytest.mark.parametrize(("stored", "view"), [("raw", ""), ("jpeg", "camera"), ("arrow", ""), ("arrow", "camera")])
@pytest.mark.case("D-23")
def test_minari_action_t_leads_from_observation_t_to_the_next(tmp_path: Path, stored: str, view: str) -> None:
    actions = [np.array([0, 2, 2, 1, 2]), np.array([1, 1])]
    write_minari(tmp_path / "raw", DISCRETE, actions, stored, view)
    assert main(["minari", str(tmp_path / "raw"), str(tmp_path / "made"), "--fps", "12"]) == 0
    dataset = Dataset.open(tmp_path / "made")
    assert (dataset.manifest.fps, dataset.manifest.action_space.keys) == (12.0, ("Digit0", "Digit1", "Digit2"))
    assert dataset.manifest.source["dataset_id"] == "tests/tiny-v0"
    for number, done in enumerate(actions):
        sample = dataset.read(number)
        assert sample.video is not None
        assert [read_number(frame) for frame in sample.video] == list(range(30 * number, 30 * number + len(done) + 1))
        keys = sample.actions["keys"]
        assert not keys[0].any()
        assert keys[1:, :, HELD].argmax(1).tolist() == done.tolist()
        assert np.array_equal(keys[..., HELD], np.cumsum(keys[..., PRESSED] - keys[..., RELEASED], axis=0))
        assert sample.meta["seed"] == 40 + number


@pytest.mark.parametrize("stored", ["raw", "arrow"])
def test_minari_boxes_are_axes(tmp_path: Path, stored: str) -> None:
    actions = [np.array([[-1, 4], [0.5, 1]], np.float32), np.array([[0, 5]], np.float32)]
    write_minari(tmp_path / "raw", BOX, actions, stored)
    assert main(["minari", str(tmp_path / "raw"), str(tmp_path / "made"), "--fps", "10"]) == 0
    dataset = Dataset.open(tmp_path / "made")
    assert dataset.rows(0)["axes"].tolist() == [[0, 0], [-1, 1], [0.5, -0.5]]
    bad = json.loads((tmp_path / "made" / "import.json").read_text())["bad"]
    assert [(entry["episode"], "outside of the bounds" in entry["problem"]) for entry in bad] == [("episode_1", True)]


def test_what_is_wrong_with_a_minari_dataset_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def problem(*more: str) -> str:
        assert main(["minari", str(tmp_path / "raw"), str(tmp_path / "made"), *more]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    (tmp_path / "raw").mkdir()
    assert "not a Minari dataset" in problem()
    (tmp_path / "raw").rmdir()
    write_minari(tmp_path / "raw", {**BOX, "high": [1.0, float("inf")]}, [np.zeros((2, 2))], "raw")
    assert "no bounds" in problem("--fps", "10")
    metadata = tmp_path / "raw" / "data" / "metadata.json"
    about = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(about | {"action_space": json.dumps(BOX)}))
    assert "keeps no frame rate" in problem()
    assert "no picture 'x'" in problem("--fps", "10", "--view", "x")
    metadata.write_text(json.dumps(about | {"action_space": json.dumps({"type": "Text"})}))
    assert "are a Text" in problem("--fps", "10")
    metadata.write_text(json.dumps(about | {"observation_space": json.dumps(SMALL)}))
    assert "has 0 pictures" in problem("--fps", "10")
    metadata.write_text(json.dumps(about | {"data_format": "zarr"}))
    assert "another format" in problem("--fps", "10")


@pytest.mark.case("D-23")
def test_a_minari_episode_without_its_last_picture_is_bad(tmp_path: Path) -> None:
    write_minari(tmp_path / "raw", DISCRETE, [np.array([0, 1]), np.array([0, 1, 1])], "raw")
    with h5py.File(tmp_path / "raw" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = numbered(range(2))
    assert main(["minari", str(tmp_path / "raw"), str(tmp_path / "made"), "--fps", "10"]) == 0
    bad = json.loads((tmp_path / "made" / "import.json").read_text())["bad"]
    assert [entry["problem"] for entry in bad] == ["has 2 pictures and 2 actions; there must be one picture more"]


@pytest.mark.case("D-23")
def test_minari_episodes_in_arrow_that_are_cut_or_lack_a_part_are_bad(tmp_path: Path) -> None:
    write_minari(tmp_path / "raw", DISCRETE, [np.array([0, 1]), np.array([2]), np.array([0, 1, 1])], "arrow")
    data = tmp_path / "raw" / "data"
    os.truncate(data / "0" / "part-0.arrow", 1000)
    (data / "1" / "part-0.arrow").unlink()
    assert main(["minari", str(tmp_path / "raw"), str(tmp_path / "made"), "--fps", "10"]) == 0
    assert [clip.num_frames for clip in Dataset.open(tmp_path / "made").clips] == [4]
    bad = json.loads((tmp_path / "made" / "import.json").read_text())["bad"]
    assert [entry["episode"] for entry in bad] == ["episode_0", "episode_1"]
    assert "not an Arrow file" in bad[0]["problem"]
    assert "a part is lost" in bad[1]["problem"]
