"""Captions encoded into shards: the very tokens that the encoder gives, no encoder asked, and none of another believed."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_text import save, settings
from tiny_stages import make_root
from tiny_world import DENOISER, SPACE

from data_pipeline.encoded_text import from_rows, to_rows
from data_pipeline.loader import DataConfig, open_batches
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset, write_manifest, write_shard
from launch.encoded_captions import refuse_stale_captions
from launch.latents import make_latents
from launch.resources import Resources
from launch.run_config import RunConfig
from launch.shard_work import map_here
from tests.test_shards import make_manifest, make_sample
from wm.batch import Given
from wm.conditioning.caption import TextConditioner, TextConditionerConfig, without_text
from wm.conditioning.text_cache import StaleTextError, encoder_hash
from wm.config import ConfigError
from wm.stages.encode_latents import EncodeLatentsConfig
from wm.stages.train_dit import TrainDiTConfig

CAPTIONS = ("a red circle", "", "grün und blau", "a red circle moves left")


def recordings(root: Path, captions: tuple[str | None, ...] = CAPTIONS) -> Path:
    samples = []
    for number, caption in enumerate(captions):
        sample = make_sample(number)
        meta = {name: value for name, value in sample.meta.items() if name != "caption"}
        meta |= {} if caption is None else {"caption": caption}
        video = np.ascontiguousarray(np.resize(sample.video, (len(sample), 16, 24, 3)))
        samples.append(dataclasses.replace(sample, meta=meta, video=video))
    manifest = make_manifest([write_shard(root / "recordings" / "0.tar", samples)], "video")
    write_manifest(root / "recordings", dataclasses.replace(manifest, height=16, width=24))
    return root / "recordings"


def encoded(tmp_path: Path, **changes: object) -> tuple[Path, Path]:
    """(root, folder of a byt5) with recordings whose captions it has encoded, in root/latents."""
    root, folder = make_root(tmp_path / "world"), save("byt5", tmp_path / "byt5")
    config = EncodeLatentsConfig(text=settings("byt5", folder, **changes))
    make_latents(config, root, recordings(root), root / "latents", map_here, Resources(), lambda done: None)
    return root, folder


def given_of(root: Path) -> Given:
    config = DataConfig(
        folder="latents", clip_frames=2, clip_stride=2, global_batch_size=8, num_readers=1, num_workers=0
    )
    given = open_batches(config, root / "latents", 0, 1, seed=3).batch(0).given
    assert set(given.text or ()) == set(CAPTIONS)
    return given


def conditioner(folder: Path, **changes: object) -> TextConditioner:
    torch.manual_seed(0)
    return TextConditionerConfig(encoder=settings("byt5", folder, **changes)).build(SPACE, 16, 4, 4, 6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_read_from_disk_is_what_the_encoder_says_bit_for_bit(tmp_path: Path, precision: str) -> None:
    root, folder = encoded(tmp_path, precision=precision)
    given = given_of(root)
    wanted = conditioner(folder, precision=precision, remembered=0)
    live = dataclasses.replace(given, encoded=None)
    # Each caption alone, as the stage encoded it: in a padded batch a product may be rounded otherwise.
    alone = [wanted(Given(text=(caption,))).frames for caption in given.text or ()]
    shutil.rmtree(folder)  # nobody is asked
    cached = conditioner(folder, precision=precision)
    found, null = cached(given), cached.null(given)
    torch.testing.assert_close(found.frames, torch.cat(alone), rtol=1e-6, atol=1e-6)
    some = cached(given[2:4])
    assert torch.equal(some.tokens, found.tokens[2:4])
    dropped = cached(without_text(given, torch.ones(8, dtype=torch.bool)))
    assert torch.equal(dropped.tokens, null.tokens)
    with pytest.raises(ValueError, match=r"found no config\.json"):
        cached(live)


def test_tokens_on_disk_are_the_encoders_to_the_last_bit(tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        root, folder = encoded(tmp_path / precision, precision=precision)
        encoder = settings("byt5", folder, precision=precision).build()
        dataset = Dataset.open(root / "latents")
        dataset.verify()
        for clip, caption in enumerate(CAPTIONS):
            tokens, mask = encoder((caption,))
            assert torch.equal(from_rows(dataset.text(clip)), tokens[0][mask[0]])
            assert dataset.read(clip).text.shape == (len(caption.encode()) + 1, 24)
    odd = torch.tensor([[1e-40, -3e38], [0.1, 7.0]], dtype=torch.bfloat16)
    assert torch.equal(from_rows(to_rows(odd)), odd)


def test_captions_of_another_encoder_are_refused(tmp_path: Path) -> None:
    root, folder = encoded(tmp_path)
    given = given_of(root)
    before = encoder_hash(settings("byt5", folder))
    (folder / "README.md").write_text("says nothing of tokens")
    assert encoder_hash(settings("byt5", folder)) == before
    text = TextConditionerConfig(encoder=settings("byt5", folder))
    denoiser = dataclasses.replace(DENOISER, dit=dataclasses.replace(DENOISER.dit, text="cross"), conditioner=text)
    data = DataConfig(folder="latents", clip_frames=2, global_batch_size=4)
    run = RunConfig(stage=TrainDiTConfig(denoiser=denoiser), data=data)
    refuse_stale_captions(run, root, Path("configs/mine"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-3}))
    with pytest.raises(StaleTextError, match=f"text encoder {before}.*run the stage encode_latents again"):
        conditioner(folder)(given)
    command = f"python -m launch.run configs/mine/encode.yaml --root {root} --again"
    with pytest.raises(ConfigError, match=command):
        refuse_stale_captions(run, root, Path("configs/mine"))
    shutil.rmtree(folder)
    with pytest.raises(StaleTextError, match=r"width 24, float32.*width 32, float32"):
        conditioner(folder, width=32)(given)


def test_a_caption_that_was_not_encoded_is_asked_for_and_one_too_long_is_refused(tmp_path: Path) -> None:
    root, folder = encoded(tmp_path)
    given, new = given_of(root), ("something new", "a red circle")
    found = conditioner(folder)(dataclasses.replace(given, text=new))
    wanted = conditioner(folder)(Given(text=new))
    torch.testing.assert_close(found.frames, wanted.frames)
    with pytest.raises(ValueError, match="has 24 tokens and the text encoder's max_tokens is 20"):
        conditioner(folder, max_tokens=20)(given)


def test_recordings_without_captions_have_none_to_encode(tmp_path: Path) -> None:
    root, folder = make_root(tmp_path / "world"), save("byt5", tmp_path / "byt5")
    config = EncodeLatentsConfig(text=settings("byt5", folder))
    source = recordings(root, (None,))
    with pytest.raises(DataError, match="has no caption and encode_latents is to encode them"):
        make_latents(config, root, source, root / "latents", map_here, Resources(), lambda done: None)
