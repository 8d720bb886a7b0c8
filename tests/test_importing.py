"""What imports have in common: the rate, the size, the clips, what is held out, what is bad; and what training reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.importing.films import open_film
from data_pipeline.importing.recording import (
    BadEpisode,
    Episode,
    Recording,
    Source,
    after_the_first,
    edges_of_held,
    even_times,
    idle_rows,
)
from data_pipeline.importing.retiming import combine, pick, shown
from data_pipeline.importing.writing import REPORT, Form, import_source
from data_pipeline.loader import DataConfig, open_batches
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset
from tests.numbered_film import HEIGHT, WIDTH, film, numbered, read_number
from wm.batch import HELD, PRESSED, RELEASED, ActionSpace

SPACE = ActionSpace(pointer="absolute", buttons=("left",), keys=("KeyA", "KeyB"), wheel=True, axes=("steer",))


def rows_of(num_frames: int, seed: int = 0, space: ActionSpace = SPACE) -> dict[str, np.ndarray]:
    """Random rows whose held channels are presses minus releases."""
    rng = np.random.default_rng(seed)
    rows = idle_rows(space, num_frames)
    rows["pointer"][:] = rng.random((num_frames, 2))
    rows["axes"][:] = rng.uniform(-1, 1, (num_frames, len(space.axes)))
    rows["wheel"][:] = rng.integers(-1, 2, (num_frames, 2))
    rows["buttons"] = edges_of_held(rng.random((num_frames, len(space.buttons))) < 0.5)
    rows["keys"] = edges_of_held(rng.random((num_frames, len(space.keys))) < 0.5)
    return rows


def episode(
    name: str, num_frames: int, fps: float = 10.0, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Episode:
    frames = numbered(range(num_frames), *size)
    recording = Recording(fps, even_times(num_frames, fps), lambda: iter(frames), rows_of(num_frames, seed))
    return Episode(name, lambda: recording)


def broken(name: str) -> Episode:
    def fail() -> Recording:
        raise BadEpisode("is made of cheese")

    return Episode(name, fail)


def test_what_is_held_gives_presses_and_releases_back() -> None:
    rows = edges_of_held(np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]], bool))
    assert np.array_equal(rows[..., HELD], np.cumsum(rows[..., PRESSED] - rows[..., RELEASED], axis=0))
    assert rows[:, 0, PRESSED].tolist() == [1, 0, 0, 0, 1]
    assert rows[:, 1, RELEASED].tolist() == [0, 0, 0, 1, 0]


def test_the_same_rate_keeps_every_frame_once_whatever_the_stamps_were_rounded_to() -> None:
    for fps in (15.0, 29.97, 30.0, 60.0):
        times = np.round(even_times(200, fps), 3)
        assert np.array_equal(shown(times, fps), np.arange(200)), fps


def test_another_rate_shows_what_was_on_the_screen_at_each_moment() -> None:
    assert shown(even_times(9, 30.0), 10.0).tolist() == [0, 3, 6]
    assert shown(even_times(3, 10.0), 30.0).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert shown(np.array([0.0, 0.1, 0.5, 0.6]), 10.0).tolist() == [0, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("fps", [3.0, 5.0, 7.0, 10.0, 25.0])
def test_no_press_is_lost_at_another_rate(fps: float) -> None:
    rows, times = rows_of(41), even_times(41, 10.0)
    chosen = shown(times, fps)
    made = combine(rows, chosen, SPACE)
    last = chosen[-1] + 1
    for name in ("buttons", "keys"):
        assert np.array_equal(
            made[name][..., HELD], np.cumsum(made[name][..., PRESSED] - made[name][..., RELEASED], axis=0)
        )
        assert np.array_equal(made[name][..., 1:].sum(0), rows[name][:last, :, 1:].sum(0))
    assert np.array_equal(made["wheel"].sum(0), rows["wheel"][:last].sum(0))
    assert np.array_equal(made["pointer"], rows["pointer"][chosen])
    spans = np.diff(chosen, prepend=-1)[:, None]
    if fps <= 10:
        assert np.allclose((made["axes"] * spans).sum(0), rows["axes"][:last].sum(0), atol=1e-5)


def test_a_relative_pointer_adds_up_and_rows_stay_as_they_are_at_their_own_rate() -> None:
    space = ActionSpace(pointer="relative", buttons=("left",), keys=("KeyA", "KeyB"), axes=("steer",))
    rows = rows_of(12, space=space)
    half = combine(rows, np.arange(1, 12, 2), space)
    assert np.allclose(half["pointer"], rows["pointer"].reshape(6, 2, 2).sum(1), atol=1e-6)
    same = combine(rows, np.arange(12), space)
    assert all(np.allclose(same[name], rows[name], atol=1e-6) for name in rows)


def test_rows_that_lead_to_the_next_frame_move_behind_an_idle_one() -> None:
    rows = rows_of(5)
    moved = after_the_first(rows, SPACE)
    for name, values in rows.items():
        assert np.array_equal(moved[name][1:], values[:-1])
        assert np.array_equal(moved[name][:1], idle_rows(SPACE, 1)[name])


def test_frames_are_picked_in_order_and_again() -> None:
    assert [int(f[0]) for f in pick((np.array([i]) for i in range(9)), np.array([0, 0, 2, 5, 5]))] == [0, 0, 2, 5, 5]


@pytest.mark.parametrize(("codec", "container"), [("mpeg4", "mp4"), ("libx264", "mp4"), ("libx264", "matroska")])
def test_a_film_gives_every_frame_and_any_run_of_them(codec: str, container: str) -> None:
    data = film(numbered(range(50)), 15, codec, container=container)
    found = open_film(data)
    assert (len(found), found.height, found.width, found.fps) == (50, HEIGHT, WIDTH, 15.0)
    assert np.allclose(found.times, even_times(50, 15.0), atol=1e-3)
    assert [read_number(frame) for frame in found.frames()] == list(range(50))
    assert [read_number(frame) for frame in found.frames(17, 23)] == list(range(17, 23))


def test_a_damaged_film_is_bad_and_not_short() -> None:
    whole = film(numbered(range(50)), 15)
    with pytest.raises(BadEpisode, match="not a video"):
        open_film(b"cheese")
    with pytest.raises(BadEpisode, match="not a video"):
        open_film(whole[: len(whole) // 2])  # the table at the end is gone
    streamed = film(numbered(range(50)), 15, "libx264", container="matroska")
    cut = open_film(streamed[: len(streamed) * 2 // 3])
    assert len(cut) < 50
    noisy = numbered(range(50))
    noisy[:, HEIGHT // 2 :] = np.random.default_rng(0).integers(0, 256, noisy[:, HEIGHT // 2 :].shape)
    for codec, lost, problem in (
        ("mpeg4", 50, "is damaged at"),
        ("mpeg4", 900, "damaged|decoded"),
        ("libx264", 900, "decoded"),
    ):
        data = bytearray(film(noisy, 15, codec))
        start = data.index(b"mdat") + len(data) // 3
        data[start : start + lost] = bytes(lost)
        with pytest.raises(BadEpisode, match=problem):
            list(open_film(bytes(data)).frames())


def test_an_import_is_cut_evenly_aligned_and_the_same_again(tmp_path: Path) -> None:
    source = Source(SPACE, [episode("a/b.mp4", 50), broken("cheese"), episode("c", 7, seed=1)], {"name": "mine"})
    form = Form(clip_frames=20, clips_per_shard=3)
    report = import_source("tests", source, tmp_path / "one", form)[""]
    assert (report.num_episodes, report.num_clips, report.num_frames) == (3, 4, 57)
    assert report.bad == [{"episode": "cheese", "problem": "is made of cheese"}]
    dataset = Dataset.open(tmp_path / "one")
    assert [clip.num_frames for clip in dataset.clips] == [17, 16, 17, 7]
    assert dataset.manifest.source["num_bad"] == 1
    assert (dataset.manifest.fps, dataset.manifest.action_space.fps, dataset.manifest.height) == (10.0, 10.0, HEIGHT)
    assert json.loads((tmp_path / "one" / REPORT).read_text())["bad"] == report.bad
    for i, (seed, start) in enumerate([(0, 0), (0, 17), (0, 33), (1, 0)]):
        sample = dataset.read(i)
        assert [read_number(frame) for frame in sample.video] == list(range(start, start + len(sample)))
        assert all(
            np.allclose(sample.actions[name], values[start : start + len(sample)], atol=1e-6)
            for name, values in rows_of(50 if seed == 0 else 7, seed).items()
        )
        assert sample.meta["first_frame"] == start
    import_source("tests", source, tmp_path / "two", form)
    for path in (tmp_path / "one").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    with pytest.raises(DataError, match="already"):
        import_source("tests", source, tmp_path / "one", form)


def test_an_import_that_was_stopped_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    def stop() -> Recording:
        raise KeyboardInterrupt

    episodes = [episode(f"e{i}", 9, seed=i) for i in range(5)]
    form = Form(clips_per_shard=2)
    import_source("tests", Source(SPACE, episodes), tmp_path / "whole", form)
    stopped = [*episodes[:3], Episode("e3", stop), episodes[4]]
    with pytest.raises(KeyboardInterrupt):
        import_source("tests", Source(SPACE, stopped), tmp_path / "twice", form)
    assert (tmp_path / "twice" / "00000.tar").exists()
    with pytest.raises(DataError, match="not a dataset"):
        Dataset.open(tmp_path / "twice")
    import_source("tests", Source(SPACE, episodes), tmp_path / "twice", form)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "twice").iterdir()} == names
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes() for name in names)


def test_an_episode_of_another_rate_or_size_is_bad_unless_one_is_asked_for(tmp_path: Path) -> None:
    episodes = [episode("a", 6), episode("faster", 12, fps=20.0), episode("larger", 6, size=(96, 128))]
    report = import_source("tests", Source(SPACE, episodes), tmp_path / "as_is", Form())[""]
    assert [entry["episode"] for entry in report.bad] == ["faster", "larger"]
    assert "--fps" in report.bad[0]["problem"]
    assert "--height" in report.bad[1]["problem"]
    form = Form(fps=5.0, height=24, width=32)
    assert import_source("tests", Source(SPACE, episodes), tmp_path / "made", form)[""].bad == []
    dataset = Dataset.open(tmp_path / "made")
    numbers = [[read_number(frame) for frame in dataset.frames(i)] for i in range(3)]
    assert numbers == [[0, 2, 4], [0, 4, 8], [0, 2, 4]]
    assert dataset.frames(0).shape[1:] == (24, 32, 3)


@pytest.mark.case("D-23")
def test_rows_that_are_not_as_many_as_frames_are_bad(tmp_path: Path) -> None:
    off = Recording(10.0, even_times(6, 10.0), lambda: iter(numbered(range(6))), rows_of(5))
    short = Recording(10.0, even_times(6, 10.0), lambda: iter(numbered(range(4))), rows_of(6))
    episodes = [Episode("off", lambda: off), Episode("short", lambda: short), episode("good", 6)]
    bad = import_source("tests", Source(SPACE, episodes), tmp_path, Form())[""].bad
    assert [entry["episode"] for entry in bad] == ["off", "short"]
    with pytest.raises(DataError, match="none of 2 episodes"):
        import_source("tests", Source(SPACE, episodes[:2]), tmp_path / "none", Form())


def test_what_is_held_out_depends_on_names_only_and_training_reads_both(tmp_path: Path) -> None:
    episodes = [episode(f"e{i}", 12, seed=i) for i in range(10)]
    reports = import_source("tests", Source(SPACE, episodes), tmp_path, Form(), heldout=0.2)
    assert {name: report.num_episodes for name, report in reports.items()} == {"train": 8, "heldout": 2}
    heldout = Dataset.open(tmp_path / "heldout")
    held = {heldout.meta(i)["episode"] for i in range(2)}
    import_source("tests", Source(SPACE, episodes[::-1]), tmp_path / "back", Form(), heldout=0.2)
    other = Dataset.open(tmp_path / "back" / "heldout")
    assert held == {other.meta(i)["episode"] for i in range(2)}
    config = DataConfig(folder="", clip_frames=8, global_batch_size=4, num_workers=0)
    batch, _ = next(open_batches(config, tmp_path / "train", 0, 1, seed=0)(0))
    assert batch.video is not None
    assert batch.video.shape == (4, 8, 3, HEIGHT, WIDTH)
    train = Dataset.open(tmp_path / "train")
    for name, frames, pointer in zip(batch.sample_ids, batch.video, batch.given.action.pointer, strict=True):
        key, _, start = name.partition("@")
        clip = [entry.key for entry in train.clips].index(key)
        assert [read_number(f.permute(1, 2, 0).numpy()) for f in frames] == list(range(int(start), int(start) + 8))
        assert np.array_equal(pointer.numpy(), train.rows(clip)["pointer"][int(start) : int(start) + 8])
