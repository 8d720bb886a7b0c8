"""Frames that look at what was done: attention from the tokens of a frame to those of the last few frames' actions."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wm.nn.attention import attend
from wm.nn.layers import zero_initialised
from wm.tags import tagged


class ActionAttention(nn.Module):
    """x (B, T, N, D) and recent actions (B, T, W, K, D) -> the change of x by what it reads there, (B, T, N, D).

    Each token asks for itself what an action means where it is: of the ways in that were compared for screens, cross-attention
    inside the blocks followed actions best (Neural Computers, arXiv:2604.06425). An action has no place in the frame, but an
    age in frames, which is learned. Zero at first.
    """

    def __init__(self, hidden_size: int, num_heads: int, backend: str, window: int) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        head_dim = hidden_size // num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.query_norm = nn.LayerNorm(head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, bias=False)
        self.age = tagged(nn.Parameter(torch.randn(window, hidden_size) * 0.02), decay=False, hidden=False)
        self.out = zero_initialised(nn.Linear(hidden_size, hidden_size))

    def forward(
        self,
        x: Tensor,
        recent: Tensor,  # (B, T, W, K, D) K tokens of what was done in a frame and in each of those before it
        there: Tensor,  # (T, W) False where the clip had not begun
    ) -> Tensor:
        batch, _, _, tokens, _ = recent.shape
        query = rearrange(self.query(self.norm(x)), "b t n (h d) -> (b t) h n d", h=self.num_heads)
        told = self.key_value(recent + self.age.unsqueeze(1))
        key, value = rearrange(told, "b t w k (s h d) -> s (b t) h (w k) d", s=2, h=self.num_heads)
        mask = there.repeat_interleave(tokens, 1).repeat(batch, 1)[:, None, None]
        read = attend(self.query_norm(query), self.key_norm(key), value, mask=mask, backend=self.backend)
        return self.out(rearrange(read, "(b t) h n d -> b t n (h d)", b=batch))


def recent_actions(tokens: Tensor, numbers: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(recent (B, T, W, K, D), there (T, W)) of the last T frames of `tokens` (B, S, K, D), the newest action first.

    `numbers` (T,) counts the frames that lie before each of them in its clip.
    """
    new, age = len(numbers), torch.arange(window, device=tokens.device)
    at = torch.arange(tokens.shape[1] - new, tokens.shape[1], device=tokens.device).unsqueeze(1) - age
    padded = F.pad(tokens, (0, 0, 0, 0, window - 1, 0))
    return padded[:, at + window - 1], (at >= 0) & (numbers.to(age.device).unsqueeze(1) >= age)
