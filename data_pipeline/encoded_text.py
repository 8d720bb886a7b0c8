"""Encoded captions on disk: (L, width) rows of float32, or of the bits of bfloat16 as uint16, which NumPy does not know.

Nothing is rounded, so a training reads the very numbers that the encoder gave.
"""

import base64
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from data_pipeline.schema import DataError, TextFacts
from wm.batch import EncodedText


def to_rows(tokens: Tensor) -> np.ndarray:
    """The rows of tokens (L, width) in float32 or bfloat16."""
    if tokens.dtype == torch.bfloat16:
        return tokens.contiguous().view(torch.uint16).numpy()
    return tokens.to(torch.float32).numpy()


def from_rows(rows: np.ndarray) -> Tensor:
    """The tokens (L, width) of `rows`: the inverse of `to_rows`."""
    tokens = torch.from_numpy(np.array(rows))
    return tokens.view(torch.bfloat16) if rows.dtype == np.uint16 else tokens


def text_facts(encoder: str, empty: Tensor) -> TextFacts:
    """What a manifest says of the encoder whose tokens for the empty caption are `empty` (L, width)."""
    return TextFacts(
        encoder=encoder,
        precision="bfloat16" if empty.dtype == torch.bfloat16 else "float32",
        width=empty.shape[1],
        empty=base64.b64encode(to_rows(empty).tobytes()).decode(),
    )


def encoded_text(facts: TextFacts | None, rows: Mapping[str | None, np.ndarray | None]) -> EncodedText | None:
    """The captions of a batch by their `rows`, and the empty one; None for a dataset whose captions are not encoded."""
    if facts is None:
        return None
    missing = [caption for caption, found in rows.items() if found is None]
    if missing:
        raise DataError(f"caption {missing[0]!r} is not encoded, and its dataset says that all are: encode it again")
    kind = np.uint16 if facts.precision == "bfloat16" else np.float32
    empty = np.frombuffer(base64.b64decode(facts.empty), kind).reshape(-1, facts.width)
    tokens = {caption: from_rows(found) for caption, found in rows.items() if caption is not None and found is not None}
    return EncodedText(facts.encoder, {"": from_rows(empty)} | tokens)
