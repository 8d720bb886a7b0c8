"""Activation checkpointing: what a block computed is thrown away and computed again in the backward, for memory."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]

# Dear to compute and small to keep: products with weights, and attention. All else is norms, gates and activations.
_KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
)


def recomputed(function: Callable[..., Any], how: Recompute, *args: Any) -> Any:
    """function(*args). In a backward `full` computes all of it again, `selective` all but matrix products, `none` nothing.

    Gradients are the same. Without gradients nothing is kept anyway, and the function is called as it is.
    """
    if how == "none" or not torch.is_grad_enabled():
        return function(*args)
    if how == "full":
        return checkpoint(function, *args, use_reentrant=False)
    contexts = functools.partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
