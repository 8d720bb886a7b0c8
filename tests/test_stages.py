"""The training stages on tiny networks: they learn, resume bit for bit, freeze what must stay, and fit together."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tiny_stages
import tiny_world
import torch
from gloo_ranks import run_ranks
from tiny_stages import FAST, NUM_STEPS, B, T, batch, context, make, open_batches, run, vae_hash
from tiny_world import HEIGHT, SPACE, WIDTH, some_action, some_frames
from torch import Tensor

from wm import artifact
from wm.artifact import ArtifactError, load_denoiser, load_vae
from wm.engine.loop import LoopConfig
from wm.engine.loop import run as run_loop
from wm.engine.world import World
from wm.losses.importance import edges
from wm.models.vae import to_unit_range
from wm.rollout import WorldSession
from wm.stages.encode_latents import EncodeLatentsConfig
from wm.stages.export import ExportConfig
from wm.stages.train_dit import change_weight
from wm.stages.train_vae import TrainVAEConfig

KINDS = tuple(tiny_stages.CONFIGS)
BFLOAT16 = dataclasses.replace(FAST, precision="bfloat16")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_stages.make_root(tmp_path / "tiny")


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "changes", "rate", "share"),
    [
        ("train_vae", {"critic_start": 1.0, "edge_weight": 0.0}, 5e-3, 0.5),
        ("train_dit", {"drop_condition": 0.0}, 5e-3, 0.8),
        # A student begins as its teacher, near its goal: larger steps would first lead away from it.
        ("distill", {"target_every": 100, "resting_frames": 0.2, "guidance_scale": 1.5}, 2e-5, 0.8),
    ],
)
def test_the_loss_falls(root: Path, kind: str, changes: dict, rate: float, share: float, precision: str) -> None:
    settings = dataclasses.replace(FAST, learning_rate=rate, precision=precision)
    stage = make(kind, context(root), settings, **changes)
    losses = [float(stage.step(batch(0, kind))["loss"]) for _ in range(20)]
    assert losses[-1] < share * losses[0], losses


@pytest.mark.case("T-15")
@pytest.mark.parametrize(("kind", "changes"), [("train_vae", {"critic_start": 2 / NUM_STEPS}), ("train_vae", {"critic_start": 3 / NUM_STEPS}),
                                               ("train_vae", {"critic_start": 4 / NUM_STEPS}), ("train_dit", {}),
                                               ("distill", {}), ("distill", {"target_every": 4})])  # fmt: skip
def test_three_steps_and_a_resume_equal_six(root: Path, kind: str, changes: dict) -> None:
    settings = LoopConfig(num_steps=6, log_every=1, save_every=2)

    def start(name: str, stop_at: int) -> dict:
        stage, calls = make(kind, context(root), **changes), iter(range(1, 100))
        return run_loop(
            stage,
            open_batches(kind),
            settings,
            root / name,
            World.single(),
            {},
            should_stop=lambda: next(calls) == stop_at,
        )

    assert not start("whole", 100)["stopped"]
    assert start("parts", 3)["stopped"]
    assert not start("parts", 100)["stopped"]
    hashes = [artifact.file_hash(root / name / "weights" / "model.safetensors") for name in ("whole", "parts")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("settings", [FAST, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stage_leaves_is_its_average_and_loads(root: Path, kind: str, settings) -> None:
    stage = make(kind, context(root), settings, **({"critic_start": 1.0} if kind == "train_vae" else {}))
    run(stage, kind, 0, 2)
    result = stage.finish(root / "out")
    load = load_vae if kind == "train_vae" else load_denoiser
    module = load(root / "out" / "weights")[0]
    learner = next(iter(stage.parts().values()))
    assert same(module.state_dict(), learner.weights())
    assert not any(p.requires_grad for p in module.parameters())
    assert result == {"parameters": sum(p.numel() for p in module.parameters())}


@pytest.mark.parametrize("settings", [FAST, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_in_range_and_change_nothing(root: Path, kind: str, settings) -> None:
    stage, untouched = (make(kind, context(root), settings) for _ in range(2))
    run(stage, kind, 0, 3)
    run(untouched, kind, 0, 3)
    (picture,) = stage.sample(batch(3, kind)).values()
    assert picture.shape == ((3, 2 * HEIGHT, B * WIDTH) if kind == "train_vae" else (T, 3, 2 * HEIGHT, B * WIDTH))
    assert picture.dtype == torch.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert run(stage, kind, 3, 4) == run(untouched, kind, 3, 4)


def test_a_rollout_in_the_log_has_the_real_frames_above(root: Path) -> None:
    stage, given = make("train_dit", context(root)), batch(0, "train_dit")
    rollout = stage.sample(given)["rollout"]
    real = tiny_world.vae().decode(given.latents)[:, :, :, :, :]
    shown = torch.cat(list(((real + 1) / 2).clamp(0, 1)), dim=-1)
    torch.testing.assert_close(rollout[:, :, :HEIGHT], shown, atol=0.5 / 255 + 1e-5, rtol=0)


# --- the tokenizer -------------------------------------------------------------------------------------------------


def test_from_critic_start_on_the_encoder_is_the_frozen_average(root: Path) -> None:
    stage = make("train_vae", context(root), critic_start=3 / NUM_STEPS)
    run(stage, "train_vae", 0, 3)
    average = {name: value for name, value in stage.vae.weights().items() if name.startswith("encoder.")}
    first = stage.step(batch(3, "train_vae"))
    decoder = dict(stage.vae.weights())
    run(stage, "train_vae", 4, 6)
    stage.finish(root / "out")
    weights = load_vae(root / "out" / "weights")[0].state_dict()
    assert same({name: value for name, value in weights.items() if name.startswith("encoder.")}, average)
    rest = {name: value for name, value in weights.items() if name.startswith("decoder.")}
    assert same(rest, {name: value for name, value in stage.vae.weights().items() if name.startswith("decoder.")})
    assert not torch.equal(rest["decoder.0.weight"], decoder["decoder.0.weight"])
    assert {"loss", "fooling", "reconstruction", "critic/loss", "critic/real", "critic/made"} <= set(first)


def test_the_critic_joins_at_the_same_part_of_a_run_of_any_length(root: Path) -> None:
    for num_steps, first in ((4, 3), (20, 15), (400, 300)):
        stage = make("train_vae", dataclasses.replace(context(root), num_steps=num_steps), critic_start=0.75)
        assert "critic/loss" not in stage.step(dataclasses.replace(batch(0, "train_vae"), step=first - 1))
        assert "critic/loss" in stage.step(dataclasses.replace(batch(0, "train_vae"), step=first))
    with pytest.raises(ValueError, match=r"critic_start is 300.0.*from 0 to 1"):
        TrainVAEConfig(critic_start=300.0)


def test_the_critic_learns_from_critic_start_on_only(root: Path) -> None:
    stage = make("train_vae", context(root), critic_start=2 / NUM_STEPS)
    before = stage.critic.weights()
    run(stage, "train_vae", 0, 2)
    assert same(stage.critic.weights(), before)
    run(stage, "train_vae", 2, 4)
    assert not same(stage.critic.weights(), before)


def test_decoder_steps_leave_the_critic_and_critic_steps_the_decoder(root: Path) -> None:
    stage = make("train_vae", context(root), critic_start=0.0)
    stage.step(batch(0, "train_vae"))
    vae, critic = stage.vae.weights(), stage.critic.weights()
    stage._train_only(stage.vae.module.decoder)
    stage.vae.update(stage.fooling_loss, batch(1, "train_vae"))
    assert same(stage.critic.weights(), critic)
    assert not same(stage.vae.weights(), vae)
    vae = stage.vae.weights()
    stage._train_only(stage.critic.module)
    stage.critic.update(stage.critic_loss, batch(1, "train_vae"))
    assert same(stage.vae.weights(), vae)
    assert not same(stage.critic.weights(), critic)


def test_edges_lie_where_neighbours_differ() -> None:
    video = torch.full((1, 2, 3, 6, 8), -1.0)
    video[0, 1, 2, 3, 4] = 1.0
    found = edges(video)
    assert found.shape == (1, 2, 1, 6, 8)
    assert not found[0, 0].any()
    assert torch.nonzero(found[0, 1, 0]).tolist() == [[2, 4], [3, 3], [3, 4], [3, 5], [4, 4]]
    assert found.max() == 1.0


def test_encoding_gives_the_mean_whatever_goes_through_at_once(root: Path) -> None:
    video = some_frames(1, 7)[0]
    given = np.ascontiguousarray(video.permute(0, 2, 3, 1).numpy())
    for batch_frames in (64, 3):
        encoder = EncodeLatentsConfig(batch_frames=batch_frames).build(root, torch.device("cpu"))
        latents = encoder.encode(given)
        assert latents.dtype == np.float16
        assert latents.shape == (7, 3, HEIGHT // 4, WIDTH // 4)
        mean = encoder.vae.encode(to_unit_range(video).unsqueeze(0)).mean[0]
        np.testing.assert_allclose(latents, mean.numpy(), atol=2e-3, rtol=2e-3)
        assert (encoder.vae_hash, encoder.stride) == (vae_hash(root), 4)


# --- the denoisers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.75, 1.0])
def test_what_changed_counts_more_and_the_more_the_less_it_is(power: float) -> None:
    x = torch.zeros(1, 4, 2, 4, 6)
    x[0, 1:, :, 2, 5] = 1.0
    x[0, 3, :, 1] = 1.0
    weight = change_weight(x, 5.0, power)
    assert weight.shape == (1, 4, 1, 4, 6)
    assert torch.nonzero(weight[0, 1] - 1).tolist() == [[0, 2, 5]]
    assert (weight[0, ::2] == 1).all()
    # Six times the latents have together only 6^(1 - power) of the extra.
    one, six = (weight - 1).sum((2, 3, 4))[0, [1, 3]].tolist()
    assert one == pytest.approx(5.0 * 24**power)
    assert six == pytest.approx(one * 6 ** (1 - power))


def test_a_dataset_of_frames_is_refused(root: Path) -> None:
    where = context(root)
    frames = dataclasses.replace(where, facts=dataclasses.replace(where.facts, latents=None))
    with pytest.raises(ValueError, match="holds frames and a denoiser trains on latents"):
        make("train_dit", frames)
    with pytest.raises(ValueError, match="this dataset holds frames: give it the teacher's latents"):
        make("distill", frames)


def test_a_student_on_other_latents_than_its_teacher_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="this dataset holds latents of 0123") as caught:
        make("distill", context(root, vae_hash="0123"))
    assert vae_hash(root) in str(caught.value)


def test_a_missing_teacher_is_named(root: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no weights in .*elsewhere/weights: run the stage that trains them first"):
        make("distill", context(root), teacher="elsewhere")


def test_a_new_student_has_nothing_to_learn_where_a_teacher_step_is_all_the_way(root: Path) -> None:
    """With one interval the answer asked for is the teacher's own at t = 1, and the student begins as the teacher."""
    stage = make("distill", context(root), num_intervals=1, resting_frames=0.0)
    assert float(stage.step(batch(0, "distill"))["loss"]) < 1e-10
    guided = make("distill", context(root), num_intervals=1, resting_frames=0.0, guidance_scale=1.5)
    assert float(guided.step(batch(0, "distill"))["loss"]) > 1e-4


def test_frames_that_rest_carry_no_loss(root: Path) -> None:
    stage = make("distill", context(root), resting_frames=1.0)
    assert float(stage.step(batch(0, "distill"))["loss"]) == 0.0
    t, s = stage._levels(batch(0, "distill"), T)
    assert torch.equal(t, s)
    assert bool((t == 1).all())
    t, s = make("distill", context(root), resting_frames=0.0)._levels(batch(0, "distill"), T)
    assert bool((t > s).all())


def test_the_target_follows_the_student_at_its_interval(root: Path) -> None:
    stage = make("distill", context(root), target_every=2)
    teacher = stage.teacher.state_dict()
    stage.step(batch(0, "distill"))
    assert same(stage.target.module.state_dict(), teacher)
    stage.step(batch(1, "distill"))
    assert same(stage.target.module.state_dict(), stage.student.weights())
    assert same(stage.teacher.state_dict(), load_denoiser(root / "dit" / "weights")[0].state_dict())


def test_a_student_sees_latents_as_its_teacher_did(root: Path) -> None:
    """The statistics of a dataset that was encoded again may differ; those that the teacher learned with go on."""
    stage = make("distill", context(root, mean=(0.0, 0.0, 0.0)))
    assert stage.scale.mean == tiny_world.CARD.mean
    assert stage.weights_card().mean == tiny_world.CARD.mean


# --- the world -----------------------------------------------------------------------------------------------------


def test_an_exported_world_loads_and_plays(root: Path, tmp_path: Path) -> None:
    stage = make("distill", context(root))
    run(stage, "distill", 0, 1)
    stage.finish(root / "distill")
    starts = ((some_frames(1, 3)[0], some_action(1, 3)),)
    export = ExportConfig(context_frames=3).build(root, torch.device("cpu"))
    export.write(tmp_path / "artifact", starts, context(root).facts, {"kind": "desktop_sim"})
    world = artifact.load(tmp_path / "artifact")
    assert set(world.models) == {"student", "teacher"}
    assert (world.manifest.world, world.manifest.context_frames) == ("tiny", 3)
    assert world.manifest.models["student"].sampler.kind == "consistency"
    frames, action = world.starts[0]
    session = WorldSession(world)
    session.reset(frames.unsqueeze(0), action)
    assert session.step(some_action(1, 1)).shape == (1, 3, HEIGHT, WIDTH)
    card = (tmp_path / "artifact" / "README.md").read_text()
    assert f"{WIDTH}x{HEIGHT}" in card
    assert "KeyA, KeyB, Enter" in card


def test_a_world_is_not_exported_with_the_controls_of_another(root: Path, tmp_path: Path) -> None:
    facts = dataclasses.replace(context(root).facts, action_space=dataclasses.replace(SPACE, keys=("KeyZ",)))
    export = ExportConfig(student="dit", teacher=None).build(root, torch.device("cpu"))
    with pytest.raises(ValueError, match="they are of different worlds"):
        export.write(tmp_path / "artifact", (), facts, None)
    assert not (tmp_path / "artifact").exists()


# --- DeepSpeed -----------------------------------------------------------------------------------------------------


@pytest.mark.case("T-02")
@pytest.mark.parametrize(
    ("world_size", "zero_stages"),
    [
        (1, ["1"]),
        pytest.param(1, ["0", "2", "3"], marks=pytest.mark.slow),
        pytest.param(2, ["0", "1", "2", "3"], marks=pytest.mark.slow),
        pytest.param(2, ["tokenizers", "0", "1", "2", "3"], marks=pytest.mark.slow),
    ],
    ids=["alone", "alone-others", "two", "two-tokenizers"],
)
def test_every_stage_on_zero_leaves_what_it_leaves_on_one_process(
    tmp_path: Path, world_size: int, zero_stages: list[str]
) -> None:
    for rank, output in enumerate(run_ranks(tiny_stages.__file__, [str(tmp_path), *zero_stages], world_size, 600)):
        path = tmp_path / f"results-{rank}.json"
        assert path.exists(), output
        for name, found in json.loads(path.read_text()).items():
            # In bfloat16 means, over micro-batches at ZeRO 0 and over ranks, are rounded.
            limit = 2e-5 if name.endswith("float32") else 2e-2
            assert {kind: difference for kind, difference in found.items() if difference > limit} == {}, name
