"""Spatiotemporal diffusion transformer: (x_t, t, condition) -> prediction, frame-causal, with a memory for rollout.

Peebles & Xie 2023 over video: in each block each position attends to itself in the frames before it, then the tokens of
one frame attend to each other, then a feed-forward layer. Every frame has its own noise level and its own modulation.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from wm.conditioning.condition import Condition
from wm.config import config
from wm.models.hourglass import WAVES, Down, Up
from wm.models.look import Look
from wm.models.memory import Memory, Past
from wm.models.recall import Recall, carried
from wm.nn.attention import attend
from wm.nn.cross_attention import CrossAttention
from wm.nn.layers import MLP, LevelEmbedding, Modulation, modulated, zero_initialised
from wm.nn.recompute import Recompute, recomputed
from wm.nn.rope import apply_rope, frame_angles, grid_angles, grid_cosines
from wm.tags import tagged


class Attention(nn.Module):
    """Multi-head attention over axis 1 of (B, N, D), with normalised queries and keys (Dehghani et al. 2023, 2.1)."""

    def __init__(self, hidden_size: int, num_heads: int, backend: str) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        head_dim = hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.query_norm = nn.LayerNorm(head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, head_dim)."""
        query, key, value = rearrange(self.qkv(x), "b n (k h d) -> k b h n d", k=3, h=self.num_heads)
        return self.query_norm(query), self.key_norm(key), value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        mixed = attend(query, key, value, mask=mask, backend=self.backend)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Attention back in time in some, attention in the frame, feed-forward: (B, T, N, D) -> the same.

    Time comes first: a new frame is noise until it has looked at the one before, and has nothing to tell its tokens.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_ratio: float, backend: str, looks_back: bool, reads: bool = False
    ) -> None:
        super().__init__()
        self.text = CrossAttention(hidden_size, num_heads, backend) if reads else None
        self.space = Attention(hidden_size, num_heads, backend)
        self.time = Attention(hidden_size, num_heads, backend) if looks_back else None
        self.mlp = MLP(hidden_size, mlp_ratio)
        # One modulation network serves all blocks; a block adds its own constant (Chen et al. 2023, adaLN-single).
        self.modulation = nn.Parameter(torch.zeros((9 if looks_back else 6) * hidden_size))

    def forward(self, x: Tensor, modulation: Tensor, layer: int, view: "View") -> Tensor:
        """`layer` is the number of the layer of the memory, for the blocks that look back."""
        parts = (modulation[..., : len(self.modulation)] + self.modulation).unsqueeze(2)
        feed, space, *time = (Modulation(*part.chunk(3, dim=-1)) for part in parts.split(3 * x.shape[-1], dim=-1))
        if self.time is not None:
            x = time[0].leave(x, self._time(self.time, time[0].enter(x), layer, view))
        x = space.leave(x, self._space(space.enter(x), view))
        if self.text is not None:
            x = x + self.text(x, *view.text)
        return feed.leave(x, self.mlp(feed.enter(x)))

    def _space(self, x: Tensor, view: "View") -> Tensor:
        batch = x.shape[0]
        query, key, value = self.space.project(rearrange(x, "b t n d -> (b t) n d"))
        query, key = apply_rope(query, view.grid), apply_rope(key, view.grid)
        return rearrange(self.space.attend(query, key, value), "(b t) n d -> b t n d", b=batch)

    def _time(self, time: Attention, x: Tensor, layer: int, view: "View") -> Tensor:
        batch = x.shape[0]
        query, key, value = time.project(rearrange(x, "b t n d -> (b n) t d"))
        if view.memory is not None:
            key, value = view.memory.extended(layer, key, value)
        query = apply_rope(query, view.frames[-query.shape[2] :])
        key = apply_rope(key, view.frames)
        return rearrange(time.attend(query, key, value, view.mask), "(b n) t d -> b t n d", b=batch)


class View:
    """What all blocks of one forward share: positions, who sees whom, and the memory."""

    text: tuple[Tensor, Tensor | None]  # tokens (B, L, D) that are read, and their mask; in models that read

    def __init__(self, grid: Tensor, frames: Tensor, mask: Tensor, memory: Memory | None) -> None:
        self.grid = grid  # (N, head_dim) rotary angles in the frame
        self.frames = frames  # (T of keys, head_dim) rotary angles in time
        self.mask = mask  # (T of queries, T of keys) True where a query may look
        self.memory = memory


def window_mask(num_queries: int, num_keys: int, window: int, device: torch.device) -> Tensor:
    """True where the last `num_queries` of `num_keys` frames may look: themselves and the window - 1 frames before."""
    key = torch.arange(num_keys, device=device)
    query = key[num_keys - num_queries :].unsqueeze(1)
    return (key <= query) & (query - key < window)


@config
class DiTConfig:
    hidden_size: int = 256
    depth: int = 6
    num_heads: int = 4
    mlp_ratio: float = 4.0
    patch_size: int = 2
    stamps: int = 4  # pictures that are drawn where the maps say, such as the cursor's shapes; 0 for none
    text: Literal["none", "cross"] = "none"  # how tokens of text are read: by cross-attention in every block
    time_every: int = 1  # every so manieth block looks back in time, the first one always
    window: int = 16  # frames that a frame attends to, itself included
    widths: tuple[int, ...] = (64,)  # of the convolutions around the tokens, from the latents' resolution downwards
    recall: int = 0  # width of the keys by which places copy what they showed; 0 copies nothing; for x-prediction only
    carry: bool = False  # whether the frame before, moved as the pointer moved, is at hand: for what is dragged
    attention: Literal["auto", "plain", "sdpa", "flex", "xformers", "flash"] = "auto"
    recompute: Recompute = "none"  # what a backward computes again instead of keeping: selective and full save memory

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 4 x num_heads {self.num_heads}: "
                "rotary positions turn pairs of numbers along two axes"
            )

    def build(self, channels: int, num_maps: int) -> "DiT":
        return DiT(self, channels, num_maps)


class DiT(nn.Module):
    """x_t (B, T, C, H, W) at levels t (B, T) after its Past, under a Condition -> prediction (B, T, C, H, W)."""

    def __init__(self, config: DiTConfig, channels: int, num_maps: int) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.num_maps = num_maps
        joined = (3 if config.carry else 2) * channels + num_maps
        self.down = Down(joined, config.widths, config.patch_size, size)
        self.level, self.past_level = LevelEmbedding(size), LevelEmbedding(size)
        self.modulation = nn.Sequential(nn.SiLU(), zero_initialised(nn.Linear(size, 9 * size)))
        self.blocks = nn.ModuleList(
            Block(
                size,
                config.num_heads,
                config.mlp_ratio,
                config.attention,
                i % config.time_every == 0,
                config.text == "cross",
            )
            for i in range(config.depth)
        )
        self.where = tagged(nn.Linear(2 * WAVES, size), hidden=False)
        self.look = Look(config.widths, size) if num_maps else None
        self.recall = Recall(config.widths, config.recall, config.window) if config.recall else None
        self.trust = zero_initialised(nn.Linear(size, channels))
        self.last_modulation = nn.Sequential(nn.SiLU(), zero_initialised(nn.Linear(size, 2 * size)))
        self.up = Up(size, config.widths, config.patch_size, channels, num_maps, config.stamps, config.carry)
        if self.recall is not None:
            self.up.begin_holding()

    def memory(self) -> Memory:
        """An empty memory; a new frame and its `window - 1` predecessors fill the window."""
        looking_back = -(-self.config.depth // self.config.time_every)
        return Memory(looking_back + (self.recall is not None), self.config.window - 1)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        past: Past,
        condition: Condition,
        memory: Memory | None = None,
    ) -> Tensor:
        rows = self._rows(x_t)
        dtype = self.where.weight.dtype
        maps = None if condition.maps is None else condition.maps.to(dtype)
        dragged = [carried(x.to(dtype), self._moved(x, condition)) for x in (past.x_t, past.x) if self.config.carry]
        joined = torch.cat([part.to(dtype) for part in (x_t, past.x_t, *dragged[:1], maps) if part is not None], dim=2)
        view = self._view(x_t, rows, memory)
        if condition.tokens is not None:
            view.text = condition.tokens, condition.mask
        state = self.level(t) + self.past_level(past.level) + (0 if condition.frames is None else condition.frames)
        tokens, levels = self.down(joined, state, self._cosines(x_t))
        if self.look is not None and condition.place is not None:
            state = state + self.look(levels, condition.place)
        where = self.where(self._cosines(x_t, self.config.patch_size).flatten(1).T)
        tokens = tokens + state.unsqueeze(2) + where
        modulation = self.modulation(state)
        for i, block in enumerate(self.blocks):
            layer = i // self.config.time_every
            tokens = recomputed(block, self.config.recompute, tokens, modulation, layer, view)
        shift, scale = self.last_modulation(state).unsqueeze(2).chunk(2, dim=-1)
        drawn = self.up(modulated(tokens, shift, scale), levels, rows, state, maps)
        held: Tensor | float = 0.0
        if self.recall is not None:
            held = self.recall(drawn.features, levels, past.x.to(dtype), view.mask, memory)
        return drawn.over(held, *dragged[1:]) + self.trust(self.level(t))[..., None, None] * x_t.to(dtype)

    def _cosines(self, x_t: Tensor, fold: int = 1) -> Tensor:
        """(2 WAVES, H / fold, W / fold)"""
        height, width = x_t.shape[-2:]
        return grid_cosines(height // fold, width // fold, WAVES, x_t.device).to(self.where.weight.dtype)

    def _moved(self, x: Tensor, condition: Condition) -> Tensor:
        if condition.moved is not None:
            return condition.moved
        return torch.zeros(*x.shape[:2], 2, dtype=torch.long, device=x.device)

    def _rows(self, x_t: Tensor) -> int:
        height, width = x_t.shape[-2:]
        size = self.config.patch_size
        if height % size or width % size:
            raise ValueError(
                f"latents of {height}x{width} do not divide into patches of {size}x{size}: the last would be dropped"
            )
        return height // size

    def _view(self, x_t: Tensor, rows: int, memory: Memory | None) -> View:
        num_frames, columns = x_t.shape[1], x_t.shape[-1] // self.config.patch_size
        head_dim = self.config.hidden_size // self.config.num_heads
        num_keys = num_frames + (0 if memory is None else len(memory))
        return View(
            grid=grid_angles(rows, columns, head_dim, x_t.device),
            frames=frame_angles(num_keys, head_dim, x_t.device),
            mask=window_mask(num_frames, num_keys, self.config.window, x_t.device),
            memory=memory,
        )
