"""One door to every attention kernel: `attend`. The only file that knows xformers.

`plain` is two matrix products and a softmax, `sdpa` is torch's scaled_dot_product_attention, `xformers` its
memory_efficient_attention. `auto` takes the first of an order fixed by device and size that works here:

- CPU, up to 256 x 256 pairs a head: plain. torch's fused CPU kernel is made for long sequences; its backward in
  bfloat16 was measured 6 times slower on 24 tokens and 9 times on 16 (two cores with AVX-512 bf16), level at best.
- otherwise sdpa while it has a fused kernel, then xformers, then plain: on Hopper sdpa's cuDNN kernel outruns the
  kernels in the xformers wheel.

Importing xformers says nothing about its kernels, so each candidate is tried, forward and backward, on a tiny call.
Nothing is timed: ranks and resumed runs must choose alike. The choice is made and logged once per situation.
"""

import functools
import logging
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

BACKENDS = ("auto", "plain", "sdpa", "xformers")

# Pairs of query and key per head up to which a CPU does better without a fused kernel.
FEW_PAIRS = 256 * 256

# (q, k, v, mask, causal) -> out
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def attend(
    q: Tensor,  # (B, heads, queries, head_dim)
    k: Tensor,  # (B, heads, keys, head_dim)
    v: Tensor,  # (B, heads, keys, head_dim)
    *,
    mask: Tensor | None = None,  # bool, broadcasts to (B, heads, queries, keys): True where a query may look
    causal: bool = False,  # the last query lines up with the last key
    backend: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, (B, heads, queries, head_dim) in the dtype of v.

    Every query must see a key: what a row of nothing gives differs between kernels. ValueError where `backend` was
    asked for by name and has no kernel for this device, dtype, head size or mask.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; it must be bool, True where a query may look")
    queries, keys = q.shape[2], k.shape[2]
    if causal and (mask is not None or queries != keys):
        triangle = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        mask, causal = triangle if mask is None else mask & triangle, False
    case = _Case(q.device, q.dtype, q.shape[-1], mask is not None, causal, queries * keys <= FEW_PAIRS)
    return _kernel(backend, case)(q, k, v, mask, causal)


class _Case(NamedTuple):
    """All that a kernel's ability, and the order of trying, depend on."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    masked: bool
    causal: bool
    few_pairs: bool

    def __str__(self) -> str:
        pattern = "masked" if self.masked else "causal" if self.causal else "full"
        return f"{self.device.type} {str(self.dtype).removeprefix('torch.')} head_dim {self.head_dim} {pattern}"


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype) @ v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _fused_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Raises where sdpa would fall back to its slow unfused form."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
        return _sdpa(q, k, v, mask, causal)


@functools.cache
def _xformers_call() -> tuple[Callable[..., Tensor], Callable[[], object]]:
    """(memory_efficient_attention, LowerTriangularMask), imported without the wheel's warning about its build."""
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import LowerTriangularMask, memory_efficient_attention
    finally:
        logger.setLevel(level)
    return memory_efficient_attention, LowerTriangularMask


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    call, lower_triangle = _xformers_call()
    bias = lower_triangle() if causal else None if mask is None else _bias(mask, q, k.shape[2])
    return call(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_bias=bias).transpose(1, 2)


def _bias(mask: Tensor, q: Tensor, keys: int) -> Tensor:
    """`mask` to be added to scores, (B, heads, queries, keys). Its rows lie a multiple of 8 apart, as kernels ask."""
    whole = q.new_zeros(*q.shape[:3], -(-keys // 8) * 8)[..., :keys]
    return whole.masked_fill_(~mask, -math.inf)


KERNELS: dict[str, Kernel] = {"plain": _plain, "sdpa": _sdpa, "xformers": _xformers}


@functools.cache
def _kernel(backend: str, case: _Case) -> Kernel:
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is not one of {', '.join(BACKENDS)}")
    name, reason = _first_that_works(case) if backend == "auto" else (backend, "asked for by name")
    if backend != "auto" and (failure := _failure(KERNELS[name], case)):
        raise ValueError(f"attention backend {name} has no kernel for {case} ({failure}): use auto or sdpa")
    log.info("attention on %s: %s (%s)", case, name, reason)
    return KERNELS[name]


def _first_that_works(case: _Case) -> tuple[str, str]:
    """(backend, why), by the order at the head of this file."""
    if case.device.type == "cpu" and case.few_pairs:
        return "plain", "few tokens on a CPU"
    refused: list[str] = []
    for name, kernel in (("sdpa", _sdpa if case.device.type != "cuda" else _fused_sdpa), ("xformers", _xformers)):
        failure = _failure(kernel, case)
        if failure is None:
            return name, "; ".join(["the first with a fast kernel", *refused])
        refused.append(f"{name}: {failure}")
    return "plain", "; ".join(refused)


def _failure(kernel: Kernel, case: _Case) -> str | None:
    """Why a tiny forward and backward with `kernel` does not work; None if it does. Touches no random state."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        q, k, v = (torch.ones(1, 1, 8, case.head_dim, dtype=case.dtype, device=case.device) for _ in range(3))
        mask = torch.ones(8, 8, dtype=torch.bool, device=case.device).tril() if case.masked else None
        try:
            out = kernel(q.requires_grad_(), k, v, mask, case.causal)
            out.backward(torch.ones_like(out))
        # Kernels refuse in these ways: no operator, no library, no dispatch, an unsupported shape.
        except (NotImplementedError, ImportError, RuntimeError, ValueError) as error:
            return str(error).strip().splitlines()[0].rstrip(": ")
    return None
