"""What is in a dataset: its manifest, counts, whether every byte is as written, and pictures, films and a page of it."""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.schema import DataError, DatasetManifest
from data_pipeline.shards import Dataset, write_index
from tools import overlay
from tools.episode_page import page
from tools.histograms import histograms

_COLUMNS = 8  # frames of each clip on the sheet


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.inspect_shards", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with dataset.json")
    parser.add_argument("--quick", action="store_true", help="do not read the shards to check their bytes")
    parser.add_argument("--index", action="store_true", help="make the index beside every shard again first")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write a contact sheet, one row a clip")
    parser.add_argument("--clips", type=int, default=6, help="clips on the sheet")
    parser.add_argument(
        "--histograms", action="store_true", help="print lengths, changes, keys and the pointer's places"
    )
    parser.add_argument("--clip", default="", metavar="KEY", help="the clip of --film and --page; default the first")
    parser.add_argument(
        "--film", type=Path, metavar="FILE", help="write the clip with its actions: mp4, webp, gif, png"
    )
    parser.add_argument("--page", type=Path, metavar="HTML", help="write a page to go through the clip, frame by frame")
    given = parser.parse_args(arguments)
    try:
        for line in inspect(given.folder, given.quick, given.index):
            print(line)
        if given.histograms:
            print("\n".join(histograms(Dataset.open(given.folder))))
        if given.sheet:
            sheet(Dataset.open(given.folder), given.clips).save(given.sheet)
            print(f"sheet      {given.sheet}")
        if given.film or given.page:
            _show_clip(Dataset.open(given.folder), given.clip, given.film, given.page)
    except (DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def inspect(folder: Path, quick: bool = False, index: bool = False) -> list[str]:
    """Lines that describe the dataset in `folder`; DataError if it is damaged."""
    for shard in sorted(folder.glob("*.tar")) if index else ():
        write_index(shard)
    dataset = Dataset.open(folder)
    lines = [*_describe(dataset.manifest), *_count(dataset)]
    if not quick:
        dataset.verify()
        lines.append(f"checksums  all {len(dataset.manifest.shards)} shards are as they were written")
    return lines


def sheet(dataset: Dataset, num_clips: int) -> Image.Image:
    """Frames evenly over each of the first `num_clips` clips, a row each; latents as their first three channels."""
    rows = []
    for clip in range(min(num_clips, len(dataset.clips))):
        last = dataset.clips[clip].num_frames - 1
        starts = np.linspace(0, last, _COLUMNS).round().astype(int)
        rows.append(np.concatenate([_picture(dataset.frames(clip, int(start), 1)[0]) for start in starts], axis=1))
    if not rows:
        raise DataError(f"{dataset.folder} has no clips to draw")
    return Image.fromarray(np.concatenate(rows, axis=0))


def _show_clip(dataset: Dataset, key: str, film: Path | None, html: Path | None) -> None:
    """Write the clip called `key`, the first if it is "", as a film or as a page."""
    keys = [clip.key for clip in dataset.clips]
    if not keys or key not in ("", *keys):
        raise DataError(
            f"{dataset.folder} has no clip {key!r}; it has {', '.join(keys[:6]) or 'none'}{', ...' * (len(keys) > 6)}"
        )
    sample, manifest = dataset.read(keys.index(key) if key else 0), dataset.manifest
    if film:
        overlay.save(overlay.drawn(sample, manifest.action_space), manifest.fps, film)
        print(f"film       {film}")
    if html:
        html.write_text(page(sample, manifest.action_space, manifest.fps))
        print(f"page       {html}")


def _picture(frame: np.ndarray) -> np.ndarray:
    if frame.dtype == np.uint8:
        return frame
    channels = frame[[0, min(1, len(frame) - 1), min(2, len(frame) - 1)]].transpose(1, 2, 0).astype(np.float32)
    low, high = channels.min(), channels.max()
    return ((channels - low) / max(high - low, 1e-6) * 255).round().astype(np.uint8)


def _describe(manifest: DatasetManifest) -> list[str]:
    space = manifest.action_space
    channels = f"pointer {space.pointer}, {len(space.buttons)} buttons, {len(space.keys)} keys, {len(space.axes)} axes"
    lines = [
        f"kind       {manifest.kind}, schema version {manifest.schema_version}",
        f"frames     {manifest.width}x{manifest.height} at {manifest.fps:g} a second",
        f"actions    {channels}{', wheel' if space.wheel else ''}",
        f"source     {', '.join(f'{name} {value}' for name, value in manifest.source.items())}",
        f"cursors    {', '.join(cursor.name for cursor in manifest.cursors) or 'none'}",
    ]
    if manifest.latents is not None:
        lines.append(
            f"latents    {len(manifest.latents.mean)} channels, 1/{manifest.latents.stride} of the size, "
            f"VAE {manifest.latents.vae_hash}"
        )
    return lines


def _count(dataset: Dataset) -> list[str]:
    manifest = dataset.manifest
    frames, size = sum(e.num_frames for e in manifest.shards), sum(e.size for e in manifest.shards)
    changed = np.concatenate([np.asarray(clip.changed) for clip in dataset.clips] or [np.zeros(0)])
    lines = [
        f"shards     {len(manifest.shards)}, {size / 1e6:.1f} MB",
        f"clips      {len(dataset.clips)}, {frames} frames, {frames / manifest.fps / 60:.1f} minutes",
        f"changed    {np.mean(changed >= 0.03):.1%} of the frames by 3% of their pixels or more"
        if len(changed)
        else "",
    ]
    events = Counter(
        kind for i in range(len(dataset.clips)) for kinds in dataset.meta(i).get("events", ()) for kind in kinds
    )
    lines.append(f"events     {', '.join(f'{kind} {n}' for kind, n in events.most_common()) or 'none known'}")
    return [line for line in lines if line]


if __name__ == "__main__":
    sys.exit(main())
