"""Evaluation: every measure of the report, taken on held-out recordings, one resumable unit a model and number of steps."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from wm.batch import ActionSpace
from wm.config import config, content_hash, to_dict
from wm.cursor import Sprite
from wm.durable import write_text
from wm.measures import TransitionRule, bootstrap, psnr, ssim
from wm.precision import Precision
from wm.stages.bench import VAE, Bench, Counts, OpenSession, Session, Sighting, row
from wm.stages.pictures import save_animation, save_png, strip
from wm.stages.probes import cursor_error, probe
from wm.stages.trials import Clip, pointer_pixels
from wm.stages.video_clips import measured_model, measured_tokenizer
from wm.stages.video_measures import Aids, VideosConfig

__all__ = [
    "Clip",
    "EvaluateConfig",
    "Evaluation",
    "OpenSession",
    "Reconstruct",
    "Session",
    "Target",
    "listed_units",
    "reconstruction",
]

# (N, 3, H, W) uint8 through the VAE and back.
Reconstruct = Callable[[Tensor], Tensor]

VAE_BATCH_FRAMES = 32


class Tokenizer(Protocol):
    """What is asked of a VAE; `wm.models.vae.VideoVAE` is one."""

    def encode(self, video: Tensor) -> Any: ...
    def decode(self, latents: Tensor) -> Tensor: ...


def listed_units(
    teacher: str | None, teacher_steps: Sequence[int], student: str | None, student_steps: Sequence[int]
) -> tuple[tuple[str, int], ...]:
    """Every (model, number of steps), the teacher first; ValueError where there is none."""
    given = (("teacher", teacher, teacher_steps), ("student", student, student_steps))
    units = tuple((model, n) for model, folder, steps in given if folder for n in steps)
    if not units:
        raise ValueError("nothing to measure: name a teacher or a student, and numbers of steps for it")
    return units


@config
class Target:
    """A number that the report is held against: `measure`, less `relative_to` where given, at least or at most."""

    name: str
    measure: str  # dotted path in report.json
    relative_to: str | None = None
    at_least: float | None = None
    at_most: float | None = None


_STUDENT = "student.2."
TARGETS = (
    Target(name="VAE PSNR, dB", measure="vae.psnr_db.value", at_least=33.0),
    Target(name="cursor error, median px", measure=_STUDENT + "cursor_error_px.median", at_most=1.0),
    Target(name="transition accuracy", measure=_STUDENT + "transition_accuracy.value", at_least=0.70),
    Target(name="idle stability, dB", measure=_STUDENT + "idle_stability_db.value", at_least=30.0),
    Target(name="drift, dB per 100 frames", measure=_STUDENT + "drift_db_per_100_frames.value", at_least=-1.5),
    Target(
        name="next frame at 2 steps, dB above the teacher",
        measure=_STUDENT + "next_frame_psnr_db.value",
        relative_to="teacher.16.next_frame_psnr_db.value",
        at_least=-1.0,
    ),
    Target(
        name="next frame at 1 step, dB above the teacher",
        measure="student.1.next_frame_psnr_db.value",
        relative_to="teacher.16.next_frame_psnr_db.value",
        at_least=-2.5,
    ),
    Target(name="speed, frames a second", measure="speed." + _STUDENT + "frames_per_second.value", at_least=10.0),
)


@config
class EvaluateConfig:
    """What is evaluated, how much, by which rule and against which targets."""

    kind: Literal["evaluate"] = "evaluate"
    vae: str = "vae"  # folders under the world's root
    teacher: str | None = "dit"  # none where only a student is evaluated
    student: str | None = "distill"
    weak: str | None = None  # a worse one, for the autoguidance of the others
    recordings: str = "recordings/heldout"
    precision: Precision = "float32"  # of the networks while they are measured
    teacher_steps: tuple[int, ...] = (16,)
    student_steps: tuple[int, ...] = (1, 2, 4)
    vae_frames: int = 256
    counts: Counts = Counts()
    transition_rule: TransitionRule = TransitionRule()
    videos: VideosConfig = VideosConfig()  # further measures, by name
    targets: tuple[Target, ...] = TARGETS

    def __post_init__(self) -> None:
        self.units()

    def units(self) -> tuple[tuple[str, int], ...]:
        """Every (model, number of steps) that is measured, the teacher first."""
        return listed_units(self.teacher, self.teacher_steps, self.student, self.student_steps)

    def all_units(self) -> tuple[tuple[str, int], ...]:
        """The tokenizer alone, then every (model, number of steps)."""
        return (VAE, *self.units())

    def build(
        self,
        *,
        folder: Path,
        open_session: OpenSession,
        reconstruct: Reconstruct,
        clips: Sequence[Clip],
        cursors: Sequence[tuple[str, tuple[int, int], Tensor]],
        space: ActionSpace,
        seed: int,
        fingerprint: str = "",
        aids: Aids | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> "Evaluation":
        """An evaluation that writes into `folder`; `aids` are what the measures of whole videos need besides.

        `fingerprint` names the weights (their hashes): a unit that was measured on other ones is measured again. `kinds` are
        the transitions that the world has, by kind what each means: those that no clip shows are reported too.
        ValueError when there is nothing to evaluate on.
        """
        if not clips:
            raise ValueError(f"no held-out clips in {self.recordings}: record some, nothing can be measured on none")
        longest, context = max(len(clip) for clip in clips), self.counts.context_frames
        if longest <= context:
            raise ValueError(f"held-out clips have at most {longest} frames; context_frames={context} needs one more")
        sprites = tuple(Sprite(*cursor) for cursor in cursors) if space.pointer == "absolute" else ()
        aids = dataclasses.replace(aids or Aids(), sprites=sprites, seed=seed)
        return Evaluation(
            self, folder, open_session, reconstruct, tuple(clips), sprites, space, seed, fingerprint, aids, kinds or {}
        )


@dataclass(frozen=True)
class Evaluation:
    """Takes the measures. Each unit is a JSON file with the hash of what it was measured on, and pictures beside it."""

    config: EvaluateConfig
    folder: Path
    open_session: OpenSession
    reconstruct: Reconstruct
    clips: tuple[Clip, ...]
    sprites: tuple[Sprite, ...]
    space: ActionSpace
    seed: int
    fingerprint: str
    aids: Aids
    kinds: Mapping[str, str]

    def units(self) -> tuple[tuple[str, int], ...]:
        """The models and numbers of steps to call `measure` with, in any order and any process."""
        return self.config.units()

    def measure(self, model: str, steps: int) -> dict[str, Any]:
        """The unit of `model` at `steps`: {"measures", "details", "pictures": {name: file in folder}, "seconds"}.

        Not taken again when `folder` holds it, measured with the same config on the same weights and clips.
        """
        name = f"{model}-{steps}"
        return self._once(name, lambda: self._probe(name, model, steps))

    def measure_vae(self) -> dict[str, Any]:
        """The unit of the tokenizer alone: PSNR and SSIM, each the mean over held-out frames, and the cursor's error.

        `cursor_instrument_px` is the error on the real frames: what the measuring itself adds.
        """
        return self._once("vae", self._probe_vae)

    def measure_all(self) -> None:
        """Every unit, here and now."""
        self.measure_vae()
        for model, steps in self.units():
            self.measure(model, steps)

    def _probe(self, name: str, model: str, steps: int) -> dict[str, Any]:
        bench = self._bench(model, steps)
        found = probe(bench)
        found.measures |= measured_model(self.config.videos, bench, self.aids)
        pictures = self._save(name, found.pictures)
        if found.animation is not None:
            pictures["animation"] = f"{name}/rollout.webp"
            save_animation(self.folder / pictures["animation"], found.animation, self.space.fps)
        return {"measures": found.measures, "details": found.details, "pictures": pictures}

    def _bench(self, model: str, steps: int) -> Bench:
        return Bench(
            open_session=self.open_session,
            model=model,
            num_steps=steps,
            clips=self.clips,
            sprites=self.sprites,
            space=self.space,
            counts=self.config.counts,
            rule=self.config.transition_rule,
            seed=self.seed,
            kinds=self.kinds,
        )

    def _probe_vae(self) -> dict[str, Any]:
        places = [(c, i) for c, clip in enumerate(self.clips) for i in range(len(clip))]
        places = places[:: max(1, -(-len(places) // self.config.vae_frames))]
        real = torch.stack([self.clips[c].video[i] for c, i in places])
        made = self.reconstruct(real).cpu()
        groups = np.array([c for c, _ in places])
        values = {"psnr_db": psnr(made, real), "ssim": ssim(made, real)}
        measures = {
            name: row(bootstrap(v.numpy(), lambda x: float(x.mean()), groups=groups, seed=self.seed))
            for name, v in values.items()
        }
        pointers = [pointer_pixels(self.clips[c].action[:, i : i + 1], *real.shape[-2:])[0] for c, i in places]
        for name, frames in (("cursor_error_px", made), ("cursor_instrument_px", real)):
            sighting = Sighting(frames, torch.cat(pointers), groups)
            measures |= cursor_error(self.sprites, [sighting], self.seed, name).measures
        measures |= measured_tokenizer(self.config.videos, self._bench(*VAE), self.reconstruct, self.aids)
        columns = self.config.counts.strip_trials
        shown = torch.arange(min(columns, len(real))) * max(1, len(real) // columns)
        picture = strip([real[shown], made[shown]])
        return {"measures": measures, "details": {}, "pictures": self._save("vae", {"reconstruction": picture})}

    def _save(self, name: str, pictures: dict[str, np.ndarray]) -> dict[str, str]:
        for title, picture in pictures.items():
            save_png(self.folder / name / f"{title}.png", picture)
        return {title: f"{name}/{title}.png" for title in pictures}

    def _once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path, digest = self.folder / f"{name}.json", self._digest()
        done = read_unit(path)
        if done is not None and done["hash"] == digest:
            return done
        start = time.perf_counter()
        unit = {"hash": digest, **measure()}
        unit["seconds"] = round(time.perf_counter() - start, 2)
        write_text(path, json.dumps(unit, indent=1, allow_nan=False))
        return unit

    def _digest(self) -> str:
        """What a unit depends on: config (not the targets), weights, clips, cursor, seed."""
        plain = dataclasses.replace(self.config, targets=())
        parts = [content_hash(plain), self.fingerprint, str(self.seed), json.dumps(to_dict(self.space))]
        digest = hashlib.sha256("\n".join(parts).encode())
        for clip in self.clips:
            digest.update(clip.video.numpy().tobytes())
            digest.update(clip.action.pointer.numpy().tobytes())
            digest.update(repr(clip.events).encode())
        for sprite in self.sprites:
            digest.update(repr(sprite.hotspot).encode() + sprite.rgba.numpy().tobytes())
        return digest.hexdigest()[:16]


def reconstruction(vae: Tokenizer, device: torch.device | str = "cpu") -> Reconstruct:
    """Frames (N, 3, H, W) uint8 through the mean of `vae`'s posterior and back, in small batches, on `device`."""

    @torch.no_grad()
    def reconstruct(frames: Tensor) -> Tensor:
        made = []
        for part in frames.split(VAE_BATCH_FRAMES):
            video = part.to(device).float() / 127.5 - 1
            back = vae.decode(vae.encode(video[:, None]).mean)[:, 0]
            made.append(((back.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
        return torch.cat(made)

    return reconstruct


def read_unit(path: Path) -> dict[str, Any] | None:
    """The unit at `path`, None where there is none or a half-written one."""
    try:
        unit = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return unit if isinstance(unit, dict) and "hash" in unit else None
