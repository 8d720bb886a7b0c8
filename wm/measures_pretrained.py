"""LPIPS, FID, FVD and CLIP score with published weights from a local folder. Nothing is downloaded; what is absent is said.

The folder holds, of those that are wanted,

- `vgg16.pt`, the TorchScript network of StyleGAN2-ADA and 3 whose features' squared distance is LPIPS,
- `inception-2015-12-05.pt`, their TorchScript Inception for FID,
- `i3d_torchscript.pt`, the TorchScript I3D of StyleGAN-V for FVD,
- `clip`, a folder that transformers saved a CLIP into.

TorchScript files run code: take them from their authors. Videos are (B, T, 3, H, W) in [0, 1], or uint8.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wm.config import config
from wm.measures import unit
from wm.measures_frechet import frechet_distance

Name = Literal["lpips", "fid", "fvd", "clip_score"]
FILES: dict[str, str] = {
    "lpips": "vgg16.pt",
    "fid": "inception-2015-12-05.pt",
    "fvd": "i3d_torchscript.pt",
    "clip_score": "clip",
}
Network = Callable[..., Tensor]


@config
class PretrainedConfig:
    folder: str  # where the weights are
    measures: tuple[Name, ...] = ("lpips", "fid", "fvd", "clip_score")
    batch: int = 16  # frames, or clips for fvd, that go through a network at once

    def build(self, device: torch.device | str = "cpu") -> "PretrainedMeasures":
        return PretrainedMeasures(self, device)


class PretrainedMeasures:
    """(real, made, captions) -> the measures whose weights are there; `absent` says in a line why each other is not."""

    def __init__(self, config: PretrainedConfig, device: torch.device | str = "cpu") -> None:
        self._config, self._device = config, torch.device(device)
        paths: dict[str, Path] = {name: Path(config.folder) / FILES[name] for name in config.measures}
        self.paths = {name: path for name, path in paths.items() if path.exists()}
        self.absent = {
            name: f"{name} is left out: there is no {path}; put the published weights there"
            for name, path in paths.items()
            if name not in self.paths
        }

    @torch.no_grad()
    def __call__(self, real: Tensor, made: Tensor, captions: Sequence[str] | None = None) -> dict[str, float]:
        """By name. lpips compares frame by frame; fid and fvd compare sets; clip_score needs a caption for each clip."""
        if real.shape[1:] != made.shape[1:] or ("lpips" in self.paths and len(real) != len(made)):
            raise ValueError(
                f"real videos are {tuple(real.shape)} and made ones {tuple(made.shape)}: they must be alike"
            )
        found: dict[str, float] = {}
        for name in self.paths:
            match name:
                case "lpips":
                    found[name] = float(self.lpips(real, made).mean())
                case "fid":
                    found[name] = frechet_distance(self._of_frames(real), self._of_frames(made))
                case "fvd":
                    found[name] = frechet_distance(self._of_clips(real), self._of_clips(made))
                case "clip_score" if captions is not None:
                    found[name] = self._clip_score(made, captions)
        return found

    def lpips(self, real: Tensor, made: Tensor) -> Tensor:
        """Perceptual distance of each frame, (B, T) (Zhang et al. 2018, equation 1)."""
        ask = functools.partial(self._network("lpips"), resize_images=False, return_lpips=True)
        one, other = (self._through(ask, _bytes(video).flatten(0, 1).float()) for video in (real, made))
        return (one - other).square().sum(-1).view(real.shape[:2])

    def _of_frames(self, video: Tensor) -> Tensor:
        ask = functools.partial(self._network("fid"), return_features=True)
        return self._through(ask, _bytes(video).flatten(0, 1))

    def _of_clips(self, video: Tensor) -> Tensor:
        ask = functools.partial(self._network("fvd"), rescale=True, resize=True, return_features=True)
        return self._through(ask, _bytes(video).transpose(1, 2).float())

    def _clip_score(self, made: Tensor, captions: Sequence[str]) -> float:
        from wm.measures_clip import ClipScore  # transformers takes seconds to import

        score = ClipScore(self.paths["clip_score"], self._device)
        return float(torch.cat([score(clip, captions[i]) for i, clip in enumerate(made)]).mean())

    def _network(self, name: str) -> Network:
        return _load(self.paths[name], self._device)

    def _through(self, network: Network, items: Tensor) -> Tensor:
        return torch.cat([network(part.to(self._device)).cpu() for part in items.split(self._config.batch)])


def _bytes(video: Tensor) -> Tensor:
    """`video` as uint8, which all of the published networks were fed with."""
    return video if video.dtype == torch.uint8 else (unit(video) * 255).round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=4)
def _load(path: Path, device: torch.device) -> Any:
    try:
        return torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{path} is no TorchScript network: {str(error).strip().splitlines()[0]}") from None
