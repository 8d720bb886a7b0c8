"""How fast shards are read, as ratios in one run: python -m data_pipeline.bench [CASE ...] [--json FILE]

reading    bytes a second of indexed samples against plain wds.WebDataset, over one tar of 300 MB
decoding   lossless frames of a 512x384 screen a second
checksums  loading decoded clips with SHA-256 of every member against without
position   the first batch at 99 % of a dataset of 5 GB against the first of all
workers    batches of 512x384 clips a second by 2 processes against by 2 threads, beside a training that is busy in Python
memory     the loader's memory after 10,000 steps of 4 threads, and of 4 processes, against that after 1,000
desktops   stepped desktops of 512x384 that are recorded side by side (bench_recorders.py; needs the programs of x11)

A machine is never twice equally fast, so the two sides of a ratio take turns. Seconds are of one core's work
(`process_time`) but for `position`, where waiting counts too. Everything is made in a temporary folder.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from data_pipeline import video
from data_pipeline.bench_clips import batches_of, latents, manifest, screen_manifest, screen_recording
from data_pipeline.bench_recorders import desktops
from data_pipeline.bench_workers import memory, workers
from data_pipeline.shards import Dataset, write_manifest, write_shard
from data_pipeline.tar_index import index_path

Result = dict[str, Any]


def reading(folder: Path, megabytes: float = 300.0, sample_kilobytes: int = 64, rounds: int = 5) -> Result:
    """Bytes a second of samples by the index, unchecked and checked, and of wds.WebDataset, which checks nothing.

    Each side begins with nothing opened. `opened_times_webdataset` is the ratio of an epoch of a dataset that is open.
    """
    path = folder / "0.tar"
    frames = max(1, sample_kilobytes * 1024 // (4 * 16 * 24 * 2))
    count = max(1, round(megabytes * 1e6 / (sample_kilobytes * 1024)))
    entry = write_shard(path, (latents(number, frames) for number in range(count)))
    write_manifest(folder, manifest([entry]))
    path.read_bytes()  # into the page cache

    def ours(dataset: Dataset) -> int:
        return sum(sum(map(len, dataset.raw(clip).values())) for clip in range(len(dataset.clips)))

    def unchecked() -> Dataset:
        return dataclasses.replace(Dataset.open(folder), checksums=False)

    def plain() -> int:
        samples = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        return sum(len(value) for sample in samples for value in sample.values() if isinstance(value, bytes))

    opened = unchecked()
    sides: list[Callable[[], int]] = [
        lambda: ours(unchecked()),
        lambda: ours(Dataset.open(folder)),
        lambda: ours(opened),
        plain,
    ]
    amounts = {side() for side in sides}  # and warms up
    assert len(amounts) == 1, f"the same samples have {sorted(amounts)} bytes"
    (amount,) = amounts
    index, checked, epoch, walk = (
        np.array(seconds) for seconds in zip(*(map(_seconds, sides) for _ in range(rounds)), strict=True)
    )
    return {
        "tar_bytes": entry.size,
        "samples": count,
        "indexed_bytes_per_second": _rate(amount, index),
        "checked_bytes_per_second": _rate(amount, checked),
        "webdataset_bytes_per_second": _rate(amount, walk),
        "times_webdataset": round(float(np.median(walk / index)), 2),
        "checked_times_webdataset": round(float(np.median(walk / checked)), 2),
        "opened_times_webdataset": round(float(np.median(walk / epoch)), 2),
        "wanted": "times_webdataset of at least 5",
    }


def decoding(folder: Path, frames: int = 64, rounds: int = 5) -> Result:
    """Frames a second of a lossless 512x384 recording, a whole clip and a window of 16 at a time."""
    clip = screen_recording(frames)
    assert clip.video is not None
    data = video.encode(clip.video, 10.0)
    assert np.array_equal(video.decode(data), clip.video)
    whole = [_seconds(lambda: video.decode(data)) for _ in range(rounds)]
    window = [_seconds(lambda: video.decode(data, 5, 16)) for _ in range(rounds)]
    return {
        "bytes_per_frame": len(data) // frames,
        "frames_per_second": _rate(frames, np.array(whole)),
        "windows_of_16_frames_per_second": _rate(16, np.array(window)),
        "wanted": "frames_per_second of at least 300",
    }


def checksums(folder: Path, frames: int = 64, clips: int = 6, rounds: int = 5) -> Result:
    """Seconds of loading decoded 512x384 clips, each member checked, over those of loading them unchecked."""
    clip = screen_recording(frames)
    entry = write_shard(folder / "0.tar", (dataclasses.replace(clip, key=f"clip-{i}") for i in range(clips)))
    write_manifest(folder, screen_manifest([entry]))

    def load(checked: bool) -> None:
        dataset = dataclasses.replace(Dataset.open(folder), checksums=checked)
        for number in range(clips):
            dataset.read(number)

    load(True)
    pairs = [(_seconds(lambda: load(True)), _seconds(lambda: load(False))) for _ in range(rounds)]
    ratio = float(np.median([checked / unchecked for checked, unchecked in pairs]))
    return {"times_unchecked": round(ratio, 4), "wanted": "times_unchecked of at most 1.10"}


def position(folder: Path, gigabytes: float = 5.0, rounds: int = 5, shard_clips: int = 128) -> Result:
    """Seconds from nothing to the first batch, from the beginning and from 99 % of an epoch of a large dataset.

    One shard of `shard_clips` clips stands under many names, as hard links: what is read is real, and the page cache holds it.
    """
    entry = write_shard(folder / "00000.tar", (latents(i, frames=128, size=(24, 32)) for i in range(shard_clips)))
    names = [f"{i:05d}.tar" for i in range(max(1, round(gigabytes * 1e9 / entry.size)))]
    index = json.loads(index_path(folder / "00000.tar").read_text())
    for name in names[1:]:
        os.link(folder / "00000.tar", folder / name)
        own = index | {"entry": index["entry"] | {"name": name}}
        index_path(folder / name).write_text(json.dumps(own, separators=(",", ":")))
    entries = [dataclasses.replace(entry, name=name) for name in names]
    write_manifest(folder, manifest(entries, size=(24, 32)))
    total = batches_of(folder, 16).num_windows
    last = int(0.99 * total) // 16 * 16

    def first(cursor: int) -> float:
        began = time.perf_counter()
        next(batches_of(folder, 16, num_workers=2)(cursor))
        return time.perf_counter() - began

    pairs = np.array([(first(0), first(last)) for _ in range(rounds)])
    return {
        "dataset_bytes": sum(one.size for one in entries),
        "clips": shard_clips * len(names),
        "windows": total,
        "fresh_seconds": round(float(np.median(pairs[:, 0])), 3),
        "at_99_percent_seconds": round(float(np.median(pairs[:, 1])), 3),
        "more_seconds": round(float(np.median(pairs[:, 1] - pairs[:, 0])), 3),
        "wanted": "more_seconds of at most 2",
    }


CASES: dict[str, Callable[..., Result]] = {
    "reading": reading,
    "decoding": decoding,
    "checksums": checksums,
    "position": position,
    "workers": workers,
    "memory": memory,
    "desktops": desktops,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 measured, 2 wrong input."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--folder", type=Path, help="a disk to measure on (default: that of temporary files)")
    given = parser.parse_args(arguments)
    unknown = [case for case in given.cases if case not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; valid are {', '.join(CASES)}")
    results: dict[str, Result] = {}
    for case in given.cases or CASES:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            results[case] = CASES[case](Path(folder))
        for name, value in results[case].items():
            print(f"{case:<11}{name:<40}{value}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    return 0


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of one core that `work` takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _rate(amount: int, seconds: np.ndarray) -> float:
    return round(amount / float(np.median(seconds)), 1)


if __name__ == "__main__":
    sys.exit(main())
