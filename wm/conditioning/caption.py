"""Captions to a Condition: tokens to attend to, and their mean for the modulation; together with actions where asked."""

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from wm.batch import ActionSpace, EncodedText, Given
from wm.conditioning.action import ActionConditioner, ActionConditionerConfig
from wm.conditioning.condition import Condition
from wm.conditioning.text import ByteText, ByteTextConfig, TextEncoderConfig
from wm.conditioning.text_cache import looked_up
from wm.config import config


@config
class TextConditionerConfig:
    kind: Literal["text"] = "text"
    encoder: TextEncoderConfig = ByteTextConfig()
    pooled: bool = True  # whether the mean of the tokens goes into every frame's modulation too
    action: ActionConditionerConfig | None = None  # what is done, beside what is said; None for worlds without controls

    def build(self, space: ActionSpace, hidden_size: int, stride: int, rows: int, columns: int) -> "TextConditioner":
        action = None if self.action is None else self.action.build(space, hidden_size, stride, rows, columns)
        return TextConditioner(self, hidden_size, action)


class TextConditioner(nn.Module):
    """Given.text to Condition.tokens (B, L, D) with their mask, and Condition.frames (B, 1 or T, D).

    A caption that says nothing is the empty one: an encoder has tokens for it, and "no text" is what they are.
    """

    def __init__(self, config: TextConditionerConfig, hidden_size: int, action: ActionConditioner | None) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        self.project = nn.Sequential(nn.LayerNorm(self.encoder.width), nn.Linear(self.encoder.width, hidden_size))
        self.pool = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.action = action
        self.num_maps = 0 if action is None else action.num_maps

    def forward(self, given: Given) -> Condition:
        said = self._said(_captions(given), given.encoded)
        return said if self.action is None else _joined(said, self.action(given))

    def null(self, given: Given) -> Condition:
        said = self._said(("",) * len(_captions(given)), given.encoded)
        return said if self.action is None else _joined(said, self.action.null(given))

    def _said(self, captions: tuple[str, ...], encoded: EncodedText | None = None) -> Condition:
        tokens, mask = self._encoded(captions, encoded)
        tokens = self.project(tokens)
        if not self.config.pooled:
            return Condition(tokens=tokens, mask=mask)
        real = mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return Condition(tokens=tokens, mask=mask, frames=self.pool(mean))

    def _encoded(self, captions: tuple[str, ...], encoded: EncodedText | None) -> tuple[Tensor, Tensor]:
        """(tokens (B, L, width), mask) on the device and in the dtype of the layers that read them."""
        like = next(self.project.parameters())
        if isinstance(self.encoder, ByteText):
            tokens, mask = self.encoder(captions)
        elif encoded is not None:
            tokens, mask = looked_up(encoded, captions, self.encoder, like.device)
        else:
            tokens, mask = self.encoder(captions, like.device)
        return tokens.to(like.dtype), mask


def without_text(given: Given, where: Tensor) -> Given:
    """`given` with the captions gone where `where` (B,) is True (Ho & Salimans 2022, algorithm 1, for the text alone)."""
    if given.text is None:
        return given
    gone = where.tolist()
    return replace(given, text=tuple("" if drop else said for said, drop in zip(given.text, gone, strict=True)))


def _captions(given: Given) -> tuple[str, ...]:
    if given.text is None:
        raise ValueError(
            "this model is conditioned on text and none was given: record an environment that has captions, or give one"
        )
    return given.text


def _joined(said: Condition, done: Condition) -> Condition:
    if said.frames is None or done.frames is None:
        return replace(
            done, tokens=said.tokens, mask=said.mask, frames=done.frames if said.frames is None else said.frames
        )
    return replace(done, tokens=said.tokens, mask=said.mask, frames=said.frames + done.frames)
