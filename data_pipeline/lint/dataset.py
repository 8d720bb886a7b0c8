"""All checks over one or several datasets: each clip is read once and goes through every check."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.lint import actions, frames, leakage, reading, timing
from data_pipeline.lint.actions import Coverage
from data_pipeline.lint.clip import Clip
from data_pipeline.lint.finding import Finding, Limits
from data_pipeline.schema import DatasetManifest
from data_pipeline.shards import MANIFEST

HELDOUT = "heldout"  # name of the folder whose clips must not be in the others


@dataclass
class Report:
    """What was read and what was found."""

    folders: list[str] = field(default_factory=list)
    num_clips: int = 0
    num_frames: int = 0
    findings: list[Finding] = field(default_factory=list)


def folders_of(folder: Path) -> list[Path]:
    """The datasets that `folder` is: itself, or those directly in it (as `recordings` has train and heldout)."""
    inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return inside if inside and not (folder / MANIFEST).exists() else [folder]


def lint(folders: Sequence[Path], num_clips: int | None = None, limits: Limits = Limits()) -> Report:
    """All findings in the datasets `folders`; `num_clips` of each are read, all if None.

    Among several, those called "heldout" are compared with the others for clips that both have.
    """
    report = Report()
    manifests: dict[str, DatasetManifest] = {}
    traces: dict[bool, list[leakage.Trace]] = {True: [], False: []}
    for folder in folders:
        report.folders.append(str(folder))
        dataset = reading.open_dataset(folder)
        if isinstance(dataset, Finding):
            report.findings.append(dataset)
            continue
        manifests[str(folder)] = dataset.manifest
        report.findings += reading.sizes(dataset)
        summary = _Summary(str(folder), limits)
        for clip in reading.clips(dataset, num_clips):
            if isinstance(clip, Finding):
                report.findings.append(clip)
                continue
            report.num_clips, report.num_frames = report.num_clips + 1, report.num_frames + len(clip)
            report.findings += _clip_findings(clip, dataset.manifest, limits)
            report.findings += summary.add(clip)
            traces[folder.name == HELDOUT].append(leakage.trace(clip))
        report.findings += summary.findings()
    report.findings += _mixtures(manifests)
    report.findings += leakage.leaks(traces[False], traces[True], limits)
    return report


def _clip_findings(clip: Clip, manifest: DatasetManifest, limits: Limits) -> Iterator[Finding]:
    yield from frames.size_and_rate(clip, manifest)
    yield from frames.latent_values(clip, manifest)
    for check in (
        actions.ranges,
        actions.edges,
        actions.stuck,
        frames.brightness,
        frames.frozen,
        frames.idle,
        timing.clock,
    ):
        yield from check(clip, limits)


class _Summary:
    """What is judged over all clips of a dataset together."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where, self.limits = where, limits
        self._coverage = Coverage(limits)
        self._marks: list[timing.Marks] = []
        self._frames = self._idle = 0

    def add(self, clip: Clip) -> Iterator[Finding]:
        """Findings that need nothing but this clip come at once."""
        self._coverage.add(clip)
        self._frames += len(clip)
        self._idle += int((~clip.acted & (clip.changed == 0)).sum())
        if clip.video is not None and clip.space.pointer == "absolute":
            self._marks.append(timing.marks(clip, self.limits))
            yield from timing.steps(clip, self._marks[-1], self.limits)

    def findings(self) -> Iterator[Finding]:
        yield from timing.offset(self._marks, self.where, self.limits)
        yield from frames.idle_share(self._idle, self._frames, self.where, self.limits)
        yield from self._coverage.findings(self.where)


def _mixtures(manifests: dict[str, DatasetManifest]) -> Iterator[Finding]:
    """Datasets that cannot be used together: another size, rate or meaning of the actions than the first."""
    if not manifests:
        return
    (first, ours), *others = manifests.items()
    for folder, manifest in others:
        for check, a, b in (
            ("resolution", f"{ours.width}x{ours.height}", f"{manifest.width}x{manifest.height}"),
            ("frame rate", f"{ours.fps:g} frames a second", f"{manifest.fps:g} frames a second"),
            ("actions", str(ours.action_space), str(manifest.action_space)),
        ):
            if a != b:
                yield Finding("error", check, folder, f"it has {b}, {first} has {a}: they cannot be used together")
