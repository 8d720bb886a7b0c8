"""Frames that look at words: attention from the tokens of a video to those of a text."""

from einops import rearrange
from torch import Tensor, nn

from wm.nn.attention import attend
from wm.nn.layers import zero_initialised


class CrossAttention(nn.Module):
    """x (B, T, N, D) and text (B, L, D) -> the change of x by what it reads there, (B, T, N, D).

    Chen et al. 2023 (PixArt-alpha, arXiv:2310.00426, section 2.3): after a block's own attention, without modulation,
    and zero at first. A word has the same meaning for every frame, and the text no place in time: no rotary positions.
    """

    def __init__(self, hidden_size: int, num_heads: int, backend: str) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        head_dim = hidden_size // num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.query_norm = nn.LayerNorm(head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, bias=False)
        self.out = zero_initialised(nn.Linear(hidden_size, hidden_size))

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        mask: Tensor | None = None,  # (B, L) True where a token is real; at least one a caption
    ) -> Tensor:
        frames = x.shape[1]
        query = rearrange(self.query(self.norm(x)), "b t n (h d) -> b h (t n) d", h=self.num_heads)
        key, value = rearrange(self.key_value(text), "b l (k h d) -> k b h l d", k=2, h=self.num_heads)
        seen = None if mask is None else mask[:, None, None, :]
        read = attend(self.query_norm(query), self.key_norm(key), value, mask=seen, backend=self.backend)
        return self.out(rearrange(read, "b h (t n) d -> b t n (h d)", t=frames))
