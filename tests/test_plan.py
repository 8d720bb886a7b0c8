"""launch.plan against torch's own counters, real optimizers, rings written out step by step, and by its scaling."""

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from launch import plan
from launch.entry import BAD_INPUT, OK
from launch.plan_costs import GPUS, memory, sent
from launch.plan_networks import (
    attention_flops,
    denoiser,
    facts_of,
    kept_bytes,
    layer_flops,
    num_parameters,
    text_attention_flops,
    tokens_read,
    work_of,
)
from launch.precision import with_precision
from launch.run_config import load_run
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.world import World
from wm.stages.train_dit import TrainDiTConfig

CONFIGS = Path(__file__).parent.parent / "configs"
WORLDS = ["smoke", "desktop_sim", "desktop"]


BYTES = "encoder: {kind: bytes, width: 24, depth: 2, num_heads: 3, max_tokens: 20}"
READING = {
    "action tokens": ["dit.action_window=3", "conditioner={kind: action, tokens: true}"],
    "text across": ["dit.text=cross", f"conditioner={{kind: text, {BYTES}, action: {{}}}}"],
    "two streams": ["dit.text=joint", f"conditioner={{kind: text, {BYTES}, action: {{}}}}"],
    "full, two streams, action tokens": [
        "dit.text=joint", "dit.full=true", "dit.action_window=2",
        f"conditioner={{kind: text, {BYTES}, action: {{tokens: true}}}}",
    ],
    "encoded before": [
        "dit.text=cross",
        "conditioner={kind: text, encoder: {kind: pretrained, model: t5, folder: none, width: 40, max_tokens: 9}, action: {}}",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("world", "changes"), [*((world, []) for world in WORLDS), *(("smoke", changes) for changes in READING.values())]
)
def test_operations_are_those_that_torch_counts(world: str, changes: list[str]) -> None:
    run = load(world, "dit", *(f"stage.denoiser.{change}" for change in changes))
    facts = facts_of(load(world, "record"), load(world, "vae"))
    assert isinstance(run.stage, TrainDiTConfig)
    assert run.data is not None
    frames = run.data.clip_frames
    module, forward = denoiser(run.stage.denoiser, facts, frames)
    attention = attention_flops(run.stage.denoiser.dit, facts.shape, frames, *tokens_read(module))
    counted = layer_flops(module, forward) + attention + text_attention_flops(module)
    with FlopCounterMode(display=False) as of_forward:
        made = forward()
    assert counted == pytest.approx(of_forward.get_total_flops(), rel=1e-3)
    with FlopCounterMode(display=False) as of_backward:
        made.sum().backward()
    # Twice the forward, but that nothing asks for the gradient of what comes in.
    assert of_backward.get_total_flops() == pytest.approx(2 * counted, rel=0.1 if world == "smoke" else 0.02)
    assert work_of(run, facts).flops == 3 * counted


@pytest.mark.parametrize("world", WORLDS)
def test_the_tokenizers_operations_are_those_that_torch_counts(world: str) -> None:
    facts, run = facts_of(load(world, "record"), load(world, "vae")), load(world, "vae", "stage.critic_start=1.0")
    stage = run.stage
    with torch.device("meta"):
        module = stage.vae.build()
    video = torch.zeros(1, run.data.clip_frames, 3, facts.height, facts.width, device="meta")
    with FlopCounterMode(display=False) as counter:
        posterior = module.encode(video)
        module.decode(posterior.mean).sum().backward()
    assert work_of(run, facts).flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_small_decoder_is_planned_beside_the_large_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts, vae = facts_of(load("smoke", "record"), load("smoke", "vae")), load("smoke", "vae")
    shutil.copytree(CONFIGS / "smoke", tmp_path, dirs_exist_ok=True)
    stage = "{kind: distill_decoder, decoder_widths: [4, 6], learner: {precision: bfloat16}}"
    (tmp_path / "fast_vae.yaml").write_text(
        f"stage: {stage}\ndata: {{folder: recordings/train, clip_frames: 3, global_batch_size: 4}}\nloop: {{num_steps: 1}}\n"
    )
    work = work_of(load_run(tmp_path / "fast_vae.yaml"), facts, tokenizer=vae.stage.vae)
    with torch.device("meta"):
        large = vae.stage.vae.build()
        small = dataclasses.replace(vae.stage.vae, decoder_widths=(4, 6), decoder_depth=1).build()
        video = torch.zeros(1, 3, 3, facts.height, facts.width)
    with FlopCounterMode(display=False) as asked:
        latents = large.encode(video).mean
        large.decode(latents)
    with FlopCounterMode(display=False) as drawn:
        small.decode(latents)
    assert work.flops == asked.get_total_flops() + 3 * drawn.get_total_flops()
    assert work.parameters == sum(parameter.numel() for parameter in small.decoder.parameters())
    encoder = sum(parameter.numel() for parameter in large.encoder.parameters())
    assert work.frozen_bytes == 4 * num_parameters(large) + 2 * encoder
    assert plan.main([str(tmp_path / "fast_vae.yaml"), "--gpus", "2"]) == OK
    assert f"distill_decoder: decoder {work.parameters:,} parameters; bfloat16" in capsys.readouterr().out


def load(world: str, stage: str, *overrides: str):  # type: ignore[no-untyped-def]
    return with_precision(load_run(CONFIGS / world / f"{stage}.yaml", overrides), "bfloat16")


def test_parameters_are_counted_exactly() -> None:
    run = load("smoke", "dit")
    facts = facts_of(load("smoke", "record"), load("smoke", "vae"))
    real = run.stage.denoiser.build(facts.shape)
    assert work_of(run, facts).parameters == sum(p.numel() for p in real.parameters())


def test_what_autograd_keeps_is_counted_once_and_without_weights() -> None:
    with torch.device("meta"):
        layer, x = nn.Linear(6, 10), torch.zeros(4, 6, requires_grad=True)
    # The linear layer keeps x; exp keeps its own output; the product keeps that output twice, which is once.
    assert kept_bytes(layer, lambda: layer(x).exp().square().sum(), set()) == 4 * (4 * 6 + 4 * 10)
    assert kept_bytes(layer, lambda: layer(x).exp().square().sum(), {(4, 10)}) == 4 * 4 * 6


def test_memory_is_what_a_plain_optimizer_holds() -> None:
    """ZeRO 0 in float32 is torch's own AdamW: weights, gradients, two moments; beside them the average."""
    module = nn.Linear(30, 20)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(30)).sum().backward()
    optimizer.step()
    parameters = list(module.parameters())
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    held = memory(num_parameters(module), LearnerConfig(zero_stage=0), 0, ranks=1)
    assert held.weights == nbytes(parameters)
    assert held.gradients == nbytes([p.grad for p in parameters])
    assert held.optimizer == nbytes(moments)
    assert held.average == nbytes(parameters)


@pytest.mark.case("C-20")
def test_a_checkpoint_is_as_large_as_planned(tmp_path: Path) -> None:
    module = nn.Linear(300, 200)
    learner = LocalLearner(module, LearnerConfig(), num_steps=1, world=World.single())
    learner.save(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written == pytest.approx(plan.CHECKPOINT_BYTES * num_parameters(module), rel=0.01)


def test_datasets_are_as_large_as_their_arrays() -> None:
    record, vae = load("smoke", "record"), load("smoke", "vae")
    facts = facts_of(record, vae)
    video = torch.zeros(48, facts.height, facts.width, 3, dtype=torch.uint8, device="meta")
    latents = torch.zeros(48, facts.channels, *(side // facts.stride for side in video.shape[1:3]), dtype=torch.float16)
    said = plan.storage(record, vae)
    assert f"{4 * 48} frames" in said
    assert f"recordings of {(4 + 2) * nbytes([video]) / 1e9:.4g} GB" in said
    assert f"latents of {4 * nbytes([latents]) / 1e9:.4g} GB" in said


def nbytes(tensors) -> int:  # type: ignore[no-untyped-def]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_each_zero_stage_partitions_one_thing_more() -> None:
    config = LearnerConfig(precision="bfloat16")
    zero, one, two, three = (memory(1000, config, stage, ranks=4) for stage in range(4))
    assert (zero.weights, zero.optimizer, zero.average) == (2000, 12000, 4000)
    assert (one.weights, one.gradients, one.optimizer, one.average) == (2000, 4000, 3000, 1000)
    shelved = memory(1000, dataclasses.replace(config, offload="cpu"), 1, 4)
    assert (shelved.weights, shelved.gradients, shelved.optimizer, shelved.average) == (2000, 4000, 1000, 0)
    assert memory(1000, dataclasses.replace(config, offload="cpu"), 1, 4, on_gpu=False) == one
    assert memory(1000, dataclasses.replace(config, average_lengths=(0.05, 0.1)), 1, 4).average == 3000
    assert (two.weights, two.gradients, two.optimizer) == (2000, 1000, 3000)
    assert (three.weights, three.gradients, three.optimizer) == (500, 1000, 3000)
    for stage in range(1, 4):  # a rank alone owns everything
        alone = memory(1000, config, stage, ranks=1)
        assert alone.total == 2000 + 4000 + 12000 + 4000


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_ring_sends_what_its_steps_send(ranks: int) -> None:
    """An all-reduce passes a part of 1/W to the next rank W - 1 times to sum, and W - 1 times to share."""
    size = 4 * 600
    steps = [size / ranks for _ in range(ranks - 1)] * 2
    assert sent(600, LearnerConfig(zero_stage=0), ranks, micro_batches=7) == pytest.approx(sum(steps))
    gathered = sum(steps) / 2
    assert sent(600, LearnerConfig(zero_stage=1), ranks, micro_batches=7) == pytest.approx(sum(steps) + gathered)
    assert sent(600, LearnerConfig(zero_stage=2), ranks, micro_batches=7) == pytest.approx(7 * sum(steps) + gathered)


def test_time_shrinks_with_gpus_and_never_by_more() -> None:
    run, facts = load("desktop", "dit"), facts_of(load("desktop", "record"), load("desktop", "vae"))
    work = work_of(run, facts)
    times = [plan.step_time(work, plan.Machine(GPUS["h100"], nodes, 8, 0.5), 32, 1) for nodes in (1, 2, 4)]
    for less, more in itertools.pairwise(times):
        assert more.compute == pytest.approx(less.compute / 2)
        assert less.total / 2 < more.total < less.total


def test_a_plan_says_what_it_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(CONFIGS / "desktop"), "--gpus", "8", "--nodes", "2", "--gpu", "b200"]
    assert plan.main(command) == OK
    said = capsys.readouterr().out
    assert all(f"{kind}: " in said for kind in ("train_vae", "train_dit", "distill"))
    assert said.count("ZeRO 3") == 3
    assert said.count("GPU-hours") == 3


def test_a_plan_to_more_samples_takes_longer_in_proportion(capsys: pytest.CaptureFixture[str]) -> None:
    hours = []
    for samples in ("1e6", "4e6"):
        assert plan.main([str(CONFIGS / "desktop" / "dit.yaml"), "--samples", samples]) == OK
        hours.append(float(capsys.readouterr().out.split(" GPU-hours")[0].split()[-1].replace(",", "")))
    assert math.isclose(hours[1], 4 * hours[0], rel_tol=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["desktop/dit.yaml", "--gpus", "5"], "global_batch_size 32 does not divide among 5 workers"),
        (["desktop/record.yaml"], "trains nothing"),
        (["desktop/none.yaml"], "no config file"),
        (["desktop", "seed=3"], "overrides belong to one stage"),
        (["desktop/dit.yaml", "--gpus", "0"], "must be at least 1"),
        (["desktop/dit.yaml", "--root", "nowhere"], "record first"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, *rest = arguments
    assert plan.main([str(CONFIGS / config), *rest]) == BAD_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
