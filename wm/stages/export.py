"""The trained networks become one artifact folder, which loads without Ray, DeepSpeed, WebDataset or xformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from wm import artifact
from wm.artifact import Start, World
from wm.conditioning.caption import TextConditionerConfig
from wm.config import config
from wm.stages.context import DatasetFacts


@config
class ExportConfig:
    kind: Literal["export"] = "export"
    vae: str = "vae"  # folders of the stages that trained them, under the root
    student: str = "distill"
    teacher: str | None = "dit"  # None leaves it out
    weak: str | None = None  # a worse one, for the autoguidance of the others
    context_frames: int = 8  # real frames a rollout starts from

    def build(self, root: Path, device: torch.device) -> "Export":
        return Export(self, root, device)


class Export:
    def __init__(self, config: ExportConfig, root: Path, device: torch.device) -> None:
        self.config, self.root, self.device = config, root, device

    def write(
        self,
        folder: Path,
        starts: Sequence[Start],
        facts: DatasetFacts,
        environment: Mapping[str, Any] | None,  # config of what was recorded, to play it beside the model
    ) -> None:
        """Write the artifact at `folder`; ValueError where the networks and the dataset do not belong together."""
        config = self.config
        others = {"teacher": config.teacher, "weak": config.weak}
        names = {"student": config.student} | {name: stage for name, stage in others.items() if stage}
        world = artifact.assemble(
            self.root / config.vae / "weights",
            {name: self.root / stage / "weights" for name, stage in names.items()},
            world=self.root.name,
            context_frames=config.context_frames,
            environment=dict(environment) if environment else None,
            starts=starts,
            device=self.device,
        )
        if world.manifest.action_space != facts.action_space:
            raise ValueError(
                f"the student knows the controls {world.manifest.action_space} and the recordings have "
                f"{facts.action_space}: they are of different worlds"
            )
        artifact.save(world, folder, model_card(world))


def model_card(world: World) -> str:
    """The README of an artifact: what it is, what it was made for, how to play it."""
    manifest, student = world.manifest, world.manifest.models["student"]
    space = manifest.action_space
    parameters = sum(p.numel() for p in world.models["student"].parameters())
    keys = ", ".join(space.keys) or "none"
    if isinstance(student.denoiser.conditioner, TextConditionerConfig):
        what, use = "A model that draws clips", "Draw a clip:\n\n    python -m tools.draw FOLDER TEXT --out clip.mp4"
        given = "a text" + (", the mouse and the keyboard" if student.denoiser.conditioner.action else "")
    else:
        what, use = "A world model that draws the next screen", "Play it:\n\n    python -m tools.rollout FOLDER"
        given = "the mouse and the keyboard"
    return f"""# {manifest.world}

{what} of `{manifest.world}` from {given}.

- screen: {manifest.width}x{manifest.height} pixels, {manifest.fps:g} frames a second
- student: {parameters:,} parameters, {student.num_steps} model calls a frame ({student.sampler.kind})
- controls: pointer {space.pointer}; buttons {", ".join(space.buttons) or "none"}; keys {keys}
- memory: {student.denoiser.dit.window} frames

{use}

It imitates what it was shown. It is no emulator: what it draws can be wrong, and nothing it shows is a record of anything.
Weights are safetensors; `manifest.yaml` holds their hashes, the controls, the statistics of the latents and the step schedule.
"""
