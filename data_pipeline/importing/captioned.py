"""Videos with a caption each and no actions: a table of paths as Open-Sora and OpenVid have it, Cosmos's folders,
and the tars that video2dataset writes.
"""

import json
import math
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.importing.films import Film, open_film
from data_pipeline.importing.recording import BadEpisode, Episode, Recording, Source, idle_rows
from data_pipeline.tables import read_table
from wm.batch import ActionSpace

SPACE = ActionSpace(pointer="none")
# Open-Sora: path, text, num_frames, height, width, fps. OpenVid: video, caption, frame, fps.
_COLUMNS = {
    "path": ("path", "video"),
    "caption": ("text", "caption"),
    "num_frames": ("num_frames", "frame"),
    "height": ("height",),
    "width": ("width",),
    "fps": ("fps",),
}
# What others measured of a video, kept in its json: for the filter of encode_latents. Open-Sora: aes, flow, match. OpenVid
# says it in words.
_SCORES = {
    "aesthetic_score": ("aesthetic score", "aesthetic_score", "aes"),
    "motion_score": ("motion score", "motion_score", "flow"),
    "matching_score": ("matching score", "matching_score", "match"),
    "temporal_consistency_score": ("temporal consistency score", "temporal_consistency_score"),
}
_FOLDERS = ("", "videos", "video")  # beside the table: where its paths may begin
_FILMS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
_WITHIN = 0.01  # part by which what a table says may differ from the file: tables are rounded


def open_table(path: Path) -> Source:
    """The videos that a csv or parquet file names; paths are absolute, or relative to the file's folder."""
    rows = list(read_table(path, _COLUMNS | _SCORES, needed=("path", "caption")))
    seen: set[str] = set()
    episodes = []
    for number, row in enumerate(rows):
        name = str(row["path"] or "")
        if not name or name in seen:
            episodes.append(
                _bad(f"row {number}", f"names {name}, as a row before it did" if name else "names no video")
            )
        else:
            seen.add(name)
            episodes.append(_row(path.parent, name, row))
    return Source(SPACE, episodes, {"name": path.name})


def open_cosmos(folder: Path) -> Source:
    """`videos/*.mp4` with `metas/*.txt` of the same names, as Cosmos-Predict reads them."""
    stems = {path.stem for path in (*folder.glob("videos/*.mp4"), *folder.glob("metas/*.txt"))}
    return Source(SPACE, [_pair(folder, stem) for stem in sorted(stems)], {"name": folder.name})


def open_video2dataset(path: Path) -> Source:
    """A tar, or all tars of a folder, with members key.mp4, key.txt and key.json."""
    tars = sorted(path.glob("**/*.tar")) if path.is_dir() else [path]
    return Source(SPACE, [episode for tar in tars for episode in _in_tar(tar)], {"name": path.name})


def _bad(name: str, problem: str) -> Episode:
    def fail() -> Recording:
        raise BadEpisode(problem)

    return Episode(name, fail)


def _recording(film: Film, caption: Any, **meta: Any) -> Recording:
    if not isinstance(caption, str) or not caption.strip():
        raise BadEpisode("has no caption")
    rows = idle_rows(SPACE, len(film))
    return Recording(film.fps, film.times, film.frames, rows, {"caption": caption.strip(), **meta})


def _row(folder: Path, name: str, row: dict[str, Any]) -> Episode:
    def open_row() -> Recording:
        places = [folder / under / name for under in _FOLDERS]
        film = open_film(next((place for place in places if place.is_file()), places[0]))
        for field_name, is_so in (
            ("num_frames", len(film)),
            ("height", film.height),
            ("width", film.width),
            ("fps", film.fps),
        ):
            _check_said(field_name, row[field_name], is_so)
        return _recording(film, row["caption"], **_scores(row))

    return Episode(name, open_row)


def _scores(row: dict[str, Any]) -> dict[str, float]:
    """The scores that a row has; BadEpisode where one is no number."""
    given = {name: row[name] for name in _SCORES if row[name] not in (None, "")}
    try:
        found = {name: float(value) for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise BadEpisode(f"the table's scores are {given}: {error}") from None
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _check_said(name: str, said: Any, is_so: float) -> None:
    """BadEpisode where a table says something of a video that the file is not: it is another file, or a part of it."""
    if said is None or said == "":
        return
    try:
        number = float(said)
    except ValueError:
        raise BadEpisode(f"the table says {name} is {said!r}") from None
    if not math.isfinite(number) or abs(number - is_so) > max(1.0 if name == "num_frames" else 0.0, _WITHIN * is_so):
        raise BadEpisode(f"the table says {name} is {number:g}, the file has {is_so:g}")


def _pair(folder: Path, stem: str) -> Episode:
    def open_pair() -> Recording:
        video, text = folder / "videos" / f"{stem}.mp4", folder / "metas" / f"{stem}.txt"
        for path in (video, text):
            if not path.is_file():
                raise BadEpisode(f"{path.parent.name}/{path.name} is missing")
        return _recording(open_film(video), _decoded(text.read_bytes()))

    return Episode(stem, open_pair)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadEpisode(f"its caption is not UTF-8: {error}") from None


@dataclass
class _Parts:
    """Where the members of one key lie in a tar."""

    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # suffix: offset, size
    problem: str = ""


def _in_tar(tar: Path) -> list[Episode]:
    """The samples of a tar by key, and one bad episode for where it ends too early. Members need not be adjacent."""
    samples: dict[str, _Parts] = {}
    episodes = []
    try:
        # "r:" and no other: a compressed tar cannot be read at an offset.
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                _add(samples, member)
            # tarfile takes a damaged header for the end of the archive.
            if not _ends(tar, archive.offset):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except (tarfile.TarError, EOFError) as error:
        episodes.append(_bad(tar.name, f"cannot be read to its end: {error}"))
    return [_sample(tar, key, parts) for key, parts in samples.items()] + episodes


def _ends(tar: Path, offset: int) -> bool:
    with tar.open("rb") as file:
        file.seek(max(0, offset - tarfile.BLOCKSIZE))
        return not any(file.read())


def _add(samples: dict[str, _Parts], member: tarfile.TarInfo) -> None:
    """Links and devices are no data; a key ends at the first dot of the base name."""
    if member.isdir():
        return
    folder, _, base = member.name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    parts = samples.setdefault(f"{folder}/{stem}".lstrip("/"), _Parts())
    if not member.isreg() or not dot:
        parts.problem = f"its member {member.name} is not a file with a suffix"
    elif suffix in parts.places:
        parts.problem = f"its member {member.name} is there twice"
    else:
        parts.places[suffix] = (member.offset_data, member.size)


def _sample(tar: Path, key: str, parts: _Parts) -> Episode:
    def read(suffix: str) -> bytes:
        offset, size = parts.places[suffix]
        with tar.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise BadEpisode(f"the tar ends inside its {suffix}")
        return data

    def open_sample() -> Recording:
        if parts.problem:
            raise BadEpisode(parts.problem)
        film = next((suffix for suffix in parts.places if f".{suffix}" in _FILMS), None)
        if film is None:
            raise BadEpisode(f"has no video, only {', '.join(parts.places)}")
        return _recording(open_film(read(film)), _caption(parts, read))

    return Episode(f"{tar.stem}/{key}", open_sample)


def _caption(parts: _Parts, read: Callable[[str], bytes]) -> Any:
    """The text beside a video, or the caption in its json."""
    if "txt" in parts.places:
        return _decoded(read("txt"))
    if "json" not in parts.places:
        return None
    try:
        about = json.loads(read("json"))
    except ValueError as error:
        raise BadEpisode(f"its json cannot be read: {error}") from None
    return about.get("caption") if isinstance(about, dict) else None
