"""Captions that were encoded once: which encoder did, and their tokens in the place of its answer."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wm.batch import EncodedText
from wm.conditioning.text import PretrainedText, PretrainedTextConfig, TextTokens

# What of a folder decides the tokens: weights, sizes, vocabularies. Its README does not.
_DECIDING = (".json", ".safetensors", ".bin", ".model", ".txt")


class StaleTextError(ValueError):
    """Captions that another encoder left than the one that is to read them."""


def encoder_hash(config: PretrainedTextConfig) -> str:
    """Sixteen hexadecimal digits that change with anything that changes a caption's tokens. Reads the whole folder."""
    folder = Path(config.folder).expanduser()
    if not is_here(config):
        raise ValueError(
            f"text encoder {config.model}: looked for it in {folder.absolute()} and found no config.json there"
        )
    digest = hashlib.sha256(f"{config.model} {config.precision}".encode())
    for path in sorted(path for path in folder.iterdir() if path.suffix in _DECIDING):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def is_here(config: PretrainedTextConfig) -> bool:
    """Whether the encoder's folder is on this machine; a training on encoded captions needs none."""
    return (Path(config.folder).expanduser() / "config.json").is_file()


def refuse_stale(config: PretrainedTextConfig, encoder: str, width: int, precision: str, remedy: str) -> None:
    """StaleTextError where `config` would not give what the encoder of hash `encoder` left; `remedy` says what to do.

    Where the folder is not on this machine its settings alone can be compared.
    """
    here = encoder_hash(config) if is_here(config) else encoder
    if (here, config.width, config.precision) != (encoder, width, precision):
        raise StaleTextError(
            f"the captions were encoded by text encoder {encoder} (width {width}, {precision}), and the config names "
            f"{config.folder}, which is {here} (width {config.width}, {config.precision}): {remedy}"
        )


def looked_up(
    encoded: EncodedText, captions: Sequence[str], encoder: PretrainedText, device: torch.device | str
) -> TextTokens:
    """What `encoder` gives for `captions`, without asking it where `encoded` knows; zeros where no token is.

    StaleTextError where another encoder left them.
    """
    if encoded.encoder not in encoder.agreed:
        some = next(iter(encoded.tokens.values()))
        precision = str(some.dtype).removeprefix("torch.")
        remedy = "run the stage encode_latents again, with --again"
        refuse_stale(encoder.config, encoded.encoder, some.shape[1], precision, remedy)
        encoder.agreed.add(encoded.encoder)
    unknown = tuple(dict.fromkeys(caption for caption in captions if caption not in encoded.tokens))
    known = {caption: tokens.to(device) for caption, tokens in encoded.tokens.items() if caption in captions}
    if unknown:
        known |= {c: tokens[mask] for c, tokens, mask in zip(unknown, *encoder(unknown, device), strict=True)}
    return _padded([known[caption] for caption in captions], encoder.config.max_tokens)


def _padded(captions: list[Tensor], max_tokens: int) -> TextTokens:
    """(L, width) tensors as one (B, max_tokens, width) and its mask; ValueError for one that is longer."""
    longest = max(len(tokens) for tokens in captions)
    if longest > max_tokens:
        raise ValueError(
            f"an encoded caption has {longest} tokens and the text encoder's max_tokens is {max_tokens}: "
            "train with a larger max_tokens"
        )
    tokens = captions[0].new_zeros(len(captions), max_tokens, captions[0].shape[1])
    mask = torch.zeros(len(captions), max_tokens, dtype=torch.bool, device=tokens.device)
    for row, real in enumerate(captions):
        tokens[row, : len(real)] = real
        mask[row, : len(real)] = True
    return TextTokens(tokens, mask)
