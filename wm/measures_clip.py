"""How well frames fit a caption: CLIP's cosine (Hessel et al. 2021, CLIPScore), by transformers from a local folder."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from wm.measures import unit


class ClipScore:
    """(frames (T, 3, H, W), caption) -> 100 times the cosine of each frame with the caption, (T,)."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        for name in ("config.json", "preprocessor_config.json"):
            if not (folder / name).exists():
                raise ValueError(f"CLIP score needs a folder that transformers saved a CLIP into: no {folder / name}")
        self._model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        facts = json.loads((folder / "preprocessor_config.json").read_text())
        self._mean, self._std = (
            torch.tensor(facts[key], device=device).view(3, 1, 1) for key in ("image_mean", "image_std")
        )
        self._size = self._model.config.vision_config.image_size
        self._device = device

    @torch.no_grad()
    def __call__(self, frames: Tensor, caption: str) -> Tensor:
        # CLIP reads 77 tokens and no more; what a caption has beyond is unheard, as it was in its training.
        words = self._tokenizer([caption], return_tensors="pt", truncation=True).to(self._device)
        made = self._model(pixel_values=self._pixels(frames), **words)
        return 100 * F.cosine_similarity(made.image_embeds, made.text_embeds)

    def _pixels(self, frames: Tensor) -> Tensor:
        """The shorter side to the model's size, the middle square, normalised, as CLIP was trained."""
        height, width = frames.shape[-2:]
        scale = self._size / min(height, width)
        size = max(self._size, round(height * scale)), max(self._size, round(width * scale))
        whole = F.interpolate(unit(frames).to(self._device), size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - self._size) // 2, (size[1] - self._size) // 2
        return (whole[..., top : top + self._size, left : left + self._size] - self._mean) / self._std
