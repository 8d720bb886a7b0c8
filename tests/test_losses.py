"""The tokenizer's losses: zero where nothing is wrong, closed forms, blur and thin lines, and a critic that is held in check."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from wm.losses import L1, Charbonnier, Edge, Gradient, Mixed, Perceptual, Reconstruction
from wm.losses.adversarial import adaptive_share, critic_loss, fooling_loss, r1_penalty
from wm.losses.gradient import laplacian
from wm.losses.importance import changes, edges, importance
from wm.losses.perceptual import VGG, imagenet

B, T, HEIGHT, WIDTH = 2, 3, 24, 36
TERMS = [Mixed(), L1(), Charbonnier(), Edge(), Gradient()]


def video(seed: int = 0) -> Tensor:
    return torch.rand(B, T, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


ONES = torch.ones(B, T, 1, HEIGHT, WIDTH)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.kind)
def test_a_term_is_nothing_at_the_truth_and_descends_to_it(term: Any) -> None:
    loss, real = term.build("cpu"), video()
    assert loss(real, real, ONES) == 0
    made = video(1).requires_grad_()
    value = loss(made, real, ONES)
    (slope,) = torch.autograd.grad(value, made)
    assert loss(made - 1e-2 * slope / slope.abs().max(), real, ONES) < value
    torch.testing.assert_close(loss(made, real, 3 * ONES), 3 * value)


def test_terms_agree_with_torchs_own() -> None:
    made, real = video(1), video()
    torch.testing.assert_close(L1().build("cpu")(made, real, ONES), F.l1_loss(made, real))
    expected = F.mse_loss(made, real) + 0.1 * F.l1_loss(made, real)
    torch.testing.assert_close(Mixed().build("cpu")(made, real, ONES), expected)
    sharp = Charbonnier(epsilon=1e-6).build("cpu")(made, real, ONES)
    torch.testing.assert_close(sharp, F.l1_loss(made, real), atol=1e-5, rtol=0)
    d = torch.full((1, 1, 1, 1, 1), 3e-3)
    assert Charbonnier(epsilon=4e-3).build("cpu")(d, 0 * d, 1 + 0 * d) == pytest.approx(1e-3, rel=1e-4)
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).view(1, 1, 3, 3)
    expected = F.conv2d(made.reshape(-1, 1, HEIGHT, WIDTH), kernel).view(B, T, 3, HEIGHT - 2, WIDTH - 2)
    torch.testing.assert_close(laplacian(made)[..., 1:-1, 1:-1], expected, atol=1e-5, rtol=0)
    assert laplacian(torch.ones(1, 2, 3, 5, 7)).abs().max() == 0


def test_lost_text_counts_for_more_than_an_equal_shift_of_brightness() -> None:
    """What edge and gradient terms are for: one missing line of a pixel outweighs the same squared error spread evenly."""
    real = torch.ones(1, 1, 3, HEIGHT, WIDTH)
    real[..., 10, 4:30] = -1.0
    without, darker = torch.ones_like(real), real - (26 * 4 / (HEIGHT * WIDTH)) ** 0.5
    ones = torch.ones(1, 1, 1, HEIGHT, WIDTH)
    torch.testing.assert_close(F.mse_loss(without, real), F.mse_loss(darker, real))
    assert L1().build("cpu")(without, real, ones) < L1().build("cpu")(darker, real, ones)
    for term in (Edge(), Gradient()):
        loss = term.build("cpu")
        assert loss(darker, real, ones) < 1e-6
        assert loss(without, real, ones) > 0.1


def test_a_gradient_of_more_scales_sees_coarser_steps() -> None:
    """A slow slope is little from pixel to pixel; at a quarter of the size it is four times as steep."""
    ramp = torch.linspace(0, 1, WIDTH).expand(1, 1, 3, HEIGHT, WIDTH)
    ones = torch.ones(1, 1, 1, HEIGHT, WIDTH)
    one, three = (Gradient(scales=n).build("cpu")(ramp, torch.zeros_like(ramp), ones) for n in (1, 3))
    torch.testing.assert_close(one, torch.tensor(1 / (WIDTH - 1)))
    torch.testing.assert_close(three, one * (1 + 2 + 4) / 3)
    with pytest.raises(ValueError, match="at least 1"):
        Gradient(scales=0)


def test_the_sum_weighs_its_terms_and_names_them() -> None:
    made, real = video(1), video()
    terms = (L1(weight=0.5), Gradient(weight=2.0))
    total, found = Reconstruction(terms)(made, real, ONES)
    assert set(found) == {"l1", "gradient"}
    torch.testing.assert_close(total, 0.5 * found["l1"] + 2.0 * found["gradient"])
    for wrong in ((), (L1(), L1())):
        with pytest.raises(ValueError, match="at least one, and each once"):
            Reconstruction(wrong)


def test_importance_lies_on_edges_and_changes() -> None:
    clip = torch.zeros(1, 3, 3, 8, 10)
    clip[:, :, :, :, 5:] = 1.0  # an edge that stays
    clip[:, 1:, :, 2, 1] = 1.0  # a dot that comes
    moved = torch.nonzero(changes(clip))
    assert moved.tolist() == [[0, 1, 0, 2, 1]]
    counts = importance(clip, 2.0, 4.0)
    assert counts.shape == (1, 3, 1, 8, 10)
    assert (counts[0, 0, 0, 7, 0], counts[0, 0, 0, 7, 5], counts[0, 1, 0, 2, 1]) == (1.0, 3.0, 7.0)
    assert torch.equal(importance(clip, 2.0, 0.0), 1.0 + 2.0 * edges(clip))


def test_logistic_losses_are_the_cross_entropies() -> None:
    real, made = torch.randn(4, 3), torch.randn(4, 3)
    expected = F.binary_cross_entropy_with_logits(real, torch.ones(4, 3))
    expected += F.binary_cross_entropy_with_logits(made, torch.zeros(4, 3))
    torch.testing.assert_close(critic_loss(real, made, "logistic"), expected)
    fooled = F.binary_cross_entropy_with_logits(made, torch.ones(4, 3))
    torch.testing.assert_close(fooling_loss(made, "logistic"), fooled)
    torch.testing.assert_close(fooling_loss(made, "hinge", torch.full((4,), 2.0)), 2 * fooling_loss(made))


def test_the_penalty_is_the_squared_slope_and_its_gradient_reaches_the_critic() -> None:
    critic, frames = nn.Linear(6, 1, bias=False), torch.randn(4, 6).requires_grad_()
    penalty = r1_penalty(critic(frames), frames)
    torch.testing.assert_close(penalty, critic.weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(critic.weight.grad, 2 * critic.weight.detach())


def test_the_adaptive_share_makes_both_pulls_equal_in_every_sample_alone_or_together() -> None:
    made, real = video(1).requires_grad_(), video()
    scale = torch.tensor([1.0, 50.0]).view(B, 1, 1, 1, 1)

    def losses(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        verdict = (made[rows] * scale[rows]).tanh()
        return (made[rows] - real[rows]).square().mean(), fooling_loss(verdict), verdict

    reconstruction, fooling, verdict = losses(slice(None))
    share = adaptive_share(reconstruction, fooling, made)
    pulls = [
        torch.autograd.grad(loss, made, retain_graph=True)[0].flatten(1).norm(dim=1)
        for loss in (reconstruction, fooling_loss(verdict, "hinge", share))
    ]
    torch.testing.assert_close(pulls[0], pulls[1])
    assert abs(share[0] - share[1]).item() > 0.1 * share[1].item()
    alone = adaptive_share(*losses(slice(1, 2))[:2], made)
    torch.testing.assert_close(alone[1], share[1])


def vgg_weights(folder: Path) -> dict[str, Tensor]:
    torch.manual_seed(0)
    weights = VGG().state_dict()
    save_file({**weights, "classifier.0.weight": torch.zeros(2)}, folder / "vgg16.safetensors")
    return weights


def test_vgg_reads_what_torchvision_publishes_and_descends(tmp_path: Path) -> None:
    weights = vgg_weights(tmp_path)
    # Numbers of torchvision's vgg16().features.
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
    assert set(weights) == {f"features.{n}.{part}" for n in convolutions for part in ("weight", "bias")}
    loss, real = Perceptual(folder=str(tmp_path)).build("cpu"), video()
    assert loss(real, real, ONES) == 0
    made = video(1).requires_grad_()
    value = loss(made, real, ONES)
    (slope,) = torch.autograd.grad(value, made)
    assert loss(made - 1e-2 * slope / slope.abs().max(), real, ONES) < value
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 2 - 1
    assert imagenet(grey).abs().max() < 1e-6


class Features(nn.Module):
    """Takes what the published LPIPS network takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, images: Tensor, resize_images: bool = False, return_lpips: bool = False) -> Tensor:
        return self.layer(images / 255).flatten(1)


def test_lpips_is_the_networks_squared_distance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Features()
    torch.jit.script(network).save(tmp_path / "vgg16.pt")
    made, real = video(1).requires_grad_(), video()
    loss = Perceptual(network="lpips", folder=str(tmp_path)).build("cpu")(made, real, ONES)
    apart = [network((clip.flatten(0, 1) + 1) * 127.5) for clip in (made, real)]
    torch.testing.assert_close(loss, (apart[0] - apart[1]).square().sum(-1).mean())
    assert torch.autograd.grad(loss, made)[0].abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dino", "dinov2"])
def test_dino_reads_a_folder_of_transformers(tmp_path: Path, model: str) -> None:
    import transformers

    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    if model == "dino":
        network: Any = transformers.ViTModel(transformers.ViTConfig(**settings, image_size=16, patch_size=8))
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**settings, image_size=14, patch_size=7))
    network.save_pretrained(tmp_path)
    loss, real = Perceptual(network="dino", folder=str(tmp_path)).build("cpu"), video()
    assert loss(real, real, ONES).abs() < 1e-6
    made = video(1).requires_grad_()
    value = loss(made, real, ONES)
    assert value > 1e-4
    assert torch.autograd.grad(value, made)[0].abs().sum() > 0


@pytest.mark.parametrize(("network", "file"), [("vgg", "vgg16"), ("lpips", "vgg16.pt"), ("dino", "config.json")])
def test_absent_weights_are_named(tmp_path: Path, network: Any, file: str) -> None:
    with pytest.raises(FileNotFoundError, match=file) as caught:
        Perceptual(network=network, folder=str(tmp_path)).build("cpu")
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "vgg16.pt").write_bytes(b"nothing")
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg16.safetensors")
    if network != "dino":
        with pytest.raises(ValueError, match="is no"):
            Perceptual(network=network, folder=str(tmp_path)).build("cpu")
