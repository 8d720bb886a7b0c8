"""The registry of measures of whole videos that an evaluation's config chooses from by name.

A measure is a config with a `kind`; built with what a world gives (Aids), it takes real videos and made ones (Compared) and
returns rows for report.json. A new measure is a class here and a name in `VideoMeasure`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from wm.config import Kind, Named, config
from wm.cursor import Sprite, boxes
from wm.measures import bootstrap
from wm.measures_frechet import diversity, frechet_distance, latent_features, precision_recall
from wm.measures_pretrained import PretrainedConfig
from wm.measures_screen import cursor_psnr, legibility, line_retention
from wm.stages.bench import row, unmeasured

Rows = dict[str, Any]  # measure -> its row in report.json


@dataclass(frozen=True)
class Aids:
    """What a world has for its measures; a measure that misses something says so in its row."""

    encode: Callable[[Tensor], Tensor] | None = None  # (N, T, 3, H, W) uint8 -> latents (N, T, C, h, w)
    sprites: Sequence[Sprite] = ()
    glyphs: Mapping[str, Tensor] = field(default_factory=dict)  # letters of its font, (h, w) bool
    device: torch.device | str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Compared:
    """The same N clips, real and made by S seeds."""

    real: Tensor  # (N, T, 3, H, W) uint8
    made: Tensor  # (S, N, T, 3, H, W) uint8
    pointer: Tensor | None = None  # (N, T, 2) pixels x, y
    captions: Sequence[str] | None = None


@config
class LatentFrechet:
    """Frechet distance in the latents of the world's own tokenizer: no FID, and only for models of one tokenizer."""

    kind: Literal["latent_frechet"] = "latent_frechet"
    grid: int = 2

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        if aids.encode is None:
            return {self.kind: unmeasured("there is no tokenizer to take latents of")}
        real, made = _features(compared, aids, self.grid)
        return {self.kind: {"value": _rounded(frechet_distance(real, made)), "trials": len(made)}}


@config
class PrecisionRecall:
    """Which share of the made frames lies among the real ones, and of the real among the made, in latents."""

    kind: Literal["precision_recall"] = "precision_recall"
    grid: int = 2
    neighbours: int = 3

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        if aids.encode is None:
            return {name: unmeasured("there is no tokenizer to take latents of") for name in ("precision", "recall")}
        real, made = _features(compared, aids, self.grid)
        found = zip(("precision", "recall"), precision_recall(real, made, self.neighbours), strict=True)
        return {name: {"value": _rounded(value), "trials": len(made)} for name, value in found}


@config
class Diversity:
    """How far apart, in latents, what different seeds made of the same start is; needs seeds of at least 2."""

    kind: Literal["diversity"] = "diversity"
    grid: int = 2

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        if aids.encode is None or len(compared.made) < 2:
            missing = (
                "there is no tokenizer to take latents of"
                if aids.encode is None
                else "one seed has nothing to differ from"
            )
            return {self.kind: unmeasured(missing)}
        encode = aids.encode
        features = torch.stack([latent_features(encode, made, self.grid) for made in compared.made])
        return {self.kind: {"value": _rounded(diversity(features)), "trials": len(compared.real)}}


@config
class Pretrained(PretrainedConfig):
    """LPIPS, FID, FVD, CLIP score by published weights in `folder`; what is absent is named in its row."""

    kind: Literal["pretrained"] = "pretrained"

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        network = self.build(aids.device)
        real = compared.real.repeat(len(compared.made), 1, 1, 1, 1)
        captions = None if compared.captions is None else [*compared.captions] * len(compared.made)
        made = compared.made.flatten(0, 1)
        rows: Rows = {name: unmeasured(why) for name, why in network.absent.items()}
        for name, value in network(real, made, captions).items():
            rows[name] = {"value": _rounded(value), "trials": len(made)}
        for name in network.paths.keys() - rows.keys():
            rows[name] = unmeasured("these clips have no captions")
        return rows


@config
class Legibility:
    """The share of letters in the real frames that the made ones show as the same letters."""

    kind: Literal["legibility"] = "legibility"

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        if not aids.glyphs:
            return {self.kind: unmeasured("this world says of no font what its letters look like")}
        made, real = _frames(compared)
        found = legibility(made, real, aids.glyphs)
        return _share(self.kind, found.right.float(), found.frame, compared, aids, "no text is in sight")


@config
class Lines:
    """The share of pixels of 1-pixel lines that stay lines."""

    kind: Literal["line_retention"] = "line_retention"
    shortest_px: int = 8

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        kept, count = line_retention(*_frames(compared), self.shortest_px)
        some = count > 0
        where = torch.nonzero(some)[:, 0]
        return _share(self.kind, kept[some] / count[some], where, compared, aids, "no lines are in sight")


@config
class CursorPSNR:
    """PSNR of the pixels where the cursor is."""

    kind: Literal["cursor_psnr_db"] = "cursor_psnr_db"
    margin_px: int = 1

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        if not aids.sprites or compared.pointer is None:
            return {self.kind: unmeasured("this world has no cursor")}
        made, real = _frames(compared)
        pointer = compared.pointer.flatten(0, 1).repeat(len(compared.made), 1)
        height, width = real.shape[-2:]
        found = cursor_psnr(made, real, boxes(pointer, aids.sprites, height, width, self.margin_px))
        seen = torch.nonzero(found.isfinite())[:, 0]
        return _share(self.kind, found[seen], seen, compared, aids, "the cursor is in no frame")


VideoMeasure = Annotated[
    LatentFrechet | PrecisionRecall | Diversity | Pretrained | Legibility | Lines | CursorPSNR, Kind, Named
]


@config
class VideosConfig:
    """Which measures are taken of whole videos, and of how many."""

    measures: tuple[VideoMeasure, ...] = ()
    clips: int = 16
    frames: int = 16  # of each, after the context
    seeds: int = 1  # that make each clip

    def measure(self, compared: Compared, aids: Aids) -> Rows:
        """The rows of all measures; ValueError where two write the same one."""
        rows: Rows = {}
        for measure in self.measures:
            found = measure.measure(compared, aids)
            twice = sorted(rows.keys() & found.keys())
            if twice:
                raise ValueError(f"{twice[0]} is measured twice: name {measure.kind} once in the config's measures")
            rows |= found
        return rows


def _frames(compared: Compared) -> tuple[Tensor, Tensor]:
    """Made frames (S N T, 3, H, W) and the real ones that they stand against."""
    made = compared.made.flatten(0, 2)
    return made, compared.real.flatten(0, 1).repeat(len(compared.made), 1, 1, 1)


def _features(compared: Compared, aids: Aids, grid: int) -> tuple[Tensor, Tensor]:
    assert aids.encode is not None
    made = [latent_features(aids.encode, one, grid) for one in compared.made]
    return latent_features(aids.encode, compared.real, grid), torch.cat(made)


def _share(name: str, values: Tensor, frame: Tensor, compared: Compared, aids: Aids, none: str) -> Rows:
    """The mean of `values` (K,), of frames number `frame` (K,), with an interval over clips."""
    if not len(values):
        return {name: unmeasured(none)}
    num, length = compared.real.shape[:2]
    clip = (frame // length % num).numpy()
    mean = bootstrap(values.numpy().astype(np.float64), lambda x: float(x.mean()), groups=clip, seed=aids.seed)
    return {name: row(mean)}


def _rounded(value: float) -> float:
    return round(value, 4)
