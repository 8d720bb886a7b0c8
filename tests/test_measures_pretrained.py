"""Measures with weights from a folder, on tiny random networks of the published interfaces; what is absent is said."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wm.measures_frechet import frechet_distance
from wm.measures_pretrained import FILES, PretrainedConfig


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        assert return_lpips
        assert not resize_images
        return self.layer(x / 255).flatten(1)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3, stride=2)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        assert x.dtype == torch.uint8
        return self.layer(x.float() / 255).mean((2, 3))


class I3D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(3, 6, 3)

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert return_features
        assert x.shape[1] == 3
        return self.layer(x / 255).mean((2, 3, 4))


NETWORKS = {"lpips": Vgg, "fid": Inception, "fvd": I3D}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    for name, network in NETWORKS.items():
        torch.jit.script(network()).save(tmp_path / FILES[name])
    return tmp_path


def videos(seed: int) -> Tensor:
    return torch.rand(4, 5, 3, 8, 10, generator=torch.Generator().manual_seed(seed))


def test_each_measure_is_its_network_and_its_formula(folder: Path) -> None:
    measure = PretrainedConfig(folder=str(folder), batch=3).build()
    real, made = videos(0), videos(1) * 0.7
    found = measure(real, made)
    assert set(found) == set(NETWORKS)
    networks = {name: torch.jit.load(folder / FILES[name]) for name in NETWORKS}
    whole = [(v * 255).round().to(torch.uint8) for v in (real, made)]
    with torch.no_grad():
        inception = [networks["fid"](v.flatten(0, 1), return_features=True) for v in whole]
        i3d = [networks["fvd"](v.transpose(1, 2).float(), return_features=True) for v in whole]
        vgg = [networks["lpips"](v.flatten(0, 1).float(), resize_images=False, return_lpips=True) for v in whole]
    assert found["fid"] == pytest.approx(frechet_distance(*inception), rel=1e-5)
    assert found["fvd"] == pytest.approx(frechet_distance(*i3d), rel=1e-5)
    assert found["lpips"] == pytest.approx(float((vgg[0] - vgg[1]).square().sum(1).mean()), rel=1e-5)
    same = measure(real, real)
    assert all(value == pytest.approx(0, abs=1e-6) for value in same.values())
    assert measure(whole[0], whole[1]) == pytest.approx(found)  # uint8 is the same video


def test_what_is_absent_is_said_with_the_file(folder: Path) -> None:
    (folder / FILES["fvd"]).unlink()
    measure = PretrainedConfig(folder=str(folder)).build()
    assert set(measure.absent) == {"fvd", "clip_score"}
    assert str(folder / "i3d_torchscript.pt") in measure.absent["fvd"]
    assert set(measure(videos(0), videos(1))) == {"lpips", "fid"}


def test_what_is_no_network_is_one_line(folder: Path) -> None:
    (folder / FILES["fid"]).write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"inception-2015-12-05\.pt is no TorchScript network") as error:
        PretrainedConfig(folder=str(folder), measures=("fid",)).build()(videos(0), videos(1))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="they must be alike"):
        PretrainedConfig(folder=str(folder)).build()(videos(0), videos(1)[:, :2])


def test_clip_score_is_transformers_own_logit(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed here")
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from wm.measures_clip import ClipScore

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 38, "eos_token_id": 39}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).eval()
    with pytest.raises(ValueError, match=r"no .+config\.json"):
        ClipScore(tmp_path)
    model.save_pretrained(tmp_path)
    letters = [chr(ord("a") + i) for i in range(18)]
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "!", "?", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(entries)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    facts = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    frames = torch.rand(3, 3, 8, 8)
    found = ClipScore(tmp_path)(frames, "a bad bed")
    words = CLIPTokenizer.from_pretrained(tmp_path)(["a bad bed"], return_tensors="pt")
    pixels = (frames - torch.tensor(facts["image_mean"]).view(3, 1, 1)) / torch.tensor(facts["image_std"]).view(3, 1, 1)
    with torch.no_grad():
        logits = model(pixel_values=pixels, **words).logits_per_image[:, 0]
    torch.testing.assert_close(found, 100 * logits / model.logit_scale.exp(), rtol=1e-4, atol=1e-4)
    assert ClipScore(tmp_path)(torch.rand(2, 3, 12, 21), "cab").shape == (2,)
    pretrained = tmp_path / "weights"
    pretrained.mkdir()
    (pretrained / "clip").symlink_to(tmp_path)
    measure = PretrainedConfig(folder=str(pretrained), measures=("clip_score",)).build()
    clips = frames.expand(2, 3, 3, 8, 8)
    assert measure(clips, clips, ["a bad bed"] * 2)["clip_score"] == pytest.approx(float(found.mean()), rel=1e-4)
    assert measure(clips, clips) == {}  # no captions, no score
