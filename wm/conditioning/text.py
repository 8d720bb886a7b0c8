"""Captions to tokens: CLIP, T5, UMT5 and ByT5 from a local folder, frozen; or a small byte-level T5 of our own.

The only file that knows transformers, which is loaded when an encoder is first used. Nothing is ever downloaded.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from wm.config import Kind, config
from wm.tags import tagged

# In front of the bytes in ByT5's vocabulary (Xue et al. 2022, arXiv:2105.13626): padding, end, unknown.
_PADDING, _END, _NUM_SPECIAL = 0, 1, 3
# What `model_type` a folder's config.json may have for each of our names; ByT5 is a T5 with another tokenizer.
_MODEL_TYPES = {"clip": ("clip", "clip_text_model"), "t5": ("t5",), "umt5": ("umt5",), "byt5": ("t5",)}


class TextTokens(NamedTuple):
    """B captions, each as the same number of vectors."""

    tokens: Tensor  # (B, max_tokens, width)
    mask: Tensor  # (B, max_tokens) True where a token is real; an empty caption has at least its end


@config
class PretrainedTextConfig:
    """A frozen encoder from a folder as `save_pretrained` leaves it, tokenizer included."""

    kind: Literal["pretrained"] = "pretrained"
    model: Literal["clip", "t5", "umt5", "byt5"]
    folder: str  # local; nothing is downloaded
    width: int  # of its vectors: 768 for CLIP ViT-L, 4096 for T5-XXL; checked when it is loaded
    max_tokens: int = 77
    precision: Literal["float32", "bfloat16"] = "float32"  # of the encoder, whatever the denoiser has
    remembered: int = 256  # captions whose tokens are kept in memory, the newest ones: known ones cost no encoding

    def build(self) -> "PretrainedText":
        return PretrainedText(self)


@config
class ByteTextConfig:
    """A byte-level T5 encoder (Raffel et al. 2020, arXiv:1910.10683; bytes as in ByT5) that starts from random weights."""

    kind: Literal["bytes"] = "bytes"
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: float = 2.0
    max_tokens: int = 80  # bytes of a caption, and one for its end
    positions: bool = False  # whether a byte says where it stands: a T5 knows distances alone, and learns order slowly
    trained: bool = True  # with the denoiser; False keeps the first weights
    seed: int = 0  # of the weights

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} of the text encoder is not a multiple of num_heads {self.num_heads}")

    def build(self) -> "ByteText":
        return ByteText(self)


TextEncoderConfig = Annotated[ByteTextConfig | PretrainedTextConfig, Kind]


class ByteText(nn.Module):
    """Captions -> TextTokens. Its weights are saved with the model it is part of; frozen, they are buffers.

    Buffers, because what trains a model again turns the gradients of all its parameters on.
    """

    def __init__(self, config: ByteTextConfig) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.config, self.width = config, config.width
        sizes = T5Config(
            vocab_size=256 + _NUM_SPECIAL,
            d_model=config.width,
            d_kv=config.width // config.num_heads,
            d_ff=int(config.mlp_ratio * config.width),
            num_layers=config.depth,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,  # a step is a function of (seed, step, sample): transformers would draw from the global generator
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            # The stack alone: the model around it holds the same embedding under a second name.
            self.stack = T5EncoderModel(sizes).encoder
        # Tables, a row for each byte and each distance: not matrices from hidden to hidden.
        for part in self.stack.modules():
            if isinstance(part, nn.Embedding):
                tagged(part, hidden=False)
        if not config.trained:
            _make_buffers(self.stack)

    def forward(self, captions: Sequence[str]) -> TextTokens:
        device = next(iter(self.stack.state_dict().values())).device
        numbers, mask = byte_numbers(captions, self.config.max_tokens)
        numbers, mask = numbers.to(device), mask.to(device)
        # On the meta device there are shapes alone, and transformers asks a mask for its values.
        real = None if device.type == "meta" else mask.long()
        letters = self.stack.embed_tokens(numbers)
        if self.config.positions:
            letters = letters + place_waves(self.config.max_tokens, self.width).to(letters)
        tokens = self.stack(inputs_embeds=letters, attention_mask=real).last_hidden_state
        return TextTokens(tokens, mask)


class PretrainedText:
    """Captions -> TextTokens on `device`. Not part of the model it speaks to: neither trained nor saved with it.

    The folder is read at the first call: a model can be built, loaded and counted where the folder is not.
    """

    def __init__(self, config: PretrainedTextConfig) -> None:
        self.config, self.width = config, config.width
        self._loaded: tuple[Any, nn.Module] | None = None
        self._known: dict[str, TextTokens] = {}  # of one caption each, without the axis B; the oldest first
        self.agreed: set[str] = set()  # hashes of encoders whose tokens on disk were found to be those of this one

    # Not in inference mode, even where a rollout is: what is remembered of it may be trained with next.
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device | str = "cpu") -> TextTokens:
        # A rollout asks for the same captions with each of its frames, a training in each of its epochs.
        unknown = tuple(caption for caption in dict.fromkeys(captions) if caption not in self._known)
        found = dict(self._known)
        if unknown:
            encoded = self._encoded(unknown, device)
            found.update((c, TextTokens(*one)) for c, *one in zip(unknown, *encoded, strict=True))
            kept = list(found.items())[max(0, len(found) - self.config.remembered) :]
            self._known = dict(kept)
        tokens, mask = zip(*(found[caption] for caption in captions), strict=True)
        return TextTokens(torch.stack(tokens).to(device), torch.stack(mask).to(device))

    def _encoded(self, captions: tuple[str, ...], device: torch.device | str) -> TextTokens:
        if self._loaded is None:
            self._loaded = _load(self.config)
        tokenizer, model = self._loaded
        lengths = [len(numbers) for numbers in tokenizer(list(captions))["input_ids"]]
        _refuse_long(captions, lengths, self.config.max_tokens)
        found = tokenizer(
            list(captions), padding="max_length", max_length=self.config.max_tokens, return_tensors="pt"
        ).to(device)
        model.to(device)
        tokens = model(input_ids=found["input_ids"], attention_mask=found["attention_mask"]).last_hidden_state
        return TextTokens(tokens, found["attention_mask"].bool())


def byte_numbers(captions: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """(numbers (B, max_tokens) int64, mask (B, max_tokens)) of captions as ByT5 counts: a byte is its value plus 3.

    ValueError for a caption that is longer: cut off, it would say something else.
    """
    spelled = [[byte + _NUM_SPECIAL for byte in caption.encode()] + [_END] for caption in captions]
    _refuse_long(captions, [len(numbers) for numbers in spelled], max_tokens)
    padded = [numbers + [_PADDING] * (max_tokens - len(numbers)) for numbers in spelled]
    numbers = torch.tensor(padded, dtype=torch.int64).reshape(len(captions), max_tokens)
    return numbers, numbers != _PADDING


def place_waves(length: int, width: int) -> Tensor:
    """(length, width): sines and cosines of where a token stands (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2) / width)
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def _refuse_long(captions: Sequence[str], lengths: Sequence[int], max_tokens: int) -> None:
    for caption, length in zip(captions, lengths, strict=True):
        if length > max_tokens:
            raise ValueError(
                f"caption {caption[:40]!r}... has {length} tokens and the text encoder's max_tokens is {max_tokens}: "
                "shorten it, or train with a larger max_tokens"
            )


def _make_buffers(module: nn.Module) -> None:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())


def _load(config: PretrainedTextConfig) -> tuple[Any, nn.Module]:
    """(tokenizer, model) from the folder; ValueError where it lacks a part or holds something else."""
    import transformers

    folder, name = Path(config.folder).expanduser().absolute(), f"text encoder {config.model}"
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{name}: looked for it in {folder} and found no config.json there; nothing is downloaded while running, so "
            "put its files there (config.json, model.safetensors, tokenizer) or set the encoder's folder"
        )
    with _reasoned(f"{name}: {folder} cannot be read"), _quiet():
        given = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if given.model_type not in _MODEL_TYPES[config.model]:
            raise ValueError(f"it holds a {given.model_type}; set the encoder's model to what it is")
        kind = {"clip": transformers.CLIPTextModel, "umt5": transformers.UMT5EncoderModel}
        model, info = kind.get(config.model, transformers.T5EncoderModel).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=getattr(torch, config.precision)
        )
        # transformers would fill them with random numbers and go on.
        if info["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if model.config.hidden_size != config.width:
        raise ValueError(
            f"{name}: {folder} has vectors of {model.config.hidden_size} numbers and the config says width {config.width}: "
            f"set the encoder's width to {model.config.hidden_size}; what was trained with another needs another encoder"
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and config.max_tokens > longest:
        raise ValueError(f"{name}: max_tokens {config.max_tokens} is more than the {longest} positions of {folder}")
    return tokenizer, model.eval().requires_grad_(False)


@contextmanager
def _reasoned(what: str) -> Iterator[None]:
    """Errors of another library, or ours, as one ValueError that begins with `what`."""
    try:
        yield
    # A folder that is damaged shows as any of these, by what is wrong with it.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers reports and draws of a load: what is wrong with it is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
