"""Videos with captions, from miniatures of the layouts that Open-Sora, OpenVid, Cosmos and video2dataset publish."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipeline.importing.__main__ import main
from data_pipeline.shards import Dataset
from tests.numbered_film import HEIGHT, WIDTH, film, numbered, read_number

T = 12


def video(first: int) -> bytes:
    return film(numbered(range(first, first + T)), 24, "libx264")


def imported(kind: str, source: Path, made: Path) -> tuple[dict[str, tuple[list[int], str]], dict[str, str]]:
    """{episode: (the numbers on its frames, caption)} and {bad episode: problem} of what `main` makes of `source`."""
    assert main([kind, str(source), str(made)]) == 0
    dataset = Dataset.open(made)
    assert (dataset.manifest.fps, dataset.manifest.height, dataset.manifest.width) == (24.0, HEIGHT, WIDTH)
    assert dataset.manifest.action_space.pointer == "none"
    good = {}
    for i in range(len(dataset.clips)):
        sample = dataset.read(i)
        assert sample.video is not None
        good[sample.meta["episode"]] = ([read_number(frame) for frame in sample.video], sample.meta["caption"])
    bad = json.loads((made / "import.json").read_text())["bad"]
    return good, {entry["episode"]: entry["problem"] for entry in bad}


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.case("D-23")
def test_open_sora_tables(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "raw").mkdir()
    for i in range(3):
        (tmp_path / "raw" / f"{i}.mp4").write_bytes(video(20 * i))
    common = {"num_frames": T, "height": HEIGHT, "width": WIDTH, "aspect_ratio": 0.75, "resolution": 3072, "fps": 24.0}
    absolute = str(tmp_path / "raw" / "1.mp4")
    write_rows(
        tmp_path / f"meta.{suffix}",
        [
            {"path": "raw/0.mp4", "text": "zero, with a comma", **common},
            {"path": absolute, "text": " one ", **common},
            {"path": "raw/0.mp4", "text": "again", **common},
            {"path": "raw/2.mp4", "text": "", **common},
            {"path": "raw/3.mp4", "text": "gone", **common},
        ],
    )
    good, bad = imported("table", tmp_path / f"meta.{suffix}", tmp_path / "made")
    assert good == {
        "raw/0.mp4": (list(range(T)), "zero, with a comma"),
        absolute: (list(range(20, 20 + T)), "one"),
    }
    assert bad.keys() == {"row 2", "raw/2.mp4", "raw/3.mp4"}
    assert "no caption" in bad["raw/2.mp4"]


@pytest.mark.case("D-23")
def test_openvid_tables_and_what_they_say_wrongly(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    for name in "abcd":
        (tmp_path / "video" / f"{name}.mp4").write_bytes(video(5))
    about = {
        "aesthetic score": 5.1,
        "motion score": 3.2,
        "camera motion": "static",
        "frame": T,
        "fps": 24.0,
        "seconds": 0.5,
    }
    rows = [{"video": f"{name}.mp4", "caption": f"caption {name}", **about} for name in "abcd"]
    rows[1]["fps"], rows[2]["frame"], rows[3]["frame"] = 30.0, 2 * T, "many"
    rows.append(rows[0] | {"video": "e.mp4", "motion score": "fast"})
    (tmp_path / "video" / "e.mp4").write_bytes(video(5))
    write_rows(tmp_path / "OpenVid.csv", rows)
    good, bad = imported("table", tmp_path / "OpenVid.csv", tmp_path / "made")
    scores = {name: value for name, value in Dataset.open(tmp_path / "made").meta(0).items() if name.endswith("score")}
    assert scores == {"aesthetic_score": 5.1, "motion_score": 3.2}  # what the filter of encode_latents can ask for
    assert "fast" in bad.pop("e.mp4")
    assert good == {"a.mp4": (list(range(5, 5 + T)), "caption a")}
    assert bad == {
        "b.mp4": "the table says fps is 30, the file has 24",
        "c.mp4": "the table says num_frames is 24, the file has 12",
        "d.mp4": "the table says num_frames is 'many'",
    }


def test_a_table_without_its_columns_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "meta.csv", [{"path": "a.mp4", "words": "hello"}])
    assert main(["table", str(tmp_path / "meta.csv"), str(tmp_path / "made")]) == 2
    assert "no column text or caption" in capsys.readouterr().err
    (tmp_path / "meta.parquet").write_bytes(b"cheese")
    assert main(["table", str(tmp_path / "meta.parquet"), str(tmp_path / "made")]) == 2
    assert "not a parquet file" in capsys.readouterr().err


@pytest.mark.case("D-23")
def test_cosmos_folders(tmp_path: Path) -> None:
    for name in ("videos", "metas"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for i, stem in enumerate(("a.b", "c", "d")):
        (tmp_path / "raw" / "videos" / f"{stem}.mp4").write_bytes(video(20 * i))
    (tmp_path / "raw" / "metas" / "a.b.txt").write_text("a robot\n")
    (tmp_path / "raw" / "metas" / "d.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "raw" / "metas" / "e.txt").write_text("alone")
    good, bad = imported("cosmos", tmp_path / "raw", tmp_path / "made")
    assert good == {"a.b": (list(range(T)), "a robot")}
    assert bad.keys() == {"c", "d", "e"}
    assert bad["c"] == "metas/c.txt is missing"
    assert bad["e"] == "videos/e.mp4 is missing"


def write_tar(path: Path, members: list[tuple[str, bytes]], link: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)


@pytest.mark.case("D-23")
def test_video2dataset_tars(tmp_path: Path) -> None:
    about = json.dumps({"caption": "from json", "status": "success", "url": "https://example.org"}).encode()
    write_tar(
        tmp_path / "raw" / "00000.tar",
        [
            ("000000000.mp4", video(0)),
            ("000000000.txt", b"zero"),
            ("000000000.json", about),
            ("000000001.txt", b"no video"),
            ("000000002.mp4", video(20)),
            ("000000003.mp4", video(40)),
            ("000000002.json", about),  # not adjacent: still one sample
        ],
        link="000000003.txt",
    )
    twice = [("a.mp4", video(0)), ("a.mp4", video(0)), ("b.mp4", video(60)), ("b.txt", b"bee"), ("c.mp4", video(80))]
    write_tar(tmp_path / "raw" / "00001.tar", twice)
    whole = (tmp_path / "raw" / "00001.tar").read_bytes()
    (tmp_path / "raw" / "00001.tar").write_bytes(whole[: whole.rindex(b"c.mp4") + 700])
    good, bad = imported("video2dataset", tmp_path / "raw", tmp_path / "made")
    assert good == {
        "00000/000000000": (list(range(T)), "zero"),
        "00000/000000002": (list(range(20, 20 + T)), "from json"),
        "00001/b": (list(range(60, 60 + T)), "bee"),
    }
    assert "00001.tar" in bad or "ends inside" in bad["00001/c"]
    assert "no video" in bad["00000/000000001"]
    assert "not a file" in bad["00000/000000003"]
    assert "twice" in bad["00001/a"]


def test_a_tar_with_a_damaged_header_is_told_of(tmp_path: Path) -> None:
    members = [
        (f"{name}.{suffix}", data)
        for i, name in enumerate("abc")
        for suffix, data in (("mp4", video(20 * i)), ("txt", b"x"))
    ]
    write_tar(tmp_path / "raw.tar", members)
    data = bytearray((tmp_path / "raw.tar").read_bytes())
    place = data.index(b"b.mp4")
    data[place : place + 300] = b"\xaa" * 300
    (tmp_path / "raw.tar").write_bytes(bytes(data))
    good, bad = imported("video2dataset", tmp_path / "raw.tar", tmp_path / "made")
    assert good.keys() == {"raw/a"}
    assert bad.keys() == {"raw.tar"}
