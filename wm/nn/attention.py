"""One door to every attention kernel: `attend`. Which one, when, and why; the kernels themselves are in kernels.py.

`plain` is two matrix products and a softmax, `sdpa` torch's scaled_dot_product_attention, `flex` its flex_attention,
`xformers` memory_efficient_attention, `flash` FlashAttention 3 or 2. `auto` takes the first of an order fixed by device,
size and mask that works here:

- CPU, up to 256 x 256 pairs a head: plain. torch's fused CPU kernel is made for long sequences; its backward in
  bfloat16 was measured 6 times slower on 24 tokens and 9 times on 16 (two cores with AVX-512 bf16), level at best.
- a CPU otherwise: sdpa. Its flex_attention has no backward and is not fast.
- GPU, no mask, a triangle or a table: sdpa while it has a fused kernel: on Hopper its cuDNN kernel outruns the kernels in
  the xformers wheel. Then flash, xformers, plain.
- GPU, a frame mask: the kernels that skip what the mask leaves empty (ORDER), and a table of it for the others.

Importing a library says nothing about its kernels, so each candidate is tried, forward and backward, on a tiny call.
Nothing is timed: ranks and resumed runs must choose alike. The choice is made and logged once per situation.
"""

import functools
import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wm.nn import kernels
from wm.nn.frame_mask import FrameMask, Pattern
from wm.nn.kernels import Kernel, Mask

log = logging.getLogger(__name__)

BACKENDS = ("auto", "plain", "sdpa", "flex", "xformers", "flash")

# Pairs of query and key per head up to which a CPU does better without a fused kernel.
FEW_PAIRS = 256 * 256

KERNELS: dict[str, Kernel] = {
    "plain": kernels.plain,
    "sdpa": kernels.sdpa,
    "flex": kernels.flex,
    "xformers": kernels.xformers,
    "flash": kernels.flash,
}

# By kind of mask, what a GPU tries; plain is left when all fail.
ORDER: dict[str, tuple[str, ...]] = {
    "full": ("sdpa", "flash", "xformers"),
    "causal": ("sdpa", "flash", "xformers"),
    "masked": ("sdpa", "xformers"),
    "band": ("flash", "flex", "xformers", "sdpa"),
    "clips": ("xformers", "flex", "sdpa"),
    "frames": ("flex", "sdpa", "xformers"),
}


def attend(
    q: Tensor,  # (B, heads, queries, head_dim)
    k: Tensor,  # (B, heads, keys, head_dim)
    v: Tensor,  # (B, heads, keys, head_dim)
    *,
    mask: Mask = None,  # a FrameMask, or bool that broadcasts to (B, heads, queries, keys): True where a query may look
    causal: bool = False,  # the last query lines up with the last key
    backend: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, (B, heads, queries, head_dim) in the dtype of v.

    Every query must see a key: what a row of nothing gives differs between kernels. ValueError where `backend` was
    asked for by name and has no kernel for this device, dtype, head size or mask.
    """
    queries, keys = q.shape[2], k.shape[2]
    if isinstance(mask, FrameMask):
        mask, causal = _of_frames(mask, causal, queries, keys)
    elif mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; it must be bool, True where a query may look")
    elif causal and (mask is not None or queries != keys):
        triangle = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        mask, causal = triangle if mask is None else mask & triangle, False
    # flex has no backward on a CPU, and is tried without where none is wanted; all others are tried with it.
    forward_only = backend == "flex" and not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))
    few = queries * keys <= FEW_PAIRS
    case = _Case(q.device, q.dtype, q.shape[-1], _kind(mask, causal), few, forward_only)
    return _kernel(backend, case)(q, k, v, mask, causal)


def _of_frames(mask: FrameMask, causal: bool, queries: int, keys: int) -> tuple[FrameMask | None, bool]:
    """(mask, causal), simplified to no mask or a triangle where it is one."""
    if causal:
        raise ValueError("causal goes with a bool mask; with a FrameMask its pattern says it: Pattern(causal=True)")
    if mask.shape != (queries, keys):
        raise ValueError(f"the frame mask is for {mask.shape} queries and keys, given are {(queries, keys)}")
    return (None, mask.kind == "causal") if mask.kind in ("full", "causal") else (mask, False)


def _kind(mask: Mask, causal: bool) -> str:
    if isinstance(mask, FrameMask):
        return mask.kind
    return "masked" if mask is not None else "causal" if causal else "full"


class _Case(NamedTuple):
    """All that a kernel's ability, and the order of trying, depend on."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    kind: str
    few_pairs: bool
    forward_only: bool

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        words = f"{self.device.type} {dtype} head_dim {self.head_dim} {self.kind}"
        return f"{words} without gradient" if self.forward_only else words


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
    order = ORDER[case.kind] if case.device.type == "cuda" else ("sdpa",)
    refused: list[str] = []
    for name in order:
        on_gpu = case.device.type == "cuda"
        failure = _failure(kernels.fused_sdpa if on_gpu and name == "sdpa" else KERNELS[name], case)
        if failure is None:
            return name, "; ".join(["the first with a fast kernel", *refused])
        refused.append(f"{name}: {failure}")
    return "plain", "; ".join(refused)


def _failure(kernel: Kernel, case: _Case) -> str | None:
    """Why a tiny forward and backward with `kernel` does not work; None if it does. Touches no random state."""
    with torch.inference_mode(mode=False), torch.set_grad_enabled(not case.forward_only):
        q, k, v = (torch.ones(1, 1, 8, case.head_dim, dtype=case.dtype, device=case.device) for _ in range(3))
        try:
            out = kernel(q.requires_grad_(not case.forward_only), k, v, _tiny_mask(case), case.kind == "causal")
            if not case.forward_only:
                out.backward(torch.ones_like(out))
        # Kernels refuse in these ways: no operator, no library, no dispatch, an unsupported shape; inductor has its own.
        except (NotImplementedError, ImportError, RuntimeError, ValueError) as error:
            return str(error).strip().splitlines()[0].rstrip(": ")
    return None


def _tiny_mask(case: _Case) -> Any:
    """A mask of the case's kind over 8 tokens."""
    match case.kind:
        case "masked":
            return torch.ones(8, 8, dtype=torch.bool, device=case.device).tril()
        case "band":
            return FrameMask.of_clip(Pattern(window=3), 8)
        case "clips":
            return FrameMask.packed(Pattern(causal=False), (3, 5))
        case "frames":
            return FrameMask.of_clip(Pattern(window=2, sinks=1), 4, tokens=2)
    return None
