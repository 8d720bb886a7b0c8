"""Draw a clip from a text with a trained text-to-video model.

python -m tools.draw runs/shapes/artifact "a red circle moves left behind a green square" --out clip.mp4
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.film import Film
from wm.artifact import World, load
from wm.caption_clips import draw_captions
from wm.conditioning.caption import TextConditionerConfig

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130
DEFAULT_FRAMES = 16  # of a clip by a model that looks back without limit


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; an error is one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.out.suffix != ".mp4":
            raise ValueError(f"--out {options.out} is not an .mp4 file")
        if options.enlarge < 1 or (options.frames is not None and options.frames < 1):
            raise ValueError("--frames and --enlarge are at least 1")
        world = load(options.artifact, options.device)
        clip = draw(world, options.text, options.model, options.steps, options.guidance, options.frames, options.seed)
        _save(clip, options.out, options.enlarge, world.manifest.fps)
    except KeyboardInterrupt:
        print("interrupted; nothing half written was left", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(f"{len(clip)} frames at {world.manifest.fps:g} a second: {options.out}")
    return OK


def draw(
    world: World,
    text: str,
    model: str = "student",
    num_steps: int | None = None,  # None: as many as the model takes by itself
    guidance: float | None = None,  # scale of the text; None: the model's own
    num_frames: int | None = None,  # None: as many as the model attends to
    seed: int = 0,
) -> np.ndarray:
    """The clip (num_frames, H, W, 3) uint8 that a model of `world` makes of `text`; ValueError where it reads none."""
    card = world.manifest.models.get(model)
    if card is None:
        raise ValueError(f"this artifact has no {model}; it has {', '.join(world.manifest.models)}")
    if not isinstance(card.denoiser.conditioner, TextConditionerConfig):
        raise ValueError(f"the {model} of {world.manifest.world} reads no text: play it with `python -m tools.rollout`")
    if guidance is not None:
        card = dataclasses.replace(card, text_guidance_scale=guidance)
        manifest = dataclasses.replace(world.manifest, models={**world.manifest.models, model: card})
        world = dataclasses.replace(world, manifest=manifest)
    frames = num_frames or card.denoiser.dit.window or DEFAULT_FRAMES
    clip = draw_captions(world, (text,), frames, model=model, num_steps=num_steps, seed=seed)
    return clip[0].permute(0, 2, 3, 1).numpy()


def _save(clip: np.ndarray, path: Path, enlarge: int, fps: float) -> None:
    """Write `clip` lossless, each pixel as a square of `enlarge` pixels."""
    large = clip.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    film = Film(path.absolute().parent, *large.shape[1:3])
    try:
        for frame in large:
            film.append(frame)
        film.save(path, fps)
    finally:
        film.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.draw", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path, help="folder that the export stage wrote")
    parser.add_argument("text", help="what the clip shows, as the captions that the model was trained on say it")
    parser.add_argument("--out", type=Path, required=True, metavar="CLIP.mp4", help="the clip to write, lossless")
    parser.add_argument("--frames", type=int, help="of the clip (default: as many as the model attends to)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another clip of the same text")
    parser.add_argument("--model", default="student", help="student, or teacher where the artifact has one")
    parser.add_argument("--steps", type=int, help="model calls a frame (default: the model's own)")
    parser.add_argument("--guidance", type=float, help="how much louder than without text (default: the model's own)")
    parser.add_argument(
        "--enlarge", type=int, default=8, help="pixels of the clip to one of the model (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu or cuda")
    return parser


if __name__ == "__main__":
    sys.exit(main())
