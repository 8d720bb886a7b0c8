"""Spatiotemporal diffusion transformer: (x_t, t, condition) -> prediction, frame-causal, with a memory for rollout.

Peebles & Xie 2023 over video, by the blocks of block.py or joint_block.py. Every frame has its own noise level and its own
modulation.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from wm.conditioning.condition import Condition
from wm.config import config
from wm.flow import rectified_guess
from wm.models.aim import Aim
from wm.models.block import Block
from wm.models.hourglass import WAVES, Down, Up
from wm.models.joint_block import JointBlock
from wm.models.look import Look
from wm.models.memory import Memory, Past
from wm.models.pattern_memory import PatternMemory
from wm.models.recall import Recall, carried
from wm.models.view import View
from wm.nn.frame_mask import Pattern, layered
from wm.nn.layers import LevelEmbedding, modulated, zero_initialised
from wm.nn.recompute import Recompute, recomputed
from wm.nn.rope import grid_cosines
from wm.nn.sequence_parallel import SequenceGroup
from wm.tags import tagged


@config
class DiTConfig:
    hidden_size: int = 256
    depth: int = 6
    num_heads: int = 4
    mlp_ratio: float = 4.0
    patch_size: int = 2
    stamps: int = 4  # pictures that are drawn where the maps say, such as the cursor's shapes; 0 for none
    # How tokens of text are read: by cross-attention in every block, or as a second stream that frames meet in attention.
    text: Literal["none", "cross", "joint"] = "none"
    action_window: int = 0  # frames whose actions a frame reads by cross-attention in every block; 0 reads none
    time_every: int = 1  # every so manieth block looks back in time, the first one always
    window: int = 16  # frames that a frame attends to, itself included; 0 has no limit
    global_every: int = 0  # every so manieth of the layers that look at other frames has no window; 0 is none
    sinks: int = 0  # first frames of a clip that stay in view beyond the window
    causal: bool = True  # frames see none to come; without, a clip is drawn as a whole, and no past is shown
    full: bool = False  # tokens see all tokens of the frames in view, not only themselves there
    widths: tuple[int, ...] = (64,)  # of the convolutions around the tokens, from the latents' resolution downwards
    recall: int = 0  # width of the keys by which places copy what they showed; 0 copies nothing; for x-prediction only
    aim: int = 0  # waves that tell each latent where it lies as seen from the pointer; 0 tells nothing
    guess: bool = False  # whether x_t enters as what it says of x (`rectified_guess`), for the rectified path: pure noise says nothing
    carry: bool = False  # whether the frame before, moved as the pointer moved, is at hand: for what is dragged
    attention: Literal["auto", "plain", "sdpa", "flex", "xformers", "flash"] = "auto"
    recompute: Recompute = "none"  # what a backward computes again instead of keeping: selective and full save memory

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 4 x num_heads {self.num_heads}: "
                "rotary positions turn pairs of numbers along two axes"
            )

        if self.recall and not self.window:
            raise ValueError("recall scores the ages of frames in a window: give window more than 0, or recall 0")
        if not self.causal and (self.recall or self.carry):
            raise ValueError(
                "recall and carry copy the frame before, which a clip that is drawn as a whole is not shown"
            )

    def patterns(self) -> tuple[Pattern, ...]:
        """Which frames each layer of a memory sees: those of the blocks that look at other frames, actions', recall's."""
        pattern = Pattern(causal=self.causal, window=self.window, sinks=self.sinks)
        depth = self.depth if self.full else -(-self.depth // self.time_every)
        done = (Pattern(window=self.action_window),) if self.action_window else ()
        recalled = (Pattern(window=self.window),) if self.recall else ()
        return *layered(pattern, depth, self.global_every), *done, *recalled

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
        self.blocks = nn.ModuleList(self._block(config, i) for i in range(config.depth))
        self.group: SequenceGroup | None = None  # of processes that share clips; `share_frames` sets it
        self.patterns = config.patterns()
        self.where = tagged(nn.Linear(2 * WAVES, size), hidden=False)
        self.look = Look(config.widths, size) if num_maps else None
        self.aim = Aim(config.widths[0], config.aim) if config.aim else None
        self.recall = Recall(config.widths, config.recall, config.window) if config.recall else None
        self.trust = zero_initialised(nn.Linear(size, channels))
        self.last_modulation = nn.Sequential(nn.SiLU(), zero_initialised(nn.Linear(size, 2 * size)))
        self.up = Up(size, config.widths, config.patch_size, channels, num_maps, config.stamps, config.carry)
        if self.recall is not None:
            self.up.begin_holding()

    @staticmethod
    def _block(config: DiTConfig, i: int) -> nn.Module:
        sizes = config.hidden_size, config.num_heads, config.mlp_ratio, config.attention
        looks_back = not config.full and i % config.time_every == 0
        if config.text == "joint":
            return JointBlock(*sizes, looks_back, i < config.depth - 1, config.action_window)
        return Block(*sizes, looks_back, config.text == "cross", config.action_window)

    def share_frames(self, group: SequenceGroup) -> None:
        """From now on compute only the part of a clip's frames that is this process's, and give all processes all frames.

        Every process of `group` calls with the same clips. A rollout with a memory is each process's own.
        """
        self.group = group

    def memory(self) -> Memory:
        """An empty memory. It keeps of a clip what its later frames see in each layer."""
        return PatternMemory(self.patterns)

    def remember(self, x_t: Tensor, t: Tensor, past: Past, condition: Condition, memory: Memory) -> None:
        """Take frames into `memory` as a forward would, without drawing them, and keep them there."""
        _, levels, *_ = self._read(x_t, t, past, condition, memory)
        if self.recall is not None:
            memory.extended(memory.last, *self.recall.kept(levels, self._typed(past.x)))
        memory.hold()
        memory.commit()

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        past: Past,
        condition: Condition,
        memory: Memory | None = None,
        lengths: Sequence[int] = (),  # frames of each of the clips that lie in one row (B is 1); () is one clip a row
    ) -> Tensor:
        if self.group is None or memory is not None:
            return self._computed(x_t, t, past, condition, memory, lengths)
        if lengths:
            raise ValueError("clips in a row are not shared among processes: pack them, or share long ones, not both")
        own = own_frames(self.group, x_t, t, past, condition)
        return self.group.gathered(self._computed(*own, group=self.group))

    def _computed(
        self,
        x_t: Tensor,
        t: Tensor,
        past: Past,
        condition: Condition,
        memory: Memory | None = None,
        lengths: Sequence[int] = (),
        group: SequenceGroup | None = None,
    ) -> Tensor:
        tokens, levels, state, view = self._read(x_t, t, past, condition, memory, lengths, group)
        shift, scale = self.last_modulation(state).unsqueeze(2).chunk(2, dim=-1)
        tokens = tokens[:, :, : tokens.shape[2] - view.num_words]
        drawn = self.up(modulated(tokens, shift, scale), levels, view.rows, state, self._maps(condition))
        held: Tensor | float = 0.0
        if self.recall is not None:
            seen = view.mask(len(self.patterns) - 1).dense(x_t.device)
            held = self.recall(drawn.features, levels, self._typed(past.x), seen, memory, group)
        dragged = self._dragged(past.x, condition) if self.config.carry else None
        return drawn.over(held, dragged) + self.trust(self.level(t))[..., None, None] * self._typed(x_t)

    def _read(
        self,
        x_t: Tensor,
        t: Tensor,
        past: Past,
        condition: Condition,
        memory: Memory | None,
        lengths: Sequence[int] = (),
        group: SequenceGroup | None = None,
    ) -> tuple[Tensor, list[Tensor], Tensor, View]:
        """Tokens (B, T, N, D) after all blocks, the levels of Down, the frames' state (B, T, D), and what was in view."""
        if not self.config.causal:  # what is shown of the frame before one in view would be that frame itself, clean
            past = Past(torch.zeros_like(x_t), torch.ones_like(t), torch.zeros_like(x_t))
        words, words_mask = self._words(condition, x_t.shape[1], lengths)
        view = self._view(x_t, self._rows(x_t), memory, words_mask, lengths, group)
        if condition.tokens is not None:
            view.text = condition.tokens, condition.mask
        if self.config.action_window:
            view.remember_actions(
                condition.actions, self.config.action_window, len(self.patterns) - 1 - (self.recall is not None)
            )
        tokens, levels, state = self._entered(x_t, t, past, condition)
        if words is not None:
            tokens = torch.cat([tokens, words.to(tokens.dtype)], dim=2)
        modulation = self.modulation(state)
        for i, block in enumerate(self.blocks):
            layer = i if self.config.full else i // self.config.time_every
            tokens = recomputed(block, self.config.recompute, tokens, modulation, layer, view)
        return tokens, levels, state, view

    def _entered(self, x_t: Tensor, t: Tensor, past: Past, condition: Condition) -> tuple[Tensor, list[Tensor], Tensor]:
        """Tokens (B, T, N, D) as the blocks get them, the levels of Down, and the frames' state (B, T, D)."""
        entering = rectified_guess(x_t, t) if self.config.guess else x_t
        dragged = self._dragged(past.x_t, condition) if self.config.carry else None
        parts = entering, past.x_t, dragged, self._maps(condition)
        joined = torch.cat([self._typed(part) for part in parts if part is not None], dim=2)
        state = self.level(t) + self.past_level(past.level) + (0 if condition.frames is None else condition.frames)
        aim = 0.0 if self.aim is None or condition.place is None else self.aim(condition.place)
        tokens, levels = self.down(joined, state, self._cosines(x_t), aim)
        if self.look is not None and condition.place is not None:
            state = state + self.look(levels, condition.place)
        where = self.where(self._cosines(x_t, self.config.patch_size).flatten(1).T)
        return tokens + state.unsqueeze(2) + where, levels, state

    def _typed(self, x: Tensor) -> Tensor:
        return x.to(self.where.weight.dtype)

    def _maps(self, condition: Condition) -> Tensor | None:
        return None if condition.maps is None else self._typed(condition.maps)

    def _dragged(self, x: Tensor, condition: Condition) -> Tensor:
        return carried(self._typed(x), self._moved(x, condition))

    def _cosines(self, x_t: Tensor, fold: int = 1) -> Tensor:
        """(2 WAVES, H / fold, W / fold)"""
        height, width = x_t.shape[-2:]
        return self._typed(grid_cosines(height // fold, width // fold, WAVES, x_t.device))

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

    def _words(
        self, condition: Condition, num_frames: int, lengths: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """(words (B, T, L, D), mask (B, T, L)) as each frame begins with them, in a model of two streams."""
        if self.config.text != "joint":
            return None, None
        if condition.tokens is None:
            raise ValueError("this model reads text beside its frames and none was given")
        words, mask = condition.tokens, condition.mask
        mask = words.new_ones(words.shape[:2], dtype=torch.bool) if mask is None else mask
        if lengths:
            clip = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(words.device)
            return words[clip].unsqueeze(0), mask[clip].unsqueeze(0)
        every = -1, num_frames, -1
        return words.unsqueeze(1).expand(*every, -1), mask.unsqueeze(1).expand(*every)

    def _view(
        self,
        x_t: Tensor,
        rows: int,
        memory: Memory | None,
        words_mask: Tensor | None,
        lengths: Sequence[int],
        group: SequenceGroup | None,
    ) -> View:
        return View(
            self.patterns,
            x_t.shape[1],
            rows,
            x_t.shape[-1] // self.config.patch_size,
            self.config.hidden_size // self.config.num_heads,
            x_t.device,
            memory,
            full=self.config.full,
            num_words=0 if words_mask is None else words_mask.shape[2],
            words_mask=words_mask,
            lengths=lengths,
            group=group,
        )


def own_frames(
    group: SequenceGroup, x_t: Tensor, t: Tensor, past: Past, condition: Condition
) -> tuple[Tensor, Tensor, Past, Condition]:
    """This process's frames of everything that has them. Actions stay whole: frames read those of frames before."""

    def own(x: Tensor | None) -> Tensor | None:
        return x if x is None or x.shape[1] == 1 else group.own(x)

    shown = Past(group.own(past.x_t), group.own(past.level), group.own(past.x))
    parts = {name: own(getattr(condition, name)) for name in ("frames", "maps", "moved", "place")}
    return group.own(x_t), group.own(t), shown, replace(condition, **parts)
