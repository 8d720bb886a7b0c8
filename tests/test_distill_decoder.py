"""The fast decoder: it nears the large one, shares its latents to the bit, and plays in its place."""

import dataclasses
from pathlib import Path

import pytest
import tiny_stages
import torch
from tiny_stages import FAST, batch, context
from tiny_world import HEIGHT, WIDTH, some_action, some_frames

from launch.run_config import RunConfig
from wm.artifact import World, assemble, load_vae
from wm.config import from_dict
from wm.models.vae import VideoVAEConfig, to_unit_range
from wm.rollout import WorldSession
from wm.stages.distill_decoder import DistillDecoder, DistillDecoderConfig

SMALL = DistillDecoderConfig(decoder_widths=(3, 4), learner=dataclasses.replace(FAST, learning_rate=2e-2))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_stages.make_root(tmp_path / "tiny")


def decoder_size(world: World) -> int:
    return sum(p.numel() for p in world.vae.decoder.parameters())


def test_it_learns_what_the_large_one_draws_and_leaves_the_encoder(root: Path) -> None:
    stage = DistillDecoder(SMALL, context(root))
    found = [stage.step(batch(0, "train_vae")) for _ in range(20)]
    assert float(found[-1]["to_large"]) < 0.5 * float(found[0]["to_large"])
    assert float(found[-1]["psnr_to_large_db"]) > float(found[0]["psnr_to_large_db"]) + 3
    stage.finish(root / "fast_vae")
    (large, hash_), (small, same) = (load_vae(root / name / "weights") for name in ("vae", "fast_vae"))
    assert hash_ == same
    video = to_unit_range(some_frames(2, 3))
    assert torch.equal(large.encode(video).mean, small.encode(video).mean)
    assert not torch.equal(large.decode(large.encode(video).mean), small.decode(small.encode(video).mean))
    assert stage.sample(batch(0, "train_vae"))["decoders"].shape == (3, 3 * HEIGHT, 2 * WIDTH)


def test_it_plays_in_the_place_of_the_large_one(root: Path) -> None:
    """The same dreams in latents: a model trained on the large one's latents takes the small one as its tokenizer."""
    stage = DistillDecoder(SMALL, context(root))
    stage.step(batch(0, "train_vae"))
    assert stage.finish(root / "fast_vae")["parameters"] < sum(p.numel() for p in stage.large.decoder.parameters())
    worlds = [
        assemble(root / name / "weights", {"student": root / "dit" / "weights"}, world="tiny", context_frames=3)
        for name in ("vae", "fast_vae")
    ]
    assert decoder_size(worlds[1]) < decoder_size(worlds[0])
    dreams = []
    for world in worlds:
        session = WorldSession(world, seed=3)
        session.reset(some_frames(1, 4), some_action(1, 4))
        dreams.append(session.dream(some_action(1, 1)))
    assert torch.equal(*dreams)


def test_a_run_of_it_is_read_and_widths_that_do_not_fit_are_refused(root: Path) -> None:
    run = from_dict(RunConfig, {"stage": {"kind": "distill_decoder", "decoder_widths": [8, 16]}})
    assert run.trains
    assert run.output(root) == root / "fast_vae"
    with pytest.raises(ValueError, match="as many resolutions"):
        VideoVAEConfig(widths=(8, 16), decoder_widths=(8,))
    with pytest.raises(ValueError, match="as many resolutions"):
        DistillDecoder(dataclasses.replace(SMALL, decoder_widths=(3,)), context(root))
