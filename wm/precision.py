"""The number format that networks compute in."""

from typing import Literal

import torch

# `auto` is what is faster where a stage runs; it is settled when the stage begins (launch/precision.py).
Precision = Literal["auto", "float32", "bfloat16"]


def dtype_of(precision: Precision) -> torch.dtype:
    """ValueError for what is not settled yet."""
    if precision == "auto":
        raise ValueError("precision auto is settled where a stage is launched; give float32 or bfloat16 here")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
