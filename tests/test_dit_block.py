"""A DiT's block against its equations in float64, written a token and a head at a time; and the block of two streams."""

import math

import pytest
import torch
from torch import Tensor, nn

from wm.models.block import Block
from wm.models.view import View
from wm.nn.frame_mask import Pattern
from wm.nn.rope import BASE

B, T, ROWS, COLUMNS, D, HEADS, L = 2, 5, 2, 3, 24, 3, 4
N, HEAD = ROWS * COLUMNS, D // HEADS
PATTERN = Pattern(window=3, sinks=1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


def view(full: bool = False, words: int = 0, mask: Tensor | None = None) -> View:
    device = torch.device("cpu")
    return View([PATTERN], T, ROWS, COLUMNS, HEAD, device, full=full, num_words=words, words_mask=mask)


class Equations:
    """The block's weights in float64, and the formulas on single vectors."""

    def __init__(self, block: nn.Module) -> None:
        self.weights = {name: value.double() for name, value in block.state_dict().items()}

    def linear(self, name: str, v: Tensor) -> Tensor:
        return self.weights[f"{name}.weight"] @ v + self.weights[f"{name}.bias"]

    def mlp(self, name: str, v: Tensor) -> Tensor:
        inner = self.linear(f"{name}.rise", v)
        return self.linear(f"{name}.fall", inner / (1 + torch.exp(-inner)))

    def projected(self, name: str, v: Tensor) -> list[list[Tensor]]:
        """For each head its query, key and value; queries and keys normalised."""
        q, k, v = self.linear(f"{name}.qkv", v).split(D)
        gains = self.weights[f"{name}.query_norm.weight"], self.weights[f"{name}.key_norm.weight"]
        cut = [slice(h * HEAD, (h + 1) * HEAD) for h in range(HEADS)]
        return [[standard(q[c]) * gains[0], standard(k[c]) * gains[1], v[c]] for c in cut]


def standard(v: Tensor) -> Tensor:
    return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()


def turned(v: Tensor, *positions: tuple[int, int]) -> Tensor:
    """Number i and i + HEAD / 2 as one complex number, turned by its axis: `positions` are (place, pairs of that axis)."""
    z = torch.complex(v[: HEAD // 2], v[HEAD // 2 :])
    angles = [place * BASE ** (-j / pairs) for place, pairs in positions for j in range(pairs)]
    z = z * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
    return torch.cat([z.real, z.imag])


def attended(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    scores = torch.stack([query @ key / math.sqrt(HEAD) for key in keys])
    return (torch.softmax(scores, 0).unsqueeze(1) * torch.stack(values)).sum(0)


def sees(frame: int, other: int) -> bool:
    return other <= frame and (frame - other < 3 or other < 1)


def reference(block: Block, x: Tensor, modulation: Tensor) -> Tensor:
    """Peebles & Xie 2023, section 3.2 with adaLN-single: x + gate f(LN(x) (1 + scale) + shift) for time, space, feed-forward."""
    eq, x = Equations(block), x.double()
    parts = (modulation[..., : len(block.modulation)].double() + eq.weights["modulation"]).split(D, dim=-1)
    names = ["feed", "space"] + (["time"] if block.time is not None else [])
    coefficients = {name: parts[3 * i : 3 * i + 3] for i, name in enumerate(names)}

    def entered(name: str, x: Tensor, b: int, t: int, n: int) -> Tensor:
        shift, scale, _ = coefficients[name]
        return standard(x[b, t, n]) * (1 + scale[b, t]) + shift[b, t]

    def left(name: str, x: Tensor, change: Tensor) -> Tensor:
        return x + coefficients[name][2].unsqueeze(2) * change

    places = [(b, t, n) for b in range(B) for t in range(T) for n in range(N)]
    if block.time is not None:
        change = torch.zeros_like(x)
        heads = {place: eq.projected("time", entered("time", x, *place)) for place in places}
        for b, t, n in places:
            seen = [other for other in range(T) if sees(t, other)]
            read = [
                attended(
                    turned(heads[b, t, n][h][0], (t, HEAD // 2)),
                    [turned(heads[b, other, n][h][1], (other, HEAD // 2)) for other in seen],
                    [heads[b, other, n][h][2] for other in seen],
                )
                for h in range(HEADS)
            ]
            change[b, t, n] = eq.linear("time.out", torch.cat(read))
        x = left("time", x, change)
    change, frames = torch.zeros_like(x), 0
    if block.time is None:  # the full form: about a third of the pairs for each of frame, row and column
        frames = HEAD // 2 - 2 * (HEAD // 6)
    across = (HEAD // 2 - frames) // 2

    def placed(v: Tensor, t: int, n: int) -> Tensor:
        grid = ((n // COLUMNS, across), (n % COLUMNS, across))
        return turned(v, *(((t, frames),) if frames else ()), *grid)

    heads = {place: eq.projected("space", entered("space", x, *place)) for place in places}
    for b, t, n in places:
        near = [other for other in range(T) if (sees(t, other) if frames else other == t)]
        seen = [(other, m) for other in near for m in range(N)]
        read = [
            attended(
                placed(heads[b, t, n][h][0], t, n),
                [placed(heads[b, other, m][h][1], other, m) for other, m in seen],
                [heads[b, other, m][h][2] for other, m in seen],
            )
            for h in range(HEADS)
        ]
        change[b, t, n] = eq.linear("space.out", torch.cat(read))
    x = left("space", x, change)
    fed = torch.stack([eq.mlp("mlp", entered("feed", x, *place)) for place in places]).view_as(x)
    return left("feed", x, fed)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_a_block_is_its_equations(full: bool, backend: str) -> None:
    block = drawn(Block(D, HEADS, 1.5, backend, looks_back=not full))
    x, modulation = normal(B, T, N, D), normal(B, T, 9 * D, seed=1)
    with torch.no_grad():
        found = block(x, modulation, 0, view(full))
    wanted = reference(block, x, modulation)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - x).abs().mean() > 0.5  # it does something
