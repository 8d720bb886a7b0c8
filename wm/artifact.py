"""What later stages and serving load: weights as safetensors, config as YAML, a manifest with hashes. Never a pickle.

A training stage leaves its averaged weights in a folder (`save_weights`); `assemble` makes a World of such folders;
`save` and `load` carry a World as one artifact folder. Needs neither Ray, DeepSpeed, WebDataset nor xformers.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wm.batch import Action, ActionSpace
from wm.config import ConfigError, Kind, config, dump, from_dict, to_dict
from wm.config import load as load_config
from wm.durable import sync
from wm.flow import FlowConfig
from wm.guidance import GuidanceLimits
from wm.models.denoiser import Denoiser, DenoiserConfig, WorldShape
from wm.models.vae import LatentScale, VideoVAE, VideoVAEConfig
from wm.samplers import SamplerConfig
from wm.time_grids import TimesConfig

FORMAT_VERSION = 2  # 2: the frame before is given, memories hold how frames began
Start = tuple[Tensor, Action]  # frames (T, 3, H, W) uint8 with their actions (1, T): where a rollout can begin
Module = TypeVar("Module", bound=nn.Module)


class ArtifactError(ValueError):
    """A folder that does not hold what it should; the message names the folder and what to do."""


@config
class VAEWeights:
    kind: Literal["vae"] = "vae"
    vae: VideoVAEConfig
    latents: str = ""  # hash of the tokenizer whose latents these are, where its encoder was taken over


@config
class DenoiserWeights:
    """All that is needed to play a denoiser besides its tokenizer."""

    kind: Literal["denoiser"] = "denoiser"
    denoiser: DenoiserConfig
    shape: WorldShape
    flow: FlowConfig
    mean: tuple[float, ...]  # of the raw latents, a channel each
    std: tuple[float, ...]
    vae_hash: str  # of the tokenizer whose latents it draws
    context_level: float  # noise level at which past frames are shown to it
    sampler: SamplerConfig
    num_steps: int  # model calls a frame unless asked otherwise
    shift: float  # of the time grid
    times: TimesConfig | None = None  # another grid than the shifted one
    # A place of a frame of which no latent would change by so much, in their standard deviations, stays exactly as it was.
    rest_below: float = 0.0
    guidance_scale: float = 1.0
    text_guidance_scale: float = 1.0  # of the text alone
    history_guidance_scale: float = 1.0  # of the frames before
    autoguidance_scale: float = 1.0  # away from the world's weak model
    guidance_limits: GuidanceLimits = GuidanceLimits()


@config
class WeightsConfig:
    model: Annotated[VAEWeights | DenoiserWeights, Kind]


@config
class Manifest:
    format_version: int
    world: str
    fps: float
    height: int  # pixels
    width: int
    context_frames: int  # real frames a rollout starts from
    vae: VideoVAEConfig
    models: dict[str, DenoiserWeights]  # "student", perhaps "teacher", perhaps "weak" that autoguidance leads away from
    environment: dict[str, Any] | None  # config of the environment that was recorded, to play it beside the model
    files: dict[str, str]  # name -> sha256
    versions: dict[str, str]

    @property
    def action_space(self) -> ActionSpace:
        return self.models["student"].shape.action_space


@dataclass(frozen=True)
class World:
    """Networks ready to be played, on one device."""

    manifest: Manifest
    vae: VideoVAE
    models: Mapping[str, Denoiser]
    starts: Sequence[Start] = field(default=())

    def __post_init__(self) -> None:
        if self.vae.temporal_stride != 1:
            raise ArtifactError(
                f"the tokenizer makes one latent of {self.vae.temporal_stride} frames, and a world is played an action a "
                "frame: give it one of temporal_stride 1"
            )

    def scale(self, model: str) -> LatentScale:
        return LatentScale(self.manifest.models[model].mean, self.manifest.models[model].std)


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(folder: Path, weights: Mapping[str, Tensor], model: VAEWeights | DenoiserWeights) -> None:
    """Write float32 `weights` and what they belong to as `folder`, replacing it whole or not at all."""
    partial = _fresh(folder)
    save_file(
        {name: value.detach().float().contiguous() for name, value in weights.items()}, partial / "model.safetensors"
    )
    dump(WeightsConfig(model=model), partial / "model.yaml")
    _publish(partial, folder)


def load_vae(folder: Path, device: torch.device | str = "cpu") -> tuple[VideoVAE, str]:
    """The tokenizer saved in `folder`, in evaluation mode and frozen, and the hash that its latents carry."""
    model = _read_weights_config(folder)
    if not isinstance(model, VAEWeights):
        raise ArtifactError(f"{folder} holds a {model.kind}, not a tokenizer")
    path = folder / "model.safetensors"
    return _loaded(model.vae.build(), path, device), model.latents or file_hash(path)[:16]


def load_denoiser(folder: Path, device: torch.device | str = "cpu") -> tuple[Denoiser, DenoiserWeights]:
    """The denoiser saved in `folder`, in evaluation mode and frozen, and what it was trained for."""
    model = _read_weights_config(folder)
    if not isinstance(model, DenoiserWeights):
        raise ArtifactError(f"{folder} holds a {model.kind}, not a denoiser")
    return _loaded(model.denoiser.build(model.shape), folder / "model.safetensors", device), model


def assemble(
    vae_folder: Path,
    model_folders: Mapping[str, Path],  # "student", perhaps "teacher" and "weak" -> weights folder
    *,
    world: str,
    context_frames: int,
    environment: dict[str, Any] | None = None,
    starts: Sequence[Start] = (),
    device: torch.device | str = "cpu",
) -> World:
    """A World of what the training stages left; ArtifactError where a model was trained on another tokenizer's latents."""
    vae, vae_hash = load_vae(vae_folder, device)
    loaded = {name: load_denoiser(folder, device) for name, folder in model_folders.items()}
    for name, (_, model) in loaded.items():
        if model.vae_hash != vae_hash:
            raise ArtifactError(
                f"the {name} in {model_folders[name]} was trained on latents of tokenizer {model.vae_hash}, but "
                f"{vae_folder} holds {vae_hash}: encode the latents and train again"
            )
    shape = next(iter(loaded.values()))[1].shape
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        world=world,
        fps=shape.action_space.fps,
        height=shape.rows * shape.stride,
        width=shape.columns * shape.stride,
        context_frames=context_frames,
        vae=vae.config,
        models={name: model for name, (_, model) in loaded.items()},
        environment=environment,
        files={},
        versions={"torch": torch.__version__, "safetensors": safetensors.__version__},
    )
    return World(manifest, vae, {name: denoiser for name, (denoiser, _) in loaded.items()}, tuple(starts))


def save(world: World, folder: Path, card: str) -> None:
    """Write `world` as one folder with `card` as its README, replacing it whole or not at all."""
    partial = _fresh(folder)
    save_file(_contiguous(world.vae.state_dict()), partial / "vae.safetensors")
    for name, denoiser in world.models.items():
        save_file(_contiguous(denoiser.state_dict()), partial / f"{name}.safetensors")
    save_file(_pack_starts(world.starts), partial / "starts.safetensors")
    files = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
    manifest = {**to_dict(world.manifest), "files": files}
    dump(from_dict(Manifest, manifest), partial / "manifest.yaml")
    (partial / "README.md").write_text(card)
    _publish(partial, folder)


def load(folder: Path, device: torch.device | str = "cpu") -> World:
    """The World in `folder`; ArtifactError where it is absent, of another version, or not what its manifest says."""
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, expected in manifest.files.items():
        if not (folder / name).is_file() or file_hash(folder / name) != expected:
            raise ArtifactError(
                f"{folder / name} is missing or damaged (its sha256 is not the manifest's): export again"
            )
    vae = _loaded(manifest.vae.build(), folder / "vae.safetensors", device)
    models = {
        name: _loaded(model.denoiser.build(model.shape), folder / f"{name}.safetensors", device)
        for name, model in manifest.models.items()
    }
    return World(manifest, vae, models, _unpack_starts(load_file(folder / "starts.safetensors")))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.yaml"
    if not path.is_file():
        raise ArtifactError(
            f"no artifact in {folder} (no manifest.yaml): make one with the export stage, or `make demo`"
        )
    try:
        return _checked_version(load_config(Manifest, path), folder)
    except ConfigError as error:
        raise ArtifactError(f"{error}; this program reads artifacts of format {FORMAT_VERSION}: export again") from None


def _checked_version(manifest: Manifest, folder: Path) -> Manifest:
    if manifest.format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder} is an artifact of format {manifest.format_version}; this program reads format {FORMAT_VERSION}: "
            "export again with this version"
        )
    return manifest


def _read_weights_config(folder: Path) -> VAEWeights | DenoiserWeights:
    if not (folder / "model.yaml").is_file():
        raise ArtifactError(f"no weights in {folder}: run the stage that trains them first")
    return load_config(WeightsConfig, folder / "model.yaml").model


def _loaded(module: Module, path: Path, device: torch.device | str) -> Module:
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{path} does not hold the weights that its folder promises ({reason}): make it again"
        ) from None
    return module.to(device).eval().requires_grad_(False)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _pack_starts(starts: Sequence[Start]) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for number, (frames, action) in enumerate(starts):
        packed[f"{number}.frames"] = frames.contiguous()
        for name, value in vars(action).items():
            packed[f"{number}.action.{name}"] = value.contiguous()
    return packed


def _unpack_starts(packed: Mapping[str, Tensor]) -> tuple[Start, ...]:
    numbers = sorted({int(name.split(".")[0]) for name in packed})
    fields = Action.__dataclass_fields__
    return tuple(
        (packed[f"{n}.frames"], Action(**{name: packed[f"{n}.action.{name}"] for name in fields})) for n in numbers
    )


def _fresh(folder: Path) -> Path:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _publish(partial: Path, folder: Path) -> None:
    """Put `partial` in the place of `folder`; a kill in between leaves the old one under another name, never a mixture."""
    for path in (*partial.iterdir(), partial):
        sync(path)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
