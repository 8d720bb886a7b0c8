"""LeRobot v3.0 in, from a miniature of the published layout, and out and back without a difference."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.action_vectors import from_vectors, to_vectors, vector_names
from data_pipeline.environments.desktop_sim import DesktopSimConfig
from data_pipeline.exporting.__main__ import main as export
from data_pipeline.human_policy import HumanPolicyConfig
from data_pipeline.importing.__main__ import main
from data_pipeline.importing.recording import edges_of_held
from data_pipeline.record import record
from data_pipeline.schema import DatasetManifest
from data_pipeline.shards import Dataset, write_manifest, write_shard
from tests.numbered_film import HEIGHT, WIDTH, film, numbered, read_number
from wm.batch import ActionSpace

pyarrow = pytest.importorskip("pyarrow", reason="LeRobot's tables are parquet: pip install 'wm[importing]'")
parquet = pytest.importorskip("pyarrow.parquet")

FPS, LENGTHS = 10, (9, 14, 6)  # the first two episodes share a film and a table, as LeRobot packs them
TOP, SIDE = "observation.images.top", "observation.images.side"
PLACES = [(0, 0), (0, 0), (0, 1)]


def actions(number: int) -> np.ndarray:
    """(T, 3): the second number never changes."""
    rng = np.random.default_rng(number)
    return np.stack(
        [rng.uniform(-30, 90, LENGTHS[number]), np.full(LENGTHS[number], 7.0), np.arange(LENGTHS[number])], 1
    )


def write_dataset(folder: Path, image: bool = False) -> None:
    starts = np.cumsum([0, *LENGTHS])
    info: dict[str, Any] = {
        "codebase_version": "v3.0",
        "robot_type": "so100",
        "total_episodes": 3,
        "total_frames": int(starts[-1]),
        "total_tasks": 2,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "action": {"dtype": "float32", "shape": [3], "names": ["pan", "lift", "grip"]},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **{
                name: {"dtype": "int64", "shape": [1], "names": None}
                for name in ("frame_index", "episode_index", "index")
            },
        },
    }
    for view in (TOP,) if image else (TOP, SIDE):
        info["features"][view] = {"dtype": "image" if image else "video", "shape": [HEIGHT, WIDTH, 3]}
    every = np.concatenate([actions(number) for number in range(3)])
    stats = {"action": {"min": every.min(0).tolist(), "max": every.max(0).tolist(), "count": [len(every)]}}
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "stats.json").write_text(json.dumps(stats))
    episodes = []
    for number, (chunk, file) in enumerate(PLACES):
        shift = LENGTHS[0] / FPS if number == 1 else 0.0
        row: dict[str, Any] = {"episode_index": number, "tasks": [f"task {number % 2}"], "length": LENGTHS[number]}
        row |= {"data/chunk_index": chunk, "data/file_index": file, "stats/action/min": [0.0]}
        for view in (TOP, SIDE):
            row |= {f"videos/{view}/chunk_index": chunk, f"videos/{view}/file_index": file}
            row |= {
                f"videos/{view}/from_timestamp": shift,
                f"videos/{view}/to_timestamp": shift + LENGTHS[number] / FPS,
            }
        episodes.append(row)
    parquet.write_table(pyarrow.Table.from_pylist(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    for file, members in ((0, (0, 1)), (1, (2,))):
        write_file(folder, file, members, image)


def frames_of(number: int, view: str = TOP) -> list[int]:
    """What the frames of an episode show."""
    start = 50 * number + (30 if view == SIDE else 0)
    return list(range(start, start + LENGTHS[number]))


def write_file(folder: Path, file: int, members: tuple[int, ...], image: bool) -> None:
    name = f"chunk-000/file-{file:03d}"
    (folder / "data" / "chunk-000").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in members:
        pictures = numbered(frames_of(number))
        for frame in range(LENGTHS[number]):
            row = {"action": actions(number)[frame].tolist(), "timestamp": frame / FPS, "frame_index": frame}
            row |= {"episode_index": number, "index": frame, "task_index": number % 2}
            if image:
                png = io.BytesIO()
                Image.fromarray(pictures[frame]).save(png, "png")
                row[TOP] = {"bytes": png.getvalue(), "path": f"frame-{frame:06d}.png"}
            rows.append(row)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / f"{name}.parquet")
    if not image:
        for view in (TOP, SIDE):
            path = folder / "videos" / view / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(film(numbered([n for number in members for n in frames_of(number, view)]), FPS, "libx264"))


@pytest.mark.parametrize("view", [TOP, SIDE])
@pytest.mark.case("D-23")
def test_episodes_come_out_of_shared_files_with_action_t_before_frame_t_plus_1(tmp_path: Path, view: str) -> None:
    write_dataset(tmp_path / "raw")
    assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "made"), "--view", view]) == 0
    check_imported(Dataset.open(tmp_path / "made"), view)


def test_pictures_in_the_table(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", image=True)
    assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "made")]) == 0
    check_imported(Dataset.open(tmp_path / "made"), TOP)


def check_imported(dataset: Dataset, view: str) -> None:
    assert dataset.manifest.fps == FPS
    assert dataset.manifest.action_space == ActionSpace(pointer="none", axes=("pan", "lift", "grip"), fps=FPS)
    low, high = (np.array(dataset.manifest.source[name]) for name in ("action_low", "action_high"))
    for number, length in enumerate(LENGTHS):
        sample = dataset.read(number)
        assert sample.video is not None
        assert [read_number(frame) for frame in sample.video] == frames_of(number, view)
        axes = sample.actions["axes"]
        assert len(axes) == length
        assert not axes[0].any()
        back = (axes[1:] + 1) / 2 * (high - low) + low
        assert np.allclose(back[:, [0, 2]], actions(number)[:-1, [0, 2]], atol=1e-4)
        assert not axes[:, 1].any()
        assert sample.meta["caption"] == f"task {number % 2}"


def test_what_is_wrong_with_a_whole_dataset_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def problem(*more: str) -> str:
        assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "made"), *more]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    (tmp_path / "raw").mkdir()
    assert "not a LeRobot dataset" in problem()
    write_dataset(tmp_path / "raw")
    assert "choose one with --view" in problem()
    assert "has no view 'x'" in problem("--view", "x")
    path = tmp_path / "raw" / "meta" / "info.json"
    path.write_text(path.read_text().replace("v3.0", "v2.1"))
    assert "v2.1" in problem("--view", TOP)
    (tmp_path / "raw" / "meta" / "stats.json").unlink()
    path.write_text(path.read_text().replace("v2.1", "v3.0"))
    assert "range of the actions" in problem("--view", TOP)


@pytest.mark.case("D-23")
def test_bad_episodes_are_named_and_the_others_come(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw")
    table = parquet.read_table(tmp_path / "raw/data/chunk-000/file-000.parquet")
    parquet.write_table(table.slice(1), tmp_path / "raw/data/chunk-000/file-000.parquet")
    assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "made"), "--view", TOP]) == 0
    assert [clip.num_frames for clip in Dataset.open(tmp_path / "made").clips] == [14, 6]
    bad = json.loads((tmp_path / "made" / "import.json").read_text())["bad"]
    assert [entry["episode"] for entry in bad] == ["episode 0"]
    assert "says it has 9 frames" in bad[0]["problem"]
    short = film(numbered(frames_of(0)), FPS)
    (tmp_path / "raw/videos" / TOP / "chunk-000/file-000.mp4").write_bytes(short)
    assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "again"), "--view", TOP]) == 0
    bad = json.loads((tmp_path / "again" / "import.json").read_text())["bad"]
    assert "its film has 0 frames" in bad[1]["problem"]


def test_a_template_does_not_lead_out_of_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "raw")
    path = tmp_path / "raw" / "meta" / "info.json"
    path.write_text(path.read_text().replace("data/chunk-", "../data/chunk-"))
    assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "made"), "--view", TOP]) == 2
    assert "outside of the dataset" in capsys.readouterr().err


def test_vectors_are_the_rows() -> None:
    space = ActionSpace(buttons=("left", "right"), keys=("KeyA", "KeyB", "KeyC"), wheel=True, axes=("steer",))
    rng = np.random.default_rng(0)
    rows = {
        "pointer": rng.random((7, 2)).astype(np.float32),
        "buttons": edges_of_held(rng.random((7, 2)) < 0.5),
        "keys": edges_of_held(rng.random((7, 3)) < 0.5),
        "wheel": rng.integers(-1, 2, (7, 2)).astype(np.float32),
        "axes": rng.random((7, 1)).astype(np.float32),
    }
    vectors = to_vectors(rows)
    assert vectors.shape == (7, len(vector_names(space)))
    assert np.array_equal(vectors[:, vector_names(space).index("KeyB.pressed")], rows["keys"][:, 1, 1])
    assert all(np.array_equal(from_vectors(vectors, space)[name], rows[name]) for name in rows)
    with pytest.raises(ValueError, match="need"):
        from_vectors(vectors[:, 1:], space)


def test_out_and_back_nothing_changes(tmp_path: Path) -> None:
    environment = DesktopSimConfig().build()
    samples = [record(environment, HumanPolicyConfig().build(), 20 + i, i, f"clip-{i}") for i in range(3)]
    shards = (write_shard(tmp_path / "ours/0.tar", samples[:2]), write_shard(tmp_path / "ours/1.tar", samples[2:]))
    space = environment.action_space
    manifest = DatasetManifest(
        action_space=space, fps=10.0, height=64, width=96, kind="video", shards=shards, source={"name": "desktop_sim"}
    )
    write_manifest(tmp_path / "ours", manifest)
    assert export(["lerobot", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    assert main(["lerobot", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    back = Dataset.open(tmp_path / "back")
    assert (back.manifest.action_space, back.manifest.fps) == (space, 10.0)
    for i, sample in enumerate(samples):
        again = back.read(i)
        assert np.array_equal(again.video, sample.video)
        assert all(np.array_equal(again.actions[name], rows) for name, rows in sample.actions.items())
    assert export(["lerobot", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 2


def test_an_export_is_as_lerobot_describes_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="LeRobot reads its tasks with pandas")
    write_dataset(tmp_path / "raw")
    assert main(["lerobot", str(tmp_path / "raw"), str(tmp_path / "ours"), "--view", TOP]) == 0
    assert export(["lerobot", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    info = json.loads((tmp_path / "theirs/meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (3, sum(LENGTHS), 2, FPS)
    tasks = pandas.read_parquet(tmp_path / "theirs/meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert tasks["task_index"].to_dict() == {"task 0": 0, "task 1": 1}
    data = pandas.concat([pandas.read_parquet(path) for path in sorted((tmp_path / "theirs/data").glob("*/*.parquet"))])
    assert data["index"].tolist() == list(range(sum(LENGTHS)))
    assert data["task_index"].tolist() == [0] * LENGTHS[0] + [1] * LENGTHS[1] + [0] * LENGTHS[2]
    assert np.allclose(data["timestamp"], data["frame_index"] / FPS)
    for name in info["features"].keys() - {"observation.images.screen"}:
        assert name in data, name
    vectors = np.stack(data["action"])
    stats = json.loads((tmp_path / "theirs/meta/stats.json").read_text())
    for name, expected in (
        ("min", vectors.min(0)),
        ("max", vectors.max(0)),
        ("mean", vectors.mean(0)),
        ("std", vectors.std(0)),
    ):
        assert np.allclose(stats["action"][name], expected, atol=1e-5), name
    episodes = pandas.read_parquet(tmp_path / "theirs/meta/episodes/chunk-000/file-000.parquet")
    assert episodes["dataset_to_index"].tolist() == np.cumsum(LENGTHS).tolist()
    assert (
        tmp_path
        / "theirs"
        / info["video_path"].format(video_key="observation.images.screen", chunk_index=0, file_index=2)
    ).exists()
