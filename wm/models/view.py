"""What all blocks of one forward share: who sees whom in each layer, where everything stands, and what is remembered.

Frames have numbers from 0 in their clip, and go on where the memory ends. In the factorised form a token sees itself in
other frames and then the tokens of its own frame; in the full form all tokens of all frames that its layer's Pattern shows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from wm.models.memory import Memory
from wm.models.pattern_memory import PatternMemory
from wm.nn.action_attention import recent_actions
from wm.nn.cross_attention import CrossAttention
from wm.nn.frame_mask import FrameMask, Pattern
from wm.nn.rope import apply_rope, clip_angles, numbered_angles
from wm.nn.self_attention import Attention
from wm.nn.sequence_parallel import SequenceGroup


class View:
    text: tuple[Tensor, Tensor | None]  # tokens (B, L, D) that are read, and their mask; in models that read
    # Recent actions (B, T, W, K, D), and (T, W) whether there were any; in models that read them.
    actions: tuple[Tensor, Tensor]

    def __init__(
        self,
        patterns: Sequence[Pattern],  # of each layer that looks at other frames
        num_frames: int,
        rows: int,  # of tokens
        columns: int,
        head_dim: int,
        device: torch.device,
        memory: Memory | None = None,
        full: bool = False,
        num_words: int = 0,  # tokens that stand behind those of each frame, at its first place
        words_mask: Tensor | None = None,  # (B, T, num_words) True where such a token is real
        lengths: Sequence[int] = (),  # of clips that lie one after another; () is one clip
        group: SequenceGroup | None = None,  # of processes with some of the frames each; num_frames are this one's
    ) -> None:
        self.patterns, self.memory, self.full = patterns, memory, full
        self.rows, self.columns, self.num_words, self.words_mask = rows, columns, num_words, words_mask
        self.head_dim, self.device, self.lengths = head_dim, device, tuple(lengths)
        self.num_frames, self.group = num_frames, group
        self.all_frames = num_frames * (1 if group is None else group.size)
        self._made: dict[object, Any] = {}  # tables and masks that blocks share

    def mask(self, layer: int, tokens: int = 1) -> FrameMask:
        """Who of the new frames sees whom of the kept and the new ones."""
        pattern = self.patterns[layer]
        if self.lengths:
            return self._once((pattern, tokens), lambda: FrameMask.packed(pattern, self.lengths, tokens))
        keys = self._numbers(layer)
        queries = keys[len(keys) - self.all_frames :]
        return self._once((pattern, tokens, keys), lambda: FrameMask(pattern, queries, keys, tokens))

    def _once(self, name: object, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _numbers(self, layer: int) -> tuple[int, ...]:
        """Of the frames that are there as keys. Without sinks only distances count, and the first one there is 0."""
        if self.memory is None:
            return tuple(range(self.all_frames))
        if not isinstance(self.memory, PatternMemory):
            return tuple(range(len(self.memory) + self.all_frames))
        keys = self.memory.numbers_with(layer, self.all_frames)
        first = 0 if self.patterns[layer].sinks else keys[0]
        return tuple(number - first for number in keys)

    def remember_actions(self, tokens: Tensor | None, window: int, layer: int) -> None:
        """Take in the tokens (B, T, K, D) of the new frames' actions; those of the frames before are in the memory."""
        if tokens is None:
            raise ValueError(
                "this model reads actions as tokens and none were given: set tokens of its action conditioner"
            )
        rows, shape = tokens.flatten(2).unsqueeze(1), tokens.shape[2:]
        if self.memory is not None:
            rows, _ = self.memory.extended(layer, rows, rows[..., :0])
        numbers = torch.tensor(self.mask(layer).query_frames)
        if isinstance(self.memory, PatternMemory):
            numbers = torch.arange(self.all_frames) + self.memory.num_seen
        recent, there = recent_actions(rows.squeeze(1).unflatten(2, shape), numbers, window)
        self.actions = (recent, there) if self.group is None else (self.group.own(recent), self.group.own(there, 0))

    def read(self, attention: CrossAttention, x: Tensor) -> Tensor:
        """What x (B, T, N, D) reads of the text; clips in a row read one each."""
        tokens, mask = self.text
        if not self.lengths:
            return attention(x, tokens, mask)
        clips = enumerate(x.split(self.lengths, dim=1))
        return torch.cat([attention(clip, tokens[i : i + 1], _one(mask, i)) for i, clip in clips], dim=1)

    def look_back(self, attention: Attention, x: Tensor, layer: int) -> Tensor:
        """x (B, T, N, D): each token at itself in other frames."""
        query, key, value = attention.project(rearrange(x, "b t n d -> (b n) t d"))
        if self.memory is not None:
            key, value = self.memory.extended(layer, key, value)
        query, key, value = (self._all_frames(part) for part in (query, key, value))
        mask = self.mask(layer)
        query = apply_rope(query, self._in_time(mask.query_frames))
        key = apply_rope(key, self._in_time(mask.key_frames))
        # Frames are few: a table costs less than a kernel that skips blocks.
        seen = None if mask.kind == "full" else mask.dense(x.device)
        mixed = self._own_frames(attention.mix(query, key, value, seen))
        return rearrange(attention.leave(mixed), "(b n) t d -> b t n d", b=len(x))

    def _all_frames(self, x: Tensor) -> Tensor:
        """x (B, heads, T, ...): all frames of some heads, where several processes have some frames of all heads."""
        return x if self.group is None else self.group.exchanged(x, scatter=1, gather=2)

    def _own_frames(self, x: Tensor) -> Tensor:
        return x if self.group is None else self.group.exchanged(x, scatter=2, gather=1)

    def look_around(self, attention: Attention, x: Tensor, layer: int) -> Tensor:
        """x (B, T, N, D): each token at all of its frame, or in the full form of all frames that are seen."""
        parts = attention.project(rearrange(x, "b t n d -> (b t) n d"))
        return rearrange(attention.leave(self.mixed(attention, *parts, layer)), "(b t) n d -> b t n d", b=len(x))

    def mixed(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
        """Queries, keys and values ((B T), heads, N, head_dim) of all that stands in a frame -> what is read, like them."""
        if not self.full:
            query, key = apply_rope(query, self._in_frame()), apply_rope(key, self._in_frame())
            return attention.mix(query, key, value, self._real_words(together=False))
        return self._everywhere(attention, query, key, value, layer)

    def _everywhere(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
        frames, tokens = self.num_frames, query.shape[2]
        query, key, value = (rearrange(p, "(b t) h n d -> b h t (n d)", t=frames) for p in (query, key, value))
        if self.memory is not None:
            key, value = self.memory.extended(layer, key, value)
        query, key, value = (self._all_frames(part) for part in (query, key, value))
        query, key, value = (rearrange(p, "b h t (n d) -> b h (t n) d", n=tokens) for p in (query, key, value))
        mask = self.mask(layer, tokens)
        query = apply_rope(query, self._in_clip(mask.query_frames))
        key = apply_rope(key, self._in_clip(mask.key_frames))
        real = self._real_words(together=True, kept=len(mask.key_frames) - self.all_frames)
        seen = mask if real is None else mask.dense(query.device) & real
        mixed = rearrange(attention.mix(query, key, value, seen), "b h (t n) d -> b h t (n d)", n=tokens)
        return rearrange(self._own_frames(mixed), "b h t (n d) -> (b t) h n d", t=frames, n=tokens)

    def _real_words(self, together: bool, kept: int = 0) -> Tensor | None:
        """False for tokens of text that only fill up: ((B T), 1, 1, N), or (B, 1, 1, T N) of all frames together.

        All frames of a clip have the same text, so have the `kept` ones before them and those of other processes.
        """
        if self.words_mask is None:
            return None
        words = self.words_mask
        if together and not self.lengths:
            words = words[:, :1].expand(-1, kept + self.all_frames, -1)
        real = torch.cat([words.new_ones(*words.shape[:2], self.rows * self.columns), words], dim=2)
        return (real.flatten(1) if together else real.flatten(0, 1))[:, None, None]

    def _in_frame(self) -> Tensor:
        return self._once("frame", lambda: self._angles((0,), frame_pairs=0))

    def _in_time(self, numbers: tuple[int, ...]) -> Tensor:
        return self._once(("time", numbers), lambda: numbered_angles(numbers, self.head_dim, self.device))

    def _in_clip(self, numbers: tuple[int, ...]) -> Tensor:
        pairs = self.head_dim // 2 - 2 * (self.head_dim // 6)  # about a third for each of frame, row and column
        return self._once(("clip", numbers), lambda: self._angles(numbers, pairs))

    def _angles(self, numbers: tuple[int, ...], frame_pairs: int) -> Tensor:
        return clip_angles(numbers, self.rows, self.columns, self.num_words, self.head_dim, frame_pairs, self.device)


def _one(mask: Tensor | None, clip: int) -> Tensor | None:
    return None if mask is None else mask[clip : clip + 1]
