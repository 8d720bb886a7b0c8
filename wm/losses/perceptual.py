"""Distance as seen by a network that learned to see, with published weights from a local folder. Nothing is downloaded.

- `vgg`: torchvision's VGG16 as `vgg16.safetensors` (`safetensors.torch.save_file` of its state; a .pth is a pickle);
- `lpips`: `vgg16.pt`, the TorchScript network of StyleGAN2-ADA and 3, which measures_pretrained.py reads too;
- `dino`: a DINO or DINOv2 as `save_pretrained` of transformers leaves it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from wm.config import config

FILES = {"vgg": ("vgg16.safetensors",), "lpips": ("vgg16.pt",), "dino": ("config.json",)}
# Convolutions of VGG16 by width, M a halving; features are taken before each halving but the last (relu 1_2 ... 4_3).
VGG16: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512)
Distance = Callable[[Tensor, Tensor], Tensor]  # of frames (N, 3, H, W) in [-1, 1], (N,)


@config
class Perceptual:
    kind: Literal["perceptual"] = "perceptual"
    weight: float = 0.1
    network: Literal["vgg", "lpips", "dino"] = "vgg"
    folder: str  # where its weights are

    def build(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The term; FileNotFoundError that names what was looked for. Pixels' importance means nothing to it."""
        distance = {"vgg": _vgg, "lpips": _lpips, "dino": _dino}[self.network](self._path(), torch.device(device))

        def term(made: Tensor, video: Tensor, importance: Tensor) -> Tensor:
            return distance(made.flatten(0, 1), video.flatten(0, 1)).mean()

        return term

    def _path(self) -> Path:
        names = FILES[self.network]
        for name in names:
            if (Path(self.folder) / name).exists():
                return Path(self.folder) / name
        raise FileNotFoundError(
            f"no {' or '.join(names)} in {self.folder}: put the weights of {self.network} there, or leave the perceptual "
            "term out (the edge and gradient terms need no weights)"
        )


class VGG(nn.Module):
    """Frames (N, 3, H, W) in [-1, 1] -> features at four depths (Simonyan & Zisserman 2015, configuration D)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG16:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> list[Tensor]:
        x, found = imagenet(frames), []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return [*found, x]


def imagenet(frames: Tensor) -> Tensor:
    """Frames in [-1, 1] with the mean and deviation of ImageNet's photographs, as these networks were trained."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=frames.device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=frames.device).view(3, 1, 1)
    return ((frames + 1) / 2 - mean) / std


def feature_distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Squared distance of features of unit length, mean over places, summed over depths (Zhang et al. 2018, eq. 1, w = 1)."""
    apart = [
        (F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)).square().sum(1)
        for a, b in zip(one, other, strict=True)
    ]
    return torch.stack([layer.mean((-2, -1)) for layer in apart]).sum(0)


def _vgg(path: Path, device: torch.device) -> Distance:
    network = VGG()
    loaded = load_file(path)
    wanted = network.state_dict()
    missing = sorted(name for name in wanted if name not in loaded)
    if missing:
        raise ValueError(f"{path} is no VGG16: it has no {missing[0]}")
    network.load_state_dict({name: loaded[name] for name in wanted})
    network = network.to(device).eval().requires_grad_(False)
    return lambda made, video: feature_distance(network(made), network(video))


def _lpips(path: Path, device: torch.device) -> Distance:
    try:
        network: Any = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{path} is no TorchScript network: {str(error).strip().splitlines()[0]}") from None
    for parameter in network.parameters():  # requires_grad_ of a script module is refused
        parameter.requires_grad_(False)

    def features(frames: Tensor) -> Tensor:
        found: Tensor = network((frames + 1) * 127.5, resize_images=False, return_lpips=True)
        return found

    return lambda made, video: (features(made) - features(video)).square().sum(-1)


def _dino(path: Path, device: torch.device) -> Distance:
    from wm.losses.dino import patch_tokens  # transformers takes seconds to import

    tokens = patch_tokens(path.parent, device)
    return lambda made, video: 1 - F.cosine_similarity(tokens(made), tokens(video), dim=-1).mean(-1)
