"""Cross-attention to text: the equations in float64, nothing from what is masked, no order of its own, no change at first."""

import pytest
import torch
from torch import Tensor, nn

from wm.nn.cross_attention import CrossAttention

B, T, N, L, D, HEADS = 2, 3, 5, 7, 12, 3


def layer() -> CrossAttention:
    torch.manual_seed(0)
    built = CrossAttention(D, HEADS, "auto")
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


def some(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, text = torch.randn(B, T, N, D, generator=generator), torch.randn(B, L, D, generator=generator)
    return x, text, torch.arange(L) < torch.tensor([[3], [L]])


def reference(layer: CrossAttention, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """A query, a head, a caption at a time."""
    weights = {name: value.double() for name, value in layer.state_dict().items()}

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normal(v: Tensor) -> Tensor:
        return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()

    out, size = torch.zeros_like(x, dtype=torch.float64), D // HEADS
    for b, t, n in ((b, t, n) for b in range(B) for t in range(T) for n in range(N)):
        query = linear("query", normal(x[b, t, n].double()) * weights["norm.weight"] + weights["norm.bias"])
        words = [linear("key_value", word.double()) for word, real in zip(text[b], mask[b], strict=True) if real]
        heads = []
        for part in (slice(h * size, (h + 1) * size) for h in range(HEADS)):
            q = normal(query[part]) * weights["query_norm.weight"]
            keys = torch.stack([normal(word[:D][part]) * weights["key_norm.weight"] for word in words])
            values = torch.stack([word[D:][part] for word in words])
            heads.append(torch.softmax(keys @ q / size**0.5, 0) @ values)
        out[b, t, n] = linear("out", torch.cat(heads))
    return out


@pytest.mark.parametrize("backend", ["auto", "plain", "sdpa"])
def test_it_is_the_equations(backend: str) -> None:
    built = layer()
    built.backend = backend
    torch.testing.assert_close(built(*some()).double(), reference(built, *some()), rtol=1e-5, atol=1e-5)


def test_masked_words_are_not_read_and_words_have_no_order() -> None:
    built, (x, text, mask) = layer(), some()
    changed = torch.where(mask[..., None], text, 9.0)
    torch.testing.assert_close(built(x, changed, mask), built(x, text, mask))
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    torch.testing.assert_close(built(x, text[:, order], mask[:, order]), built(x, text, mask))
    torch.testing.assert_close(built(x[:, 1:2], text, mask), built(x, text, mask)[:, 1:2])  # frames do not meet here


def test_it_starts_as_no_change_and_learns_from_there() -> None:
    built, (x, text, mask) = CrossAttention(D, HEADS, "auto"), some()
    out = built(x, text, mask)
    assert not out.any()
    (out * x).sum().backward()
    assert built.out.weight.grad is not None
    assert built.out.weight.grad.any()
