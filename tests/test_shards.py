"""What was written is read back, by us and by plain WebDataset; what was damaged is named and never read."""

import ast
import dataclasses
import errno
import gc
import io
import json
import multiprocessing
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from data_pipeline.schema import DataError, DatasetManifest, Sample, ShardEntry
from data_pipeline.shards import (
    Dataset,
    write_index,
    write_manifest,
    write_shard,
)
from data_pipeline.tar_index import build_index, header, index_path, load_index
from wm.batch import ActionSpace

T, H, W, C = 11, 6, 10, 4


def make_sample(number: int, kind: str = "video") -> Sample:
    rng = np.random.default_rng(number)
    frames = T + number % 3  # clips of unlike length
    shapes = {"pointer": (2,), "buttons": (2, 3), "keys": (5, 3), "wheel": (2,), "axes": (1,)}
    return Sample(
        key=f"clip-{number:03d}",
        actions={name: rng.random((frames, *shape), dtype=np.float32) for name, shape in shapes.items()},
        meta={"fps": 12.5, "seed": number, "events": [[str(i)] for i in range(frames)]},
        video=rng.integers(0, 255, (frames, H, W, 3), dtype=np.uint8) if kind == "video" else None,
        latents=rng.normal(3, 2, (frames, C, 2, 3)).astype(np.float16) if kind == "latents" else None,
    )


def make_manifest(shards: list[ShardEntry], kind: str = "video") -> DatasetManifest:
    space = ActionSpace(buttons=("left", "right"), keys=tuple("abcde"), axes=("x",), fps=12.5)
    sizes = {"height": H, "width": W} if kind == "video" else {"height": 16, "width": 24}
    return DatasetManifest(action_space=space, fps=12.5, kind=kind, shards=tuple(shards), source={}, **sizes)


def make_dataset(folder: Path, kind: str = "video", sizes: tuple[int, ...] = (3, 2)) -> Dataset:
    numbers = iter(range(sum(sizes)))
    shards = [
        write_shard(folder / f"{i:03d}.tar", [make_sample(next(numbers), kind) for _ in range(n)])
        for i, n in enumerate(sizes)
    ]
    write_manifest(folder, make_manifest(shards, kind))
    return Dataset.open(folder)


def same(a: Sample, b: Sample) -> bool:
    rows = all(np.array_equal(a.actions[name], b.actions[name]) for name in a.actions.keys() | b.actions.keys())
    frames = [np.array_equal(x, y) for x, y in ((a.video, b.video), (a.latents, b.latents)) if x is not None]
    return a.key == b.key and rows and all(frames) and a.meta["events"] == b.meta["events"]


@pytest.mark.parametrize("kind", ["video", "latents"])
def test_every_window_of_every_clip_reads_back(tmp_path: Path, kind: str) -> None:
    dataset = make_dataset(tmp_path, kind)
    dataset.verify()
    assert [clip.key for clip in dataset.clips] == [f"clip-{i:03d}" for i in range(5)]
    for number, clip in enumerate(dataset.clips):
        made = make_sample(number, kind)
        assert same(dataset.read(number), made)
        assert clip.num_frames == len(made)
        assert same(dataset.read(number, 4, 5), made.window(4, 5))
    with pytest.raises(ValueError, match="11 frames"):
        dataset.read(0, 4, 8)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    entries = [write_shard(tmp_path / folder / "0.tar", map(make_sample, range(2))) for folder in ("a", "b")]
    assert entries[0] == entries[1]
    assert (tmp_path / "a" / "0.tar").read_bytes() == (tmp_path / "b" / "0.tar").read_bytes()


def test_one_thread_at_a_time_is_in_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 can end in a SystemError when two threads are in `ast.parse` at a time (python/cpython#106905)."""
    make_dataset(tmp_path, "latents", (2, 1))
    dataset, inside, most, parse = Dataset.open(tmp_path), 0, 0, ast.parse

    def watched(*args: Any, **options: Any) -> ast.AST:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(1e-3)
        inside -= 1
        return parse(*args, **options)

    monkeypatch.setattr(ast, "parse", watched)
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda clip: len(dataset.read(clip).latents), [0, 1, 2] * 4))
    assert most == 1


@pytest.mark.case("D-24")
def test_unmodified_webdataset_reads_our_shards(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "latents")
    urls = [str(tmp_path / entry.name) for entry in dataset.manifest.shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [clip.key for clip in dataset.clips]
    for number, sample in enumerate(read):
        latents = np.load(io.BytesIO(sample["latents.npy"]), allow_pickle=False)
        rows = np.load(io.BytesIO(sample["actions.npz"]), allow_pickle=False)
        assert np.array_equal(latents, make_sample(number, "latents").latents)
        assert np.array_equal(rows["keys"], make_sample(number, "latents").actions["keys"])
        assert json.loads(sample["json"])["seed"] == number


def test_latents_made_from_a_recording_keep_what_changed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    sample = dataset.read(1)
    latents = dataclasses.replace(sample, video=None, latents=make_sample(1, "latents").latents)
    write_manifest(
        tmp_path / "latents", make_manifest([write_shard(tmp_path / "latents" / "0.tar", [latents])], "latents")
    )
    copied = Dataset.open(tmp_path / "latents").clips[0]
    assert copied.changed == dataset.clips[1].changed
    assert max(copied.changed) > 0.9
    assert copied.changed[0] == 0


@pytest.mark.case("D-01")
def test_every_truncation_is_named_and_no_half_sample_is_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "latents", (4,))
    shard = tmp_path / "000.tar"
    data = shard.read_bytes()
    cuts = {*range(0, len(data), 512), *np.random.default_rng(0).integers(1, len(data), 50).tolist()}
    for cut in sorted(cuts):
        shard.write_bytes(data[:cut])
        with pytest.raises(
            DataError, match=r"000.tar.*(at byte \d+; (the last good member|no sample)|has only)"
        ) as error:
            build_index(shard)
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match=f"000.tar has {cut} bytes"):
            Dataset.open(tmp_path)
        damaged = Dataset.open(tmp_path, check_sizes=False)
        for number, clip in enumerate(dataset.clips):
            whole = all(member.offset + member.size <= cut for member in clip.members.values())
            if whole:
                assert same(damaged.read(number), make_sample(number, "latents"))
            else:
                with pytest.raises(DataError, match="ends before this member"):
                    damaged.read(number)


@pytest.mark.case("D-02")
def test_every_flipped_bit_is_found_when_it_is_first_read(tmp_path: Path) -> None:
    make_dataset(tmp_path, "video", (1,))
    shard = tmp_path / "000.tar"
    clip = Dataset.open(tmp_path).clips[0]
    good = shard.read_bytes()
    rng = np.random.default_rng(1)
    for suffix, member in clip.members.items():
        for place in member.offset + rng.integers(0, member.size, 40):
            flipped = bytearray(good)
            flipped[place] ^= 1 << rng.integers(8)
            shard.write_bytes(flipped)
            with pytest.raises(DataError, match=f"000.tar, clip-000.{suffix} at byte {member.offset}: checksum"):
                Dataset.open(tmp_path).read(0)


@pytest.mark.case("D-02")
def test_every_damaged_header_is_found_by_verify(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "latents", (1,))
    shard = tmp_path / "000.tar"
    good = shard.read_bytes()
    start = dataset.clips[0].members["actions.npz"].offset - 512
    for place in range(start, start + 512, 7):
        flipped = bytearray(good)
        flipped[place] ^= 0x41
        shard.write_bytes(flipped)
        with pytest.raises(DataError, match=r"000.tar"):
            dataset.verify()


def malformed() -> Iterator[tuple[str, bytes, str]]:
    end = bytes(1024)
    block = bytes(512)
    link = tarfile.TarInfo("a.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    rows, meta = header("a.actions.npz", 0), header("a.json", 29) + b'{"num_frames":1,"changed":[0]}'[:29] + bytes(483)
    yield "empty file", b"", "empty header"
    yield "no tar", b"PK" * 512, "at byte 0"
    yield "one end block", block, "wrong end"
    yield "symbolic link", link.tobuf() + end, "not a file of a sample"
    yield "absolute path", header("/a.json", 0) + end, "not a file of a sample"
    yield "parent folder", header("../a.json", 0) + end, "not a file of a sample"
    yield "dotted key", header("a.b.json", 0) + end, "not a file of a sample"
    yield "twice", rows + rows + end, "is there twice"
    yield "broken json", rows + meta + end, "not as it was written"
    yield "interleaved", rows + header("b.actions.npz", 0) + rows + end, "not adjacent"
    yield "no frames", rows + end, "has only"


@pytest.mark.parametrize(
    ("name", "data", "says"), malformed(), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.case("D-04")
def test_malformed_tars_are_refused_in_one_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=says) as error:
        build_index(tmp_path / "x.tar")
    assert "x.tar" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_lost_index_is_made_again(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    path = index_path(tmp_path / "001.tar")
    before = path.read_bytes()
    for damage in (None, b"{", b"{}"):
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(DataError, match=r"001.tar.index.json .*inspect_shards .* --index"):
            Dataset.open(tmp_path)
    write_index(tmp_path / "001.tar")
    assert path.read_bytes() == before


def test_a_folder_without_manifest_or_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset.json; run the record stage"):
        Dataset.open(tmp_path)
    make_dataset(tmp_path)
    path = tmp_path / "dataset.json"
    for change, says in (
        ({"schema_version": 99}, "schema version 99"),
        ({"fsp": 3}, "fsp: unknown field; did you mean"),
    ):
        tree = json.loads(path.read_text())
        (tmp_path / "dataset.json").write_text(json.dumps(tree | change))
        with pytest.raises(DataError, match=says):
            Dataset.open(tmp_path)
        path.write_text(json.dumps(tree))
    path.write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        Dataset.open(tmp_path)


@pytest.mark.case("D-14")
def test_a_missing_and_a_rewritten_shard_are_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    write_shard(tmp_path / "001.tar", [make_sample(9)])
    with pytest.raises(DataError, match=r"001.tar"):
        Dataset.open(tmp_path)
    (tmp_path / "001.tar").unlink()
    for attempt in (
        lambda: Dataset.open(tmp_path),
        lambda: dataset.read(4),
        lambda: write_manifest(tmp_path, dataset.manifest),
    ):
        with pytest.raises(DataError, match=r"001.tar is missing"):
            attempt()


def test_an_interrupted_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Sample]:
        yield make_sample(0)
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "0.tar", interrupted())
    assert list(tmp_path.iterdir()) == []
    entry = write_shard(tmp_path / "0.tar", [make_sample(0)])
    assert load_index(tmp_path / "0.tar")[0] == entry


def write_and_die(path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield make_sample(0)
        os.kill(os.getpid(), signal.SIGKILL)

    write_shard(path, samples())


@pytest.mark.case("D-16")
def test_a_killed_writer_is_cleaned_up_after(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path / "0.tar",))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    write_manifest(tmp_path, make_manifest([write_shard(tmp_path / "0.tar", [make_sample(0)])]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "0.tar.index.json", "dataset.json"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def full() -> Iterator[Sample]:
        yield make_sample(0)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match=r"no space left to write .*0.tar; make room"):
        write_shard(tmp_path / "0.tar", full())


def test_few_files_stay_open_however_many_shards_there_are(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "latents", (1,) * 70)
    gc.collect()  # files of other tests
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for clip in range(70):
            assert dataset.rows(clip)["pointer"].shape[0] == dataset.clips[clip].num_frames
    assert 32 < len(os.listdir("/proc/self/fd")) - before <= 64
    del dataset
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
