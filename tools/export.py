"""Make an artifact of a run at any time: of what its stages left, or of a checkpoint of one that still trains.

python -m tools.export runs/desktop_sim --out worlds/desktop_sim
python -m tools.export runs/desktop_sim --student distill@50 --teacher none --out worlds/early
python -m tools.export runs/desktop_sim --student dit@950 --teacher none --out worlds/teacher-alone
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.entry import OK, guarded, spoken
from launch.exporting import finish_checkpoint, write_artifact
from wm.artifact import load_denoiser
from wm.config import ConfigError
from wm.stages.export import ExportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong input, 130 interrupted."""
    options = _parser().parse_args(argv)
    command = spoken("tools.export", argv)
    return guarded(lambda: export(options), command, options.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a world's outputs, as runs/desktop_sim")
    parser.add_argument("--out", type=Path, required=True, help="the artifact folder; an artifact there is replaced")
    stage = "STAGE or STAGE@STEP, a checkpoint; a stage that has not ended gives its newest"
    parser.add_argument("--student", default="distill", metavar="STAGE", help=f"{stage} (default: %(default)s)")
    parser.add_argument("--teacher", default="dit", metavar="STAGE", help="the same, or none (default: %(default)s)")
    parser.add_argument("--vae", default="vae", metavar="STAGE", help="the same (default: %(default)s)")
    parser.add_argument("--recordings", default="recordings/heldout", help="where play starts (default: %(default)s)")
    parser.add_argument("--context-frames", type=int, help="real frames it starts from (default: the student's window)")
    parser.add_argument("--trust-checkpoint", action="store_true", help="take another user's checkpoint too")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def export(options: argparse.Namespace) -> int:
    """Write the artifact that `options` ask for and say what is in it."""
    root, out = options.run, options.out
    if not root.is_dir():
        raise ConfigError(f"no folder {root}; give the outputs of a world, as runs/desktop_sim")
    if out.exists() and any(out.iterdir()) and not (out / "manifest.yaml").is_file():
        raise ConfigError(f"{out} is there already and is no artifact: name a folder that may be made or replaced")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as scratch:
        vae, student, teacher = (
            _stage(root, given, Path(scratch), options.trust_checkpoint)
            for given in (options.vae, options.student, options.teacher)
        )
        assert vae is not None
        if student is None:
            raise ConfigError("--student is none: an artifact is played by its student; name the stage that trained it")
        settings = ExportConfig(
            vae=vae,
            student=student,
            teacher=teacher,
            context_frames=options.context_frames or load_denoiser(root / student / "weights")[1].denoiser.dit.window,
        )
        result = write_artifact(settings, root, root / options.recordings, out)
    print(f"{out}: {result['num_starts']} starts, {result['bytes'] / 1e6:.1f} MB; python -m tools.rollout {out}")
    return OK


def _stage(root: Path, given: str, scratch: Path, trust: bool) -> str | None:
    """The folder, relative to `root`, that has the weights of what `given` names; None for none."""
    if given == "none":
        return None
    stage, at, step = given.partition("@")
    if at and not step.isdecimal():
        raise ConfigError(f"{given}: the step after @ is a number, as in {stage}@100")
    if not (root / stage / "config.yaml").is_file():
        raise ConfigError(f"no stage {stage} in {root}: it has not begun, or goes by another name")
    if not at and (root / stage / "weights").is_dir():
        return stage
    folder = scratch / stage
    reached = finish_checkpoint(root, stage, int(step) if at else None, folder, trust)
    print(f"{stage}: the average of step {reached}")
    return str(folder.relative_to(root))


if __name__ == "__main__":
    sys.exit(main())
