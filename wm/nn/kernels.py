"""The kernels behind attention.py, each a function (q, k, v, mask, causal) -> out on (B, heads, N, head_dim).

The only file that knows flex_attention, xformers and flash_attn. A kernel raises ValueError, NotImplementedError or what
its library raises where it cannot; attention.py tries it before it chooses it.
"""

import functools
import importlib
import logging
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm.nn.frame_mask import FrameMask, Pattern

Mask = Tensor | FrameMask | None
Kernel = Callable[[Tensor, Tensor, Tensor, Mask, bool], Tensor]


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """Two matrix products and a softmax."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    allowed = dense(mask, q.device)
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """torch's scaled_dot_product_attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=dense(mask, q.device), is_causal=causal)


def fused_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """Raises where sdpa would fall back to its slow unfused form."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
        return sdpa(q, k, v, mask, causal)


def dense(mask: Mask, device: torch.device) -> Tensor | None:
    return mask.dense(device) if isinstance(mask, FrameMask) else mask


def flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """torch's flex_attention: blocks that a frame mask leaves empty cost nothing (Dong et al. 2024, arXiv:2412.05496)."""
    if isinstance(mask, Tensor):
        raise ValueError("flex takes a FrameMask: a table would have to be searched for empty blocks on every call")
    if causal:
        mask = FrameMask.of_clip(Pattern(), q.shape[2])
    return _flex_call(q.device.type)(q, k, v, block_mask=None if mask is None else _block_mask(mask, q.device))


@functools.cache
def _flex_call(device_type: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    if device_type != "cpu":
        return torch.compile(flex_attention)
    # On a CPU it has no backward and is a reference, not a fast path: compiling takes a minute and brings nothing.
    warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
    return flex_attention


@functools.lru_cache(maxsize=32)
def _block_mask(mask: FrameMask, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    with torch.inference_mode(mode=False):
        sees = mask.function(device)
        return create_block_mask(lambda b, h, query, key: sees(query, key), None, None, *mask.shape, device=device)


@functools.cache
def _xformers_ops() -> tuple[Callable[..., Tensor], ModuleType]:
    """(memory_efficient_attention, the module of its biases), imported without the wheel's warning about its build."""
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import memory_efficient_attention
            from xformers.ops.fmha import attn_bias
    finally:
        logger.setLevel(level)
    return memory_efficient_attention, attn_bias


def xformers(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """xformers' memory_efficient_attention with the bias that says most of the mask (xformers_bias)."""
    call, biases = _xformers_ops()
    rows = [x.transpose(1, 2) for x in (q, k, v)]
    if isinstance(mask, FrameMask) and mask.kind == "clips":  # its blocks lie along one row
        row = call(*(rearrange(x, "b n h d -> 1 (b n) h d") for x in rows), attn_bias=xformers_bias(mask, q))
        return rearrange(row, "1 (b n) h d -> b h n d", b=q.shape[0])
    bias = biases.LowerTriangularMask() if causal else xformers_bias(mask, q, k.shape[2])
    return call(*rows, attn_bias=bias).transpose(1, 2)


def xformers_bias(mask: Mask, q: Tensor, keys: int = 0) -> Any:
    """What memory_efficient_attention is given as attn_bias for `mask`; None where every query sees every key."""
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        return _added(mask, q, keys)
    biases = _xformers_ops()[1]
    left, right = mask.band
    match mask.kind:
        case "full":
            return None
        case "causal":
            return biases.LowerTriangularMask()
        case "band" if left < 0:
            return biases.LowerTriangularFromBottomRightMask()
        case "band" if right == 0:
            return biases.LowerTriangularFromBottomRightLocalAttentionMask(left + 1)
        case "band":
            return biases.LocalAttentionFromBottomRightMask(left, right)
        case "clips":
            queries, of_keys = (lengths * q.shape[0] for lengths in mask.block_lengths)
            return biases.BlockDiagonalMask.from_seqlens(queries, of_keys, device=q.device)
        case _:
            return _added(mask.dense(q.device), q, mask.shape[1])


def _added(mask: Tensor, q: Tensor, keys: int) -> Tensor:
    """`mask` to be added to scores, (B, heads, queries, keys). Its rows lie a multiple of 8 apart, as kernels ask."""
    whole = q.new_zeros(*q.shape[:3], -(-keys // 8) * 8)[..., :keys]
    return whole.masked_fill_(~mask, -math.inf)


@functools.cache
def _flash_call() -> Callable[..., Any]:
    """FlashAttention 3 where it is installed, else 2; ImportError where neither is."""
    try:
        module = importlib.import_module("flash_attn_interface")
    except ImportError:
        module = importlib.import_module("flash_attn")
    return module.flash_attn_func


def flash(q: Tensor, k: Tensor, v: Tensor, mask: Mask, causal: bool) -> Tensor:
    """FlashAttention (Dao 2023, arXiv:2307.08691), which knows triangles and bands but no other mask."""
    if isinstance(mask, Tensor) or (mask is not None and mask.kind not in ("full", "causal", "band")):
        raise ValueError("flash has no masks but triangles and bands of one token a frame")
    window = mask.band if mask is not None and mask.kind != "full" else (-1, -1)
    rows = [x.transpose(1, 2) for x in (q, k, v)]
    out = _flash_call()(*rows, causal=causal or window[1] == 0, window_size=window)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
