"""Attention of tokens to each other: the projections around the kernel."""

from einops import rearrange
from torch import Tensor, nn

from wm.nn.attention import attend
from wm.nn.kernels import Mask


class Attention(nn.Module):
    """Multi-head attention over axis 1 of (B, N, D), with normalised queries and keys (Dehghani et al. 2023, 2.1)."""

    def __init__(self, hidden_size: int, num_heads: int, backend: str, leaves: bool = True) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        head_dim = hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.query_norm = nn.LayerNorm(head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size) if leaves else nn.Identity()  # Identity where nobody reads it

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, head_dim)."""
        query, key, value = rearrange(self.qkv(x), "b n (k h d) -> k b h n d", k=3, h=self.num_heads)
        return self.query_norm(query), self.key_norm(key), value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask = None) -> Tensor:
        """(B, heads, N, head_dim)"""
        return attend(query, key, value, mask=mask, backend=self.backend)

    def leave(self, mixed: Tensor) -> Tensor:
        """(B, N, D) of what was mixed."""
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))
