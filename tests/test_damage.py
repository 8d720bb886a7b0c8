"""Damaged data: never half a sample, never a silent end, never code that runs; each loss is named and counted."""

import gzip
import io
import itertools
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.loader import Batches, DataConfig, Skip, open_batches
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset, write_index, write_manifest, write_shard
from data_pipeline.tar_index import build_index, header
from tests.test_shards import make_dataset, make_manifest, make_sample, same

NUM_SAMPLES = 20


def data(**changes: Any) -> DataConfig:
    values = {"clip_frames": 11, "clip_stride": 50, "global_batch_size": 4, "num_readers": 2, "num_workers": 0}
    return DataConfig(folder="x", **{**values, "cache_megabytes": 0, **changes})


def through(batches: Batches) -> set[str]:
    """Keys of the clips that one epoch gives; every clip has one window."""
    epoch = itertools.islice(batches(0), -(-batches.num_windows // batches.config.global_batch_size))
    return {name.split("@")[0] for batch, _ in epoch for name in batch.sample_ids}


def whole_clips(dataset: Dataset, size: int) -> set[str]:
    return {
        clip.key
        for clip in dataset.clips
        if all(member.offset + member.size <= size for member in clip.members.values())
    }


@pytest.mark.parametrize("part", range(4))
@pytest.mark.case("D-01")
def test_every_truncation_gives_exactly_the_whole_samples_and_counts_the_others(tmp_path: Path, part: int) -> None:
    dataset = make_dataset(tmp_path, "latents", (NUM_SAMPLES,))
    shard = tmp_path / "000.tar"
    size = shard.stat().st_size
    cuts = sorted({*range(0, size, 512), *np.random.default_rng(7).integers(1, size, 200).tolist()}, reverse=True)
    assert len(cuts) > 300
    for cut in cuts[part::4]:
        shard.touch()
        os.truncate(shard, min(cut, shard.stat().st_size))
        damaged = Dataset.open(tmp_path, check_sizes=False)
        read, lost = set(), []
        for number, clip in enumerate(damaged.clips):
            try:
                assert same(damaged.read(number), make_sample(number, "latents"))
                read.add(clip.key)
            except DataError as error:
                lost.append(str(error))
        assert read == whole_clips(dataset, cut)
        assert len(lost) == NUM_SAMPLES - len(read)
        assert all("000.tar, clip-" in line and "at byte" in line and "ends before" in line for line in lost)


@pytest.mark.parametrize("part", [0.95, 0.5, 0.1])
def test_the_loader_skips_the_lost_samples_of_a_truncated_shard_by_name(
    tmp_path: Path, part: float, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(tmp_path, "latents", (NUM_SAMPLES,))
    shard = tmp_path / "000.tar"
    cut = int(shard.stat().st_size * part)
    os.truncate(shard, cut)
    with pytest.raises(DataError, match=rf"000.tar has {cut} bytes, dataset.json says \d+"):
        open_batches(data(), tmp_path, 0, 1, 3)
    batches = open_batches(data(bad_samples=Skip(budget=1.0)), tmp_path, 0, 1, 3)
    kept = whole_clips(dataset, cut)
    assert through(batches) <= kept
    lost = {dataset.clips[clip].key for clip in batches.bad}
    assert lost == {clip.key for clip in dataset.clips} - kept
    assert all(any(key in record.message for record in caplog.records) for key in lost)
    assert batches.skipped >= len(lost)


@pytest.mark.case("D-05")
def test_three_percent_bad_samples_are_skipped_and_sixty_end_the_run(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "latents", (34, 33))
    flip(dataset, (5, 50), place=40)
    batches = open_batches(data(bad_samples=Skip(budget=0.05)), tmp_path, 0, 1, 3)
    assert len(through(batches)) == 65
    assert sorted(batches.bad) == [5, 50]
    flip(dataset, range(40), place=41)
    with pytest.raises(DataError, match=r"4 of 67 clips are bad, the budget is 5.0%; the last: .*checksum differs"):
        through(open_batches(data(bad_samples=Skip(budget=0.05)), tmp_path, 0, 1, 3))


def flip(dataset: Dataset, clips: Iterable[int], place: int) -> None:
    """One bit at `place` of the action rows of each of `clips`."""
    for clip in clips:
        entry = dataset.clips[clip]
        with (dataset.folder / entry.shard).open("r+b") as file:
            where = entry.members["actions.npz"].offset + place
            byte = os.pread(file.fileno(), 1, where)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 4]), where)


@pytest.mark.case("D-02")
def test_every_flipped_byte_of_a_header_and_anywhere_else_is_found_by_verify(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "latents", (2,))
    shard = tmp_path / "000.tar"
    good = shard.read_bytes()
    start = dataset.clips[1].members["actions.npz"].offset - 512
    rng = np.random.default_rng(2)
    for place in [*range(start, start + 512), *rng.integers(0, len(good), 500).tolist()]:
        flipped = bytearray(good)
        flipped[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(flipped)
        with pytest.raises(DataError, match=r"000.tar"):
            dataset.verify()


@pytest.mark.case("D-14")
def test_a_shard_that_vanishes_or_changes_during_the_run_is_skipped_by_name(tmp_path: Path) -> None:
    make_dataset(tmp_path, "latents", (6, 5, 4))
    batches = open_batches(data(bad_samples=Skip(budget=0.7)), tmp_path, 0, 1, 3)
    next(batches(0))
    (tmp_path / "000.tar").unlink()
    write_shard(tmp_path / "002.tar", [make_sample(40 + i, "latents") for i in range(4)])
    names = through(batches)
    complaints = " ".join(batches.bad.values())
    assert "000.tar is missing" in complaints
    assert "002.tar, clip-01" in complaints  # its members are others than those of the index
    assert names == {f"clip-{i:03d}" for i in range(6, 11)}
    with pytest.raises(DataError, match=r"000.tar is missing|002.tar, clip-\d+"):
        through(Batches(data(), batches.dataset, 0, 1, 3))


def archives() -> Iterator[tuple[str, bytes, str]]:
    end, rows = bytes(1024), header("a.actions.npz", 0)
    hard = tarfile.TarInfo("a.json")
    hard.type, hard.linkname = tarfile.LNKTYPE, "b.json"
    device = tarfile.TarInfo("a.json")
    device.type = tarfile.FIFOTYPE
    long = tarfile.TarInfo("k" * 200 + ".json")
    wrong = bytearray(rows)
    wrong[257:262] = b"nostr"
    yield "gzip called tar", gzip.compress(rows + end), "at byte 0"
    yield "wrong magic", bytes(wrong) + end, "at byte 0"
    yield "hard link", hard.tobuf() + end, "not a file of a sample"
    yield "named pipe", device.tobuf() + end, "not a file of a sample"
    yield "long name, GNU", long.tobuf(tarfile.GNU_FORMAT) + end, "not a file of a sample"
    yield "long name, PAX", long.tobuf(tarfile.PAX_FORMAT) + end, "not a file of a sample"
    yield "pickle", header("a.pyd", 0) + end, "not a file of a sample"
    yield "pickle of the other name", header("a.pickle", 0) + end, "not a file of a sample"
    yield "size beyond the end", header("a.json", 10**9) + end, "ends inside a.json"


@pytest.mark.parametrize(("name", "content", "says"), archives(), ids=lambda value: value if type(value) is str else "")
@pytest.mark.case("D-04")
def test_archives_that_are_not_ours_are_refused_in_one_line_and_write_nothing(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        build_index(tmp_path / "x.tar")
    assert "x.tar" in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.case("D-04")
def test_a_shard_without_samples_is_whole_and_an_epoch_without_windows_is_refused(tmp_path: Path) -> None:
    empty = write_shard(tmp_path / "0.tar", [])
    assert (empty.num_samples, empty.num_frames) == (0, 0)
    write_manifest(tmp_path, make_manifest([empty], "latents"))
    assert Dataset.open(tmp_path).clips == ()
    with pytest.raises(DataError, match="no clip has 11 frames"):
        open_batches(data(), tmp_path, 0, 1, 3)


class Bomb:
    """Makes the file `path` where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def forged(folder: Path, suffix: str, content: bytes) -> Dataset:
    """A dataset whose one sample has `content` as a member, with an index and a manifest that agree with it."""
    (sample,) = [make_sample(0, "latents")]
    write_shard(folder / "0.tar", [sample])
    entries = members_of(folder / "0.tar")
    entries[suffix] = content
    parts = [header(f"{sample.key}.{s}", len(d)) + d + bytes(-len(d) % 512) for s, d in entries.items()]
    (folder / "0.tar").write_bytes(b"".join(parts) + bytes(1024))
    write_manifest(folder, make_manifest([write_index(folder / "0.tar")], "latents"))
    return Dataset.open(folder)


def members_of(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name.split(".", 1)[1]: tar.extractfile(member).read() for member in tar}


def saved(array: np.ndarray, **rows: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **rows) if rows else np.save(out, array, allow_pickle=True)
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_pickles_and_other_strangers_inside_a_sample_are_refused_and_never_run(tmp_path: Path) -> None:
    """The bytes are as the index says, so only what they mean is wrong."""
    proof = tmp_path / "ran"
    bomb = np.array([Bomb(proof)], object)
    sample = make_sample(0, "latents")
    short = {name: rows[:-1] for name, rows in sample.actions.items()}
    strangers = {
        "objects": ("actions.npz", saved(bomb, **{**sample.actions, "keys": bomb}), "allow_pickle"),
        "pickle": ("actions.npz", pickle.dumps(Bomb(proof)), "not a zip file"),
        "pickle in zip": ("actions.npz", zipped(pointer=pickle.dumps(Bomb(proof))), "actions.npz"),
        "one array": ("actions.npz", saved(sample.actions["pointer"]), "not a zip file"),
        "fewer rows": ("actions.npz", saved(bomb, **short), r"need 11 float32"),
        "doubles": ("actions.npz", saved(bomb, **{**sample.actions, "axes": np.zeros((11, 1))}), "need 11 float32"),
        "no rows": ("actions.npz", b"", "not a zip file"),
        "object latents": ("latents.npy", saved(bomb), "need float16"),
        "other latents": ("latents.npy", saved(np.zeros((11, 4, 2, 3))), "need float16"),
        "no latents": ("latents.npy", b"", "magic|EOF|read"),
    }
    for name, (suffix, content, says) in strangers.items():
        dataset = forged(tmp_path / name.replace(" ", "-"), suffix, content)
        with pytest.raises(DataError, match=says) as error:
            dataset.read(0)
        assert f"0.tar, clip-000.{suffix} at byte" in str(error.value)
        batches = open_batches(data(bad_samples=Skip(budget=1.0)), dataset.folder, 0, 1, 3)
        with pytest.raises(DataError, match="samples in a row are in bad clips"):
            next(batches(0))
        assert list(batches.bad) == [0]
    assert not proof.exists()


def test_a_command_in_the_place_of_a_folder_or_a_shard_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is not a dataset"):
        Dataset.open(Path("pipe:touch ran"))
    make_dataset(tmp_path, "latents", (1,))
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    for name in ("pipe:touch ran", "../000.tar", "/etc/passwd"):
        (tmp_path / "dataset.json").write_text(
            json.dumps({**manifest, "shards": [{**manifest["shards"][0], "name": name}]})
        )
        with pytest.raises(DataError, match="is not the name of a shard"):
            Dataset.open(tmp_path, check_sizes=False)
    assert not (tmp_path / "ran").exists()
