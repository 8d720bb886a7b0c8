"""A block of the diffusion transformer: each position attends to itself in the frames before it, then the tokens of one frame
to each other, then a feed-forward layer; joint_block.py is the one in which text is a stream of its own.
"""

import torch
from torch import Tensor, nn

from wm.models.view import View
from wm.nn.action_attention import ActionAttention
from wm.nn.cross_attention import CrossAttention
from wm.nn.layers import MLP, Modulation
from wm.nn.self_attention import Attention


class Block(nn.Module):
    """Attention back in time in some, attention in the frame, feed-forward: (B, T, N, D) -> the same.

    Time comes first: a new frame is noise until it has looked at the one before, and has nothing to tell its tokens.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        backend: str,
        looks_back: bool,
        reads: bool = False,
        action_window: int = 0,
    ) -> None:
        super().__init__()
        self.text = CrossAttention(hidden_size, num_heads, backend) if reads else None
        self.actions = ActionAttention(hidden_size, num_heads, backend, action_window) if action_window else None
        self.space = Attention(hidden_size, num_heads, backend)
        self.time = Attention(hidden_size, num_heads, backend) if looks_back else None
        self.mlp = MLP(hidden_size, mlp_ratio)
        # One modulation network serves all blocks; a block adds its own constant (Chen et al. 2023, adaLN-single).
        self.modulation = nn.Parameter(torch.zeros((9 if looks_back else 6) * hidden_size))

    def forward(self, x: Tensor, modulation: Tensor, layer: int, view: View) -> Tensor:
        """`layer` is the number of the layer of the memory, for the blocks that look back."""
        parts = (modulation[..., : len(self.modulation)] + self.modulation).unsqueeze(2)
        feed, space, *time = (Modulation(*part.chunk(3, dim=-1)) for part in parts.split(3 * x.shape[-1], dim=-1))
        if self.time is not None:
            x = time[0].leave(x, view.look_back(self.time, time[0].enter(x), layer))
        x = space.leave(x, view.look_around(self.space, space.enter(x), layer))
        if self.text is not None:
            x = x + view.read(self.text, x)
        if self.actions is not None:
            x = x + self.actions(x, *view.actions)
        return feed.leave(x, self.mlp(feed.enter(x)))
