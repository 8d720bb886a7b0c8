"""Evaluation of text to video: clips drawn from held-out captions, and whether they show what the captions say."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from wm.caption_match import Match, match_rates, verdicts
from wm.config import config, content_hash
from wm.durable import write_text
from wm.measures import mean_interval, psnr
from wm.precision import Precision
from wm.stages.bench import row
from wm.stages.evaluate import Reconstruct, Target, listed_units, read_unit
from wm.stages.pictures import save_png, strip
from wm.stages.video_measures import Aids, Compared, VideoMeasure, VideosConfig

VAE = "vae"  # the unit of the tokenizer alone


class DrawCaptions(Protocol):
    """(captions, num_frames) -> (B, num_frames, 3, H, W) uint8; `wm.caption_clips.draw_captions` of a world."""

    def __call__(
        self, captions: tuple[str, ...], num_frames: int, *, model: str, num_steps: int, seed: int
    ) -> Tensor: ...


def caption_targets(unit: str) -> tuple[Target, ...]:
    """At least 0.8 of the clips right in each aspect that a caption is made of."""
    return tuple(
        Target(name=f"{aspect} as the caption says", measure=f"{unit}.{aspect}.value", at_least=0.8)
        for aspect in ("colour", "shape", "direction")
    )


@config
class EvaluateCaptionsConfig:
    """Which models draw how many clips, from the captions of the held-out recordings."""

    kind: Literal["evaluate_captions"] = "evaluate_captions"
    vae: str = "vae"  # folders under the world's root
    teacher: str | None = "dit"  # none where only a student is evaluated
    student: str | None = None
    weak: str | None = None  # a worse one, for the autoguidance of the others
    recordings: str = "recordings/heldout"
    precision: Precision = "float32"  # of the networks while they are measured
    teacher_steps: tuple[int, ...] = (16,)
    student_steps: tuple[int, ...] = (2,)
    num_clips: int = 128  # a unit
    batch: int = 32  # drawn at once
    shown_clips: int = 12  # in the pictures
    measures: tuple[VideoMeasure, ...] = ()  # of the drawn clips against the recorded ones, by name
    targets: tuple[Target, ...] = caption_targets("teacher-16")

    def __post_init__(self) -> None:
        self.units()

    def units(self) -> tuple[tuple[str, int], ...]:
        """Every (model, number of steps) that is measured, the teacher first."""
        return listed_units(self.teacher, self.teacher_steps, self.student, self.student_steps)

    def build(
        self,
        *,
        folder: Path,
        draw_captions: DrawCaptions,
        reconstruct: Reconstruct,
        videos: Tensor,  # (N, T, 3, H, W) uint8, held out
        captions: Sequence[str],
        match: Match,
        seed: int,
        fingerprint: str,  # of the weights: a unit that was measured on other ones is measured again
        aids: Aids | None = None,  # of the further measures
    ) -> "CaptionEvaluation":
        """An evaluation that writes into `folder`; ValueError where there are fewer captions than clips to draw."""
        if len(captions) < self.num_clips:
            raise ValueError(
                f"{self.recordings} has {len(captions)} captions and num_clips is {self.num_clips}: record more, or draw fewer"
            )
        count = self.num_clips
        return CaptionEvaluation(
            self,
            folder,
            draw_captions,
            reconstruct,
            videos[:count],
            tuple(captions[:count]),
            match,
            seed,
            fingerprint,
            aids or Aids(seed=seed),
        )


@dataclass(frozen=True)
class CaptionEvaluation:
    """Takes the measures. Each unit is a JSON file with the hash of what it was measured on, and a picture beside it."""

    config: EvaluateCaptionsConfig
    folder: Path
    draw_captions: DrawCaptions
    reconstruct: Reconstruct
    videos: Tensor
    captions: tuple[str, ...]
    match: Match
    seed: int
    fingerprint: str
    aids: Aids

    def measure_vae(self) -> dict[str, Any]:
        """The unit of the tokenizer: PSNR of held-out clips, and whether they still show what their captions say.

        `real_all` is the rate of the recordings themselves, which an exact parser makes 1.
        """

        def probe() -> dict[str, Any]:
            made = self.reconstruct(self.videos.flatten(0, 1)).view_as(self.videos)
            db = row(mean_interval(psnr(made, self.videos).mean(1)))
            real = match_rates(verdicts(list(self.videos), self.captions, self.match))
            return {**self._judged(VAE, made), "psnr_db": db, "real_all": row(real["all"])}

        return self._once(VAE, probe)

    def measure(self, model: str, steps: int) -> dict[str, Any]:
        """The unit of `model` at `steps`: the rate of right clips by aspect, and how many frames it draws a second."""

        def probe() -> dict[str, Any]:
            start = time.perf_counter()
            made = self.draw(model, steps)
            seconds, num_frames = time.perf_counter() - start, made.shape[0] * made.shape[1]
            further = VideosConfig(measures=self.config.measures)
            rows = further.measure(Compared(self.videos, made[None], captions=self.captions), self.aids)
            speed = round(num_frames / seconds, 2)
            return {**self._judged(f"{model}-{steps}", made), **rows, "frames_per_second": speed}

        return self._once(f"{model}-{steps}", probe)

    def draw(self, model: str, steps: int) -> Tensor:
        """A clip for each caption, (N, T, 3, H, W) uint8."""
        parts = []
        for start in range(0, len(self.captions), self.config.batch):
            text = self.captions[start : start + self.config.batch]
            num_frames, seed = self.videos.shape[1], self.seed + start
            parts.append(self.draw_captions(text, num_frames, model=model, num_steps=steps, seed=seed))
        return torch.cat(parts)

    def _judged(self, name: str, made: Tensor) -> dict[str, Any]:
        """Rates by aspect, the single verdicts of the clips that are shown, and where their picture is."""
        found = verdicts(list(made), self.captions, self.match)
        shown, file = self.config.shown_clips, f"{name}/clips.png"
        save_png(self.folder / file, strip(list(made[:shown])))
        clips = [{"caption": c, **v} for c, v in zip(self.captions[:shown], found[:shown], strict=True)]
        return {**{k: row(v) for k, v in match_rates(found).items()}, "clips": clips, "picture": file}

    def _once(self, name: str, probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path, digest = self.folder / f"{name}.json", self._digest()
        done = read_unit(path)
        if done is not None and done["hash"] == digest:
            return done
        start = time.perf_counter()
        unit: dict[str, Any] = {"hash": digest, "measures": probe()}
        unit["seconds"] = round(time.perf_counter() - start, 2)
        write_text(path, json.dumps(unit, indent=1, allow_nan=False))
        return unit

    def _digest(self) -> str:
        """What a unit depends on: config (not the targets), weights, captions, clips, seed."""
        plain = content_hash(replace(self.config, targets=()))
        digest = hashlib.sha256("\n".join([plain, self.fingerprint, str(self.seed), *self.captions]).encode())
        digest.update(self.videos.numpy().tobytes())
        return digest.hexdigest()[:16]
