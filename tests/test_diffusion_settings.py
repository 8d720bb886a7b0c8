"""What a config can choose for a teacher reaches its training and its card, and does not reach its student."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import B, T, batch, context, make, make_root
from torch import Tensor

from wm.config import from_dict, load, to_dict
from wm.flow import Flow
from wm.guidance import GuidanceLimits
from wm.samplers import Consistency, UniPC
from wm.stages.train_dit import TrainDiTConfig
from wm.time_grids import KarrasTimes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("run"))


def chosen(**tree: Any) -> dict[str, Any]:
    """Fields of a TrainDiTConfig, read as from a file."""
    config = from_dict(TrainDiTConfig, tree)
    assert from_dict(TrainDiTConfig, to_dict(config)) == config
    return {name: getattr(config, name) for name in tree}


CHOICES = (
    {"flow": {"path": "ve", "prediction": "v"}, "levels": {"kind": "log_normal"}, "level_weight": {"kind": "edm"}},
    {"levels": {"kind": "mode", "size_shift": {"kind": "root", "base": 16}}, "level_weight": {"kind": "min_snr"}},
    {
        "flow": {"path": "vp_cosine", "prediction": "v"},
        "levels": {"kind": "rolling"},
        "level_weight": {"kind": "sigmoid"},
    },
    {"levels": {"kind": "clean_start", "most": 2}, "level_weight": {"kind": "power", "power": 0.5}},
)


@pytest.mark.parametrize("tree", CHOICES, ids=lambda tree: tree["levels"]["kind"])
def test_every_choice_trains(root: Path, tree: dict[str, Any]) -> None:
    stage = make("train_dit", context(root), **chosen(**tree))
    before = {name: value.clone() for name, value in stage.denoiser.weights().items()}
    losses = [float(stage.step(batch(step, "train_dit"))["loss"]) for step in range(3)]
    assert all(0 < loss < 20 for loss in losses)
    assert any(not torch.equal(before[name], value) for name, value in stage.denoiser.weights().items())


def test_what_is_said_of_clean_frames_costs_nothing(root: Path) -> None:
    stage = make("train_dit", context(root), **chosen(levels={"kind": "clean_start", "least": 2, "most": 2}))
    clean_seen = []

    def saying(nonsense: float) -> Any:
        def denoiser(x_t: Tensor, t: Tensor, *_: Any, **__: Any) -> Tensor:
            clean_seen.append(int((t == 0).sum()))
            return nonsense * (t == 0).float()[..., None, None, None] * torch.ones_like(x_t)

        return denoiser

    losses = []
    for nonsense in (0.0, 100.0):
        stage.denoiser = saying(nonsense)
        losses.append(float(stage.loss(batch(0, "train_dit"))[0]))
    assert clean_seen == [2 * B, 2 * B]
    assert T > 2
    assert losses[0] == losses[1] > 0


def test_the_card_of_a_teacher_has_its_settings_and_that_of_a_student_its_own(root: Path) -> None:
    tree = {"sampler": {"kind": "unipc", "order": 3}, "times": {"kind": "karras"}, "guidance_limits": {"highest": 0.9}}
    card = make("train_dit", context(root), **chosen(**tree)).weights_card()
    assert (card.sampler, card.times, card.guidance_limits) == (
        UniPC(order=3),
        KarrasTimes(),
        GuidanceLimits(highest=0.9),
    )
    student = make("distill", context(root))
    student.card = card
    own = student.weights_card()
    assert (own.sampler, own.times, own.guidance_limits) == (Consistency(), None, GuidanceLimits())


@pytest.mark.parametrize("world", ["smoke", "desktop_sim", "desktop"])
def test_the_levels_of_the_worlds_at_hand_are_unchanged_by_the_flow_that_is_now_given(world: str) -> None:
    """`rollout` levels are a function of the seed alone, and all of their frames are learned."""
    from wm.levels import draw_levels, frames_to_learn

    tree = load(dict, Path("configs") / world / "dit.yaml")["stage"]
    config = from_dict(TrainDiTConfig, tree)
    index = torch.arange(8)
    alone = draw_levels(config.levels, 1, 2, index, 6)
    assert torch.equal(draw_levels(config.levels, 1, 2, index, 6, config.flow.build(), 600), alone)
    assert bool((frames_to_learn(alone) == 1).all())
    assert isinstance(config.flow.build(), Flow)
