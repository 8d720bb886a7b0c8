"""A block of two streams: frames and words have weights of their own and meet in one attention (Esser et al. 2024, SD3)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from wm.models.view import View
from wm.nn.action_attention import ActionAttention
from wm.nn.layers import MLP, Modulation, modulated
from wm.nn.self_attention import Attention


class JointBlock(nn.Module):
    """(B, T, N + L, D) -> the same: N tokens of each frame, and behind them L words, as that frame sees them.

    Both attend to all of both (arXiv:2403.03206, figure 2b). Words are changed by what they read, so each frame has words of
    its own: else what a frame tells them would reach the frames before it.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        backend: str,
        looks_back: bool,
        writes: bool,  # whether the words go on: nobody reads those of the last block
        action_window: int = 0,
    ) -> None:
        super().__init__()
        self.space = Attention(hidden_size, num_heads, backend)
        self.words = Attention(hidden_size, num_heads, backend, leaves=writes)
        self.time = Attention(hidden_size, num_heads, backend) if looks_back else None
        self.actions = ActionAttention(hidden_size, num_heads, backend, action_window) if action_window else None
        self.mlp = MLP(hidden_size, mlp_ratio)
        self.word_mlp = MLP(hidden_size, mlp_ratio) if writes else None
        self.modulation = nn.Parameter(torch.zeros((9 if looks_back else 6) * hidden_size))
        self.word_modulation = nn.Parameter(torch.zeros((6 if writes else 2) * hidden_size))

    def forward(self, x: Tensor, modulation: Tensor, layer: int, view: View) -> Tensor:
        """`layer` is the number of the layer of the memory, for the blocks that look at other frames."""
        size = x.shape[-1]
        parts = (modulation[..., : len(self.modulation)] + self.modulation).unsqueeze(2)
        feed, space, *time = (Modulation(*part.chunk(3, dim=-1)) for part in parts.split(3 * size, dim=-1))
        frames, words = x.split([x.shape[2] - view.num_words, view.num_words], dim=2)
        if self.time is not None:
            frames = time[0].leave(frames, view.look_back(self.time, time[0].enter(frames), layer))
        of_words = (
            (modulation[..., : len(self.word_modulation)] + self.word_modulation).unsqueeze(2).split(size, dim=-1)
        )
        entered = modulated(words, of_words[0], of_words[1])
        to_frames, to_words = self._meet(space.enter(frames), entered, layer, view)
        frames = space.leave(frames, to_frames)
        if self.actions is not None:
            frames = frames + self.actions(frames, *view.actions)
        frames = feed.leave(frames, self.mlp(feed.enter(frames)))
        if self.word_mlp is not None and to_words is not None:
            words = torch.addcmul(words, of_words[2], to_words)
            told = Modulation(*of_words[3:])
            words = told.leave(words, self.word_mlp(told.enter(words)))
        return torch.cat([frames, words], dim=2)

    def _meet(self, frames: Tensor, words: Tensor, layer: int, view: View) -> tuple[Tensor, Tensor | None]:
        """What frames and words read of each other and themselves, before gates; None for words that do not go on."""
        batch = len(frames)
        ours = self.space.project(rearrange(frames, "b t n d -> (b t) n d"))
        theirs = self.words.project(rearrange(words, "b t l d -> (b t) l d"))
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(ours, theirs, strict=True))
        mixed = view.mixed(self.space, query, key, value, layer)
        to_frames, to_words = mixed.split([frames.shape[2], words.shape[2]], dim=2)
        left = [self.space.leave(to_frames), self.words.leave(to_words) if self.word_mlp is not None else None]
        made = [None if part is None else rearrange(part, "(b t) n d -> b t n d", b=batch) for part in left]
        assert made[0] is not None
        return made[0], made[1]
