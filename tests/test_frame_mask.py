"""Frame masks: the boolean function against loops, kernels against a float32 softmax, caches against whole clips."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from wm.nn import kernels
from wm.nn.attention import ORDER, _Case, _tiny_mask, attend
from wm.nn.frame_mask import FrameMask, Pattern, layered

PATTERNS = {
    "causal": Pattern(),
    "window": Pattern(window=3),
    "sinks": Pattern(window=2, sinks=1),
    "both ways": Pattern(causal=False),
    "window both ways": Pattern(causal=False, window=2),
}
MASKS = {
    **{
        f"{name}, {tokens} tokens": FrameMask.of_clip(p, 6, tokens) for name, p in PATTERNS.items() for tokens in (1, 4)
    },
    **{f"{name}, cached": FrameMask.of_clip(p, 6, 3, num_queries=2) for name, p in PATTERNS.items()},
    **{f"{name}, packed": FrameMask.packed(p, (2, 4, 1), 3) for name, p in PATTERNS.items()},
}


def inputs(mask: FrameMask, heads: int = 3, head_dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = mask.shape
    sizes = ((2, heads, n, head_dim) for n in (queries, keys, keys))
    q, k, v = (torch.randn(size, generator=generator) for size in sizes)
    return q, k, v


def written_out(mask: FrameMask) -> Tensor:
    """The mask by the words of Pattern's fields, one pair of tokens at a time."""
    queries, keys = mask.shape
    out = torch.zeros(queries, keys, dtype=torch.bool)
    for i, j in itertools.product(range(queries), range(keys)):
        a, b = i // mask.tokens, j // mask.tokens
        query, key = mask.query_frames[a], mask.key_frames[b]
        near = not mask.pattern.window or abs(query - key) < mask.pattern.window or key < mask.pattern.sinks
        same_clip = not mask.query_clips or mask.query_clips[a] == mask.key_clips[b]
        out[i, j] = near and same_clip and (key <= query or not mask.pattern.causal)
    return out


def reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_its_pattern_written_out(name: str) -> None:
    mask = MASKS[name]
    assert torch.equal(mask.dense(torch.device("cpu")), written_out(mask))
    query, key = (torch.arange(n) for n in mask.shape)
    assert torch.equal(mask.function("cpu")(query[:, None], key), written_out(mask))


@pytest.mark.parametrize("backend", ["plain", "sdpa", "auto"])
@pytest.mark.parametrize("name", MASKS)
def test_backends_agree_with_the_reference_forward_and_backward(name: str, backend: str) -> None:
    mask = MASKS[name]
    ours, theirs = ([x.requires_grad_() for x in inputs(mask)] for _ in range(2))
    out, expected = attend(*ours, mask=mask, backend=backend), reference(*theirs, written_out(mask))
    for made in (out, expected):
        made.square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_flex_agrees_with_the_reference_forward() -> None:
    """Forward only: torch has no backward of it on a CPU, which is refused by a line of ours (below)."""
    for name in ("causal, 1 tokens", "sinks, 4 tokens", "window, cached", "window both ways, packed"):
        mask = MASKS[name]
        out = attend(*inputs(mask), mask=mask, backend="flex")
        torch.testing.assert_close(out, reference(*inputs(mask), written_out(mask)), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusals are those of a machine without CUDA")
def test_what_a_backend_cannot_do_is_one_line() -> None:
    mask = MASKS["sinks, 4 tokens"]
    q, k, v = inputs(mask)
    with pytest.raises(ValueError, match=r"flex has no kernel for cpu float32 head_dim 8 frames \(.*backward on CPU"):
        attend(q.clone().requires_grad_(), k, v, mask=mask, backend="flex")
    with pytest.raises(ValueError, match="flex takes a FrameMask"):
        attend(q, k, v, mask=mask.dense(q.device), backend="flex")
    with pytest.raises(ValueError, match="flash has no masks but triangles and bands"):
        attend(q, k, v, mask=mask, backend="flash")
    with pytest.raises(ValueError, match=r"frame mask is for \(24, 24\) queries and keys, given are \(24, 23\)"):
        attend(q, k[:, :, 1:], v[:, :, 1:], mask=mask)
    with pytest.raises(ValueError, match="its pattern says it"):
        attend(q, k, v, mask=mask, causal=True)
    with pytest.raises(ValueError, match="must not be negative"):
        Pattern(window=-1)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="xformers, flash and flex's backward have kernels for CUDA only"
)
@pytest.mark.parametrize("backend", ["flex", "xformers", "flash"])
@pytest.mark.parametrize("name", MASKS)
def test_backends_agree_on_cuda(name: str, backend: str) -> None:
    mask = MASKS[name]
    ours, theirs = ([x.cuda().bfloat16().requires_grad_() for x in inputs(mask, head_dim=32)] for _ in range(2))
    try:
        out = attend(*ours, mask=mask, backend=backend)
    except ValueError as refusal:
        pytest.skip(str(refusal))
    expected = attend(*theirs, mask=mask, backend="plain")
    for made in (out, expected):
        made.float().square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", MASKS)
def test_xformers_is_given_the_same_mask(name: str) -> None:
    """Its biases say what they mean without a kernel."""
    pytest.importorskip("xformers", reason="xformers is not installed here")
    mask = MASKS[name]
    bias = kernels.xformers_bias(mask, inputs(mask)[0][:1], mask.shape[1])
    if bias is None:
        assert bool(written_out(mask).all())
        return
    added = bias[0, 0] if isinstance(bias, Tensor) else bias.materialize(mask.shape)
    assert torch.equal(added == 0, written_out(mask))
    assert bool((added[~written_out(mask)] == -math.inf).all())


def test_structure_is_seen_so_that_kernels_can_skip() -> None:
    kinds = {name: mask.kind for name, mask in MASKS.items()}
    assert kinds["causal, 1 tokens"] == "causal"
    assert kinds["window, 1 tokens"] == kinds["window both ways, 1 tokens"] == "band"
    assert FrameMask.of_clip(Pattern(window=3), 6, num_queries=2).kind == "band"
    assert FrameMask.of_clip(Pattern(window=3), 6, num_queries=1).kind == "band"
    assert kinds["causal, 4 tokens"] == kinds["sinks, 1 tokens"] == kinds["window, packed"] == "frames"
    assert kinds["both ways, 4 tokens"] == "full"
    assert kinds["both ways, packed"] == "clips"


def test_what_is_tried_is_of_the_kind_it_stands_for() -> None:
    for kind in ("band", "clips", "frames"):
        case = _Case(torch.device("cpu"), torch.float32, 8, kind, True, False)
        assert _tiny_mask(case).kind == kind
        assert _tiny_mask(case).shape == (8, 8)
        assert ORDER[kind]


@pytest.mark.parametrize("name", ["causal", "window", "sinks"])
def test_frame_by_frame_with_a_cache_equals_the_whole_clip(name: str) -> None:
    """Also when the cache forgets what the pattern never looks at again: it keeps sinks and a window."""
    pattern, tokens, num_frames = PATTERNS[name], 3, 7
    whole = FrameMask.of_clip(pattern, num_frames, tokens)
    q, k, v = inputs(whole)
    expected = attend(q, k, v, mask=whole)
    for frame in range(num_frames):
        kept = [f for f in range(frame + 1) if not pattern.window or f > frame - pattern.window or f < pattern.sinks]
        places = torch.cat([torch.arange(f * tokens, (f + 1) * tokens) for f in kept])
        rows = slice(frame * tokens, (frame + 1) * tokens)
        mask = FrameMask(pattern, (frame,), tuple(kept), tokens)
        out = attend(q[:, :, rows], k[:, :, places], v[:, :, places], mask=mask)
        torch.testing.assert_close(out, expected[:, :, rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_packed_clips_are_what_they_are_alone(name: str) -> None:
    lengths, tokens = (2, 4, 1), 3
    q, k, v = inputs(FrameMask.packed(PATTERNS[name], lengths, tokens))
    packed = attend(q, k, v, mask=FrameMask.packed(PATTERNS[name], lengths, tokens))
    first = 0
    for length in lengths:
        rows = slice(first * tokens, (first + length) * tokens)
        alone = attend(*(x[:, :, rows] for x in (q, k, v)), mask=FrameMask.of_clip(PATTERNS[name], length, tokens))
        torch.testing.assert_close(packed[:, :, rows], alone, rtol=1e-5, atol=1e-5)
        first += length


def test_every_nth_layer_is_global() -> None:
    local = Pattern(window=4, sinks=1)
    assert layered(local, 5, global_every=2) == (local, Pattern(), local, Pattern(), local)
    assert layered(local, 3) == (local, local, local)


def test_a_table_made_in_inference_mode_serves_a_backward() -> None:
    mask = FrameMask.of_clip(Pattern(window=2), 5, 2)
    with torch.inference_mode():
        attend(*inputs(mask), mask=mask, backend="plain")
    q, k, v = (x.requires_grad_() for x in inputs(mask))
    attend(q, k, v, mask=mask, backend="plain").sum().backward()
    assert q.grad is not None
