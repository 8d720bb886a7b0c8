"""Every backend that runs here against a slow reference, and what is said of those that do not."""

import itertools
import logging
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from wm.nn import attention
from wm.nn.attention import FEW_PAIRS, attend

HERE = ["plain", "sdpa", "auto"]
XFORMERS = pytest.param(
    "xformers",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers has kernels for CUDA only"),
)


def inputs(
    queries: int = 5, keys: int = 7, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, queries, 8), (2, 3, keys, 8), (2, 3, keys, 8))
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes)
    return q, k, v


def reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """One query at a time."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for b, h, i in itertools.product(*(range(n) for n in q.shape[:3])):
        seen = allowed.expand(*q.shape[:3], k.shape[2])[b, h, i]
        weights = torch.exp(k[b, h, seen] @ q[b, h, i] / math.sqrt(q.shape[-1]))
        out[b, h, i] = (weights / weights.sum()) @ v[b, h, seen]
    return out


def some_mask(queries: int, keys: int, heads: int = 1) -> Tensor:
    mask = torch.rand(2, heads, queries, keys, generator=torch.Generator().manual_seed(1)) > 0.5
    mask[..., 0] = True  # every query sees a key
    return mask


@pytest.mark.case("T-13")
@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize(("queries", "keys"), [(5, 7), (6, 6), (1, 9)])
def test_agrees_with_the_reference(backend: str, queries: int, keys: int) -> None:
    q, k, v = inputs(queries, keys)
    everything = torch.ones(queries, keys, dtype=torch.bool)
    torch.testing.assert_close(attend(q, k, v, backend=backend), reference(q, k, v, everything))
    for mask in (some_mask(queries, keys), some_mask(queries, keys, heads=3), some_mask(queries, keys)[0, 0]):
        torch.testing.assert_close(attend(q, k, v, mask=mask, backend=backend), reference(q, k, v, mask))


@pytest.mark.case("T-13")
@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (2, 6), (1, 6)])
def test_causal_lines_the_last_query_up_with_the_last_key(backend: str, queries: int, keys: int) -> None:
    q, k, v = inputs(queries, keys)
    past = torch.arange(keys)[None] <= torch.arange(queries)[:, None] + keys - queries
    torch.testing.assert_close(attend(q, k, v, causal=True, backend=backend), reference(q, k, v, past))
    mask = some_mask(queries, keys)
    both = attend(q, k, v, mask=mask, causal=True, backend=backend)
    torch.testing.assert_close(both, reference(q, k, v, mask & past))


@pytest.mark.parametrize("backend", HERE)
def test_what_is_masked_has_no_gradient(backend: str) -> None:
    q, k, v = inputs()
    k.requires_grad_()
    v.requires_grad_()
    mask = torch.arange(7) < 4
    attend(q, k, v, mask=mask[None], backend=backend).sum().backward()
    for x in (k, v):
        assert x.grad is not None
        assert bool((x.grad[:, :, 4:] == 0).all())
        assert bool((x.grad[:, :, :4] != 0).any())


@pytest.mark.case("T-13")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backends_agree_forward_and_backward(dtype: torch.dtype) -> None:
    made = {}
    for backend in HERE:
        q, k, v = (x.requires_grad_() for x in inputs(6, 6, dtype))
        out = attend(q, k, v, causal=True, backend=backend)
        out.float().square().sum().backward()
        assert q.grad is not None
        made[backend] = out.detach().float(), q.grad.float()
        assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.06
    for backend in HERE[1:]:
        for ours, theirs in zip(made[backend], made["plain"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.case("T-13")
@pytest.mark.parametrize("backend", [XFORMERS])
def test_xformers_agrees_on_cuda(backend: str) -> None:
    q, k, v = inputs(16, 24, torch.bfloat16, "cuda")
    for mask in (None, some_mask(16, 24).cuda()):
        out = attend(q, k, v, mask=mask, backend=backend)
        torch.testing.assert_close(out, attend(q, k, v, mask=mask, backend="plain"), rtol=0.02, atol=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers has a kernel on this machine")
def test_xformers_without_a_kernel_is_one_clear_line() -> None:
    with pytest.raises(
        ValueError, match=r"xformers has no kernel for cpu float32 head_dim 8 full \(.+\): use auto"
    ) as e:
        attend(*inputs(dtype=torch.float32), backend="xformers")
    assert "\n" not in str(e.value)


def test_unknown_backends_and_masks_of_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="'fast' is not one of auto, plain, sdpa, flex, xformers, flash"):
        attend(*inputs(), backend="fast")
    with pytest.raises(ValueError, match="must be bool"):
        attend(*inputs(), mask=torch.zeros(5, 7))


def test_auto_on_a_cpu_chooses_by_size_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    attention._kernel.cache_clear()
    with caplog.at_level(logging.INFO, logger="wm.nn.attention"):
        for _ in range(3):
            attend(*inputs(dtype=torch.float32))
        side = math.isqrt(FEW_PAIRS) + 1
        attend(*(torch.zeros(1, 1, side, 8) for _ in range(3)))
    assert [record.getMessage() for record in caplog.records] == [
        "attention on cpu float32 head_dim 8 full: plain (few tokens on a CPU)",
        "attention on cpu float32 head_dim 8 full: sdpa (the first with a fast kernel)",
    ]


def test_choosing_leaves_the_random_state_alone_and_works_in_inference_mode() -> None:
    attention._kernel.cache_clear()
    before = torch.get_rng_state()
    with torch.inference_mode():
        attend(*inputs(), backend="sdpa")
    assert torch.equal(torch.get_rng_state(), before)
    q, k, v = (x.requires_grad_() for x in inputs())
    attend(q, k, v, backend="sdpa").sum().backward()


def test_shapes_can_be_worked_out_on_meta_tensors() -> None:
    q, k, v = (x.to("meta") for x in inputs())
    assert attend(q, k, v, mask=torch.ones(5, 7, dtype=torch.bool, device="meta")).shape == (2, 3, 5, 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the wheel is silent where its kernels load")
def test_xformers_is_imported_only_when_asked_and_without_noise() -> None:
    program = """
import sys, torch
from wm.nn.attention import attend
x = torch.zeros(1, 1, 4, 8)
attend(x, x, x)
assert "xformers" not in sys.modules
try:
    attend(x, x, x, backend="xformers")
except ValueError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
