"""Text encoders: what transformers computes from the same folder, whatever the padding; frozen, and never downloaded."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from wm.conditioning.text import ByteTextConfig, PretrainedTextConfig, byte_numbers, place_waves
from wm.config import ConfigError, from_dict
from wm.tags import is_hidden_matrix

CAPTIONS = ("a red circle", "", "grün und blau", "a red circle moves left")
WIDTH = 24
SHAPES = ("circle", "square")


def tokenizer_of(model: str) -> transformers.PreTrainedTokenizerBase:
    if model == "byt5":
        return transformers.ByT5Tokenizer()
    letters = sorted(set("".join(CAPTIONS).replace(" ", "")))
    if model == "clip":
        base = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters), "re", "red</w>"]
        return transformers.CLIPTokenizer(
            {token: i for i, token in enumerate(base)}, merges=[("r", "e"), ("re", "d</w>")]
        )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    return transformers.T5TokenizerFast(vocab=[*pieces, ("▁red", -1.0)], extra_ids=0)


def save(model: str, folder: Path) -> Path:
    """A tiny random model with its tokenizer, as `save_pretrained` leaves them."""
    tokenizer = tokenizer_of(model)
    torch.manual_seed(len(model))
    if model == "clip":
        sizes = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=2,
            num_attention_heads=3, max_position_embeddings=40, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        network = transformers.CLIPTextModel(sizes)
    else:
        family = transformers.UMT5Config if model == "umt5" else transformers.T5Config
        kind = transformers.UMT5EncoderModel if model == "umt5" else transformers.T5EncoderModel
        network = kind(family(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=5, d_ff=40, num_layers=2, num_heads=3))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: str, folder: Path, **changes: object) -> PretrainedTextConfig:
    return PretrainedTextConfig(**{"model": model, "folder": str(folder), "width": WIDTH, "max_tokens": 40, **changes})


@pytest.mark.parametrize("model", ["clip", "t5", "umt5", "byt5"])
def test_each_caption_gets_what_transformers_gives_it_alone(model: str, tmp_path: Path) -> None:
    folder = save(model, tmp_path / model)
    found = settings(model, folder).build()(CAPTIONS)
    assert found.tokens.shape == (4, 40, WIDTH)
    kind = {"clip": transformers.CLIPTextModel, "umt5": transformers.UMT5EncoderModel}
    network = kind.get(model, transformers.T5EncoderModel).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for caption, tokens, mask in zip(CAPTIONS, *found, strict=True):
        alone = tokenizer(caption, return_tensors="pt")  # neither padded nor batched
        with torch.no_grad():
            wanted = network(**{name: alone[name] for name in ("input_ids", "attention_mask")}).last_hidden_state[0]
        assert int(mask.sum()) == len(wanted) >= 1
        assert not tokens.requires_grad
        torch.testing.assert_close(tokens[mask], wanted, rtol=1e-5, atol=1e-5)


def test_captions_differ_and_their_order_in_the_batch_does_not_matter(tmp_path: Path) -> None:
    encoder = settings("byt5", save("byt5", tmp_path)).build()
    forth, back = encoder(CAPTIONS).tokens.clone(), encoder(CAPTIONS[::-1]).tokens
    torch.testing.assert_close(forth, back.flip(0))
    assert (forth[0] - forth[3]).abs().max() > 0.01


@pytest.mark.parametrize(("positions", "least", "most"), [(False, 0.0, 0.6), (True, 0.95, 1.0)])
def test_which_word_comes_first_can_be_read_off_the_mean_of_the_tokens(
    positions: bool, least: float, most: float
) -> None:
    """By a linear probe on an encoder with its first weights: what a denoiser then need not teach it."""
    words = ("red", "green", "blue")
    pairs = [(a, b) for a in words for b in words if a != b]
    said = [
        (a, f"a {a} {s} moves {w} a {b} {t}") for a, b in pairs for s in SHAPES for t in SHAPES for w in ("up", "left")
    ]
    encoder = ByteTextConfig(width=32, depth=1, max_tokens=48, positions=positions).build()
    with torch.no_grad():
        tokens, mask = encoder([caption for _, caption in said])
    mean = ((tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).double()
    features = torch.cat([(mean - mean.mean(0)) / mean.std(0), torch.ones(len(said), 1)], dim=1)
    first = torch.tensor([words.index(word) for word, _ in said])
    order = torch.randperm(len(said), generator=torch.Generator().manual_seed(0))
    known, asked = order[::2], order[1::2]
    x, y = features[known], torch.nn.functional.one_hot(first[known], 3).double()
    probe = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ y)
    right = ((features[asked] @ probe).argmax(1) == first[asked]).double().mean()
    assert least <= float(right) <= most


def test_the_waves_of_places_are_vaswanis() -> None:
    waves = place_waves(7, 6)
    for place in range(7):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            assert waves[place, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert waves[place, 3 + i] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("remembered", [0, 2, 256])
def test_what_is_remembered_is_what_is_encoded(remembered: int, tmp_path: Path) -> None:
    folder = save("byt5", tmp_path / "byt5")
    encoder = settings("byt5", folder, remembered=remembered).build()
    wanted = settings("byt5", folder, remembered=0).build()(CAPTIONS)
    with torch.inference_mode():  # as a rollout does; a training may be next
        encoder(CAPTIONS)
    torch.nn.Linear(WIDTH, 3)(encoder(CAPTIONS).tokens).sum().backward()
    for _ in range(2):
        found = encoder((*CAPTIONS, CAPTIONS[0]))
        torch.testing.assert_close(found.tokens[:-1], wanted.tokens)
        assert torch.equal(found.tokens[-1], found.tokens[0])
        assert torch.equal(found.mask[:-1], wanted.mask)
    encoder._loaded = None
    shutil.rmtree(folder)  # now only what is remembered can be had
    for caption in list(encoder._known):
        torch.testing.assert_close(encoder((caption,)).tokens[0], wanted.tokens[CAPTIONS.index(caption)])
    if remembered < len(CAPTIONS):
        with pytest.raises(ValueError, match="found no config"):
            encoder(CAPTIONS)
    assert len(encoder._known) <= remembered


def test_a_missing_folder_is_named_and_nothing_is_downloaded(tmp_path: Path) -> None:
    encoder = settings("t5", tmp_path / "t5-small").build()  # building a model needs no folder, using it does
    with pytest.raises(
        ValueError, match=f"text encoder t5: looked for it in {tmp_path / 't5-small'} and found no config"
    ):
        encoder(CAPTIONS)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    folder = save("t5", tmp_path / "t5")
    with pytest.raises(ValueError, match="it holds a t5; set the encoder's model"):
        settings("clip", folder).build()(CAPTIONS)
    with pytest.raises(ValueError, match=f"vectors of {WIDTH} numbers and the config says width 32"):
        settings("t5", folder, width=32).build()(CAPTIONS)
    with pytest.raises(ValueError, match=r"'a red circle moves left'\.\.\. has 2. tokens and .* max_tokens is 12"):
        settings("t5", folder, max_tokens=12).build()(("a", "a red circle moves left"))
    with pytest.raises(ValueError, match="max_tokens 77 is more than the 40 positions"):
        settings("clip", save("clip", tmp_path / "clip"), max_tokens=77).build()(CAPTIONS)


def test_weights_that_lack_a_part_are_refused_not_drawn_by_chance(tmp_path: Path) -> None:
    folder = save("t5", tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "wo" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack encoder\.block\.0.*wo"):
        settings("t5", folder).build()(CAPTIONS)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        settings("t5", folder).build()(CAPTIONS)
    (folder / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(ValueError, match="cannot be read"):
        settings("t5", folder).build()(CAPTIONS)


def test_bytes_are_counted_as_byt5_counts_them() -> None:
    numbers, mask = byte_numbers(CAPTIONS, 30)
    theirs = transformers.ByT5Tokenizer()(list(CAPTIONS), padding="max_length", max_length=30, return_tensors="pt")
    assert torch.equal(numbers, theirs["input_ids"])
    assert torch.equal(mask.long(), theirs["attention_mask"])
    with pytest.raises(ValueError, match="max_tokens is 10"):
        byte_numbers(("a red circle",), 10)


def test_the_byte_encoder_is_its_seed_and_knows_order_but_not_padding() -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    one, same, other = (
        ByteTextConfig(width=WIDTH, num_heads=3, seed=s, max_tokens=n).build() for s, n in ((1, 30), (1, 48), (2, 30))
    )
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's numbers are used up"
    first, padded, different = (encoder(CAPTIONS) for encoder in (one, same, other))
    torch.testing.assert_close(first.tokens[first.mask], padded.tokens[padded.mask])
    assert (first.tokens - different.tokens).abs().max() > 0.1
    forth, back = one(("red before green", "green before red")).tokens
    assert (forth.mean(0) - back.mean(0)).abs().max() > 1e-3


def test_frozen_weights_stay_whoever_turns_gradients_on() -> None:
    captions = ("a red circle", "a blue square")
    trained, frozen = (ByteTextConfig(width=WIDTH, num_heads=3, trained=t).build() for t in (True, False))
    torch.testing.assert_close(trained(captions).tokens, frozen(captions).tokens)
    assert trained.state_dict().keys() == frozen.state_dict().keys()
    frozen.requires_grad_(True)
    assert list(frozen.parameters()) == []
    assert not frozen(captions).tokens.requires_grad
    trained(captions).tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
    frozen.load_state_dict(trained.state_dict())


def test_the_tables_of_the_byte_encoder_are_no_matrices_of_muon() -> None:
    encoder = ByteTextConfig(width=WIDTH, num_heads=3).build()
    tables = {name for name, p in encoder.named_parameters() if p.ndim == 2 and not is_hidden_matrix(p)}
    assert tables == {
        "stack.embed_tokens.weight",
        "stack.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }


def test_an_encoder_that_cannot_be_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="not a multiple of num_heads"):
        from_dict(ByteTextConfig, {"width": 20, "num_heads": 3})
