"""The tokenizer's stage with other losses, other critics and an encoder that goes on learning."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_stages
import torch
from tiny_stages import FAST, NUM_STEPS, batch, context, make
from torch import Tensor

from wm.artifact import load_vae
from wm.config import from_dict, to_dict
from wm.losses import Charbonnier, Gradient
from wm.losses.importance import importance
from wm.models.vae import to_unit_range
from wm.stages.train_vae import TrainVAEConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_stages.make_root(tmp_path / "tiny")


def trained(root: Path, learner: Any = FAST, steps: int = 4, **changes: Any) -> tuple[Any, list[dict[str, float]]]:
    """The stage after some steps, of which the first two are without the critic, and what it said of each."""
    stage = make("train_vae", context(root), learner, critic_start=2 / NUM_STEPS, **changes)
    found = [stage.step(batch(step, "train_vae")) for step in range(steps)]
    return stage, [{name: float(value) for name, value in metrics.items()} for metrics in found]


def saved_encoder(stage: Any, folder: Path) -> dict[str, Tensor]:
    stage.finish(folder)
    return load_vae(folder / "weights")[0].encoder.state_dict()


@pytest.mark.parametrize(
    "learner", [FAST, dataclasses.replace(FAST, precision="bfloat16")], ids=["float32", "bfloat16"]
)
def test_every_setting_at_once_trains_and_is_logged(root: Path, learner: Any) -> None:
    terms = (Charbonnier(), Gradient())
    _, found = trained(
        root,
        learner,
        reconstruction=terms,
        change_weight=2.0,
        critic_loss="logistic",
        adaptive_critic=True,
        r1_weight=0.1,
    )
    said = {"reconstruction", "reconstruction/charbonnier", "reconstruction/gradient", "psnr_db"}
    assert said | {"kl"} <= found[0].keys()
    assert said | {"fooling", "critic_share", "critic/r1", "critic/real", "critic/made"} <= found[3].keys()
    assert all(torch.tensor(list(metrics.values())).isfinite().all() for metrics in found)
    assert found[3]["critic_share"] > 0
    assert found[3]["critic/r1"] > 0
    total = found[0]["reconstruction/charbonnier"] + 0.5 * found[0]["reconstruction/gradient"]
    assert found[0]["reconstruction"] == pytest.approx(total, rel=1e-4)


def test_the_default_loss_is_what_it_always_was(root: Path) -> None:
    stage, _ = trained(root, steps=0)
    now = batch(0, "train_vae")
    loss, metrics = stage.autoencoder_loss(now)
    video = to_unit_range(now.video)
    made, posterior = stage.vae.module(video, stage._noise(now))
    error = (made - video).square() + 0.1 * (made - video).abs()
    expected = (error * importance(video, 2.0, 0.0)).mean() + 1e-4 * posterior.kl()
    assert torch.equal(loss, expected)
    assert set(metrics) == {"reconstruction", "kl", "psnr_db"}


def test_the_encoder_freezes_with_the_critic_or_goes_on_by_choice(root: Path) -> None:
    for freeze in (True, False):
        stage, _ = trained(root, steps=3, freeze_encoder=freeze)
        before = saved_encoder(stage, root / f"{freeze}-3")
        metrics = stage.step(batch(3, "train_vae"))
        after = saved_encoder(stage, root / f"{freeze}-4")
        assert all(torch.equal(before[name], after[name]) for name in before) == freeze
        assert ("kl" in metrics) == (not freeze)


def test_the_adaptive_critic_pulls_by_its_weight_whatever_its_scale(root: Path) -> None:
    """A critic that is ten times as loud moves the decoder no further."""
    pulls = []
    for loud in (1.0, 10.0):
        stage, _ = trained(root, steps=2, adaptive_critic=True, critic_weight=0.5)
        with torch.no_grad():
            for parameter in stage.critic.module.layers[-1].parameters():
                parameter *= loud
        stage.encoder.copy_from(stage.vae)
        stage._train_only(stage.vae.module.decoder)
        loss, _ = stage.fooling_loss(batch(2, "train_vae"))
        loss.backward()
        pulls.append(torch.cat([p.grad.flatten() for p in stage.vae.module.decoder.parameters()]))
    torch.testing.assert_close(pulls[0], pulls[1], atol=1e-5, rtol=1e-3)


def test_settings_are_read_and_what_zero_3_cannot_is_refused() -> None:
    tree = {"reconstruction": ["l1", {"kind": "edge", "weight": 0.3}, {"kind": "perceptual", "folder": "/weights"}]}
    config = from_dict(TrainVAEConfig, tree)
    assert from_dict(TrainVAEConfig, to_dict(config)) == config
    assert [term.kind for term in config.reconstruction] == ["l1", "edge", "perceptual"]
    partitioned = dataclasses.replace(FAST, zero_stage=3)
    for changes in ({"r1_weight": 1.0}, {"adaptive_critic": True}):
        with pytest.raises(ValueError, match="zero_stage of at most 2"):
            TrainVAEConfig(critic_learner=partitioned, **changes)  # type: ignore[arg-type]
