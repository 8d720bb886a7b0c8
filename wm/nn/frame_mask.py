"""Who sees whom between frames: a Pattern as a boolean function of (frame of query, frame of key), laid over tokens.

Full frame-causal is `Pattern()`, a local window `Pattern(window=8)`, bidirectional `Pattern(causal=False)`; `sinks` first
frames stay in view of all (Xiao et al. 2023, arXiv:2309.17453, section 3.2). Only Python numbers describe a mask, so its
structure is known without asking the device, and equal masks share one tensor.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Which frames a frame looks at; itself always."""

    causal: bool = True  # not at frames to come
    window: int = 0  # frames back, itself included, and as many forth where not causal; 0 has no limit
    sinks: int = 0  # first frames of a clip that stay in view beyond the window

    def __post_init__(self) -> None:
        if self.window < 0 or self.sinks < 0:
            raise ValueError(
                f"window {self.window} and sinks {self.sinks} must not be negative; 0 is no limit and none"
            )

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """True where a query in frame `query` may look at a key in frame `key`; integers that broadcast."""
        distance = query - key
        seen = torch.ones_like(distance, dtype=torch.bool)
        if self.window:
            seen = (distance.abs() < self.window) | (key < self.sinks)
        return seen & (distance >= 0) if self.causal else seen


def layered(pattern: Pattern, depth: int, global_every: int = 0) -> tuple[Pattern, ...]:
    """The pattern of each of `depth` layers: `pattern`, and in every `global_every`-th layer the same with no window.

    The last of each `global_every` layers is the global one; 0 makes none.
    """
    whole = Pattern(causal=pattern.causal)
    return tuple(whole if global_every and (i + 1) % global_every == 0 else pattern for i in range(depth))


@dataclass(frozen=True)
class FrameMask:
    """A Pattern over tokens that lie frame after frame, `tokens` to a frame. Frames are numbered from 0 in their clip."""

    pattern: Pattern
    query_frames: tuple[int, ...]
    key_frames: tuple[int, ...]
    tokens: int = 1
    query_clips: tuple[int, ...] = ()  # the clip of each frame where several are packed; () where there is one
    key_clips: tuple[int, ...] = ()

    @classmethod
    def of_clip(cls, pattern: Pattern, num_frames: int, tokens: int = 1, num_queries: int | None = None) -> "FrameMask":
        """The last `num_queries` frames (all by default) of one clip look at the whole of it."""
        keys = tuple(range(num_frames))
        return cls(pattern, keys[num_frames - num_queries :] if num_queries else keys, keys, tokens)

    @classmethod
    def packed(cls, pattern: Pattern, lengths: Sequence[int], tokens: int = 1) -> "FrameMask":
        """Clips of `lengths` frames one after another in a row, without padding: none sees another."""
        frames = tuple(frame for length in lengths for frame in range(length))
        clips = tuple(clip for clip, length in enumerate(lengths) for _ in range(length))
        return cls(pattern, frames, frames, tokens, clips, clips)

    @property
    def shape(self) -> tuple[int, int]:
        """(queries, keys) in tokens."""
        return len(self.query_frames) * self.tokens, len(self.key_frames) * self.tokens

    @functools.cached_property
    def table(self) -> Tensor:
        """(query frames, key frames) bool on the CPU."""
        return self.function("cpu", tokens=1)(*_grid(len(self.query_frames), len(self.key_frames)))

    @functools.cached_property
    def kind(self) -> str:
        """What kernels need to know of it: full, causal (a triangle), band, clips (blocks on the diagonal) or frames."""
        num_queries, num_keys = self.table.shape
        if bool(self.table.all()):
            return "full"
        if self.tokens == 1 and num_queries <= num_keys and torch.equal(self.table, _banded(self.table, *self.band)):
            return "causal" if num_queries == num_keys and self.band == (-1, 0) else "band"
        return "clips" if self._is_blocks() else "frames"

    @property
    def band(self) -> tuple[int, int]:
        """Keys that a query sees to its left and its right where the kind is causal or band; -1 is all."""
        left = self.pattern.window - 1 if self.pattern.window else -1
        return left, 0 if self.pattern.causal else left

    @property
    def block_lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of the queries and of the keys of each clip, where several are packed."""
        lengths = [[clips.count(c) * self.tokens for c in range(max(clips) + 1)] for clips in self._clips()]
        return lengths[0], lengths[1]

    def _clips(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.query_clips, self.key_clips

    def _is_blocks(self) -> bool:
        """Packed clips each of which sees all of itself."""
        if not self.query_clips or any(list(clips) != sorted(clips) for clips in self._clips()):
            return False
        query, key = (torch.tensor(clips, device="cpu") for clips in self._clips())
        return set(self.query_clips) == set(self.key_clips) and torch.equal(self.table, query[:, None] == key)

    def function(self, device: torch.device | str, tokens: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """(number of a query, number of a key) -> whether it sees it."""
        size = self.tokens if tokens is None else tokens
        frames = [torch.tensor(f, device=device).repeat_interleave(size) for f in (self.query_frames, self.key_frames)]
        if not self.query_clips:
            return lambda query, key: self.pattern.sees(frames[0][query], frames[1][key])
        clips = [torch.tensor(c, device=device).repeat_interleave(size) for c in self._clips()]
        return lambda query, key: (
            self.pattern.sees(frames[0][query], frames[1][key]) & (clips[0][query] == clips[1][key])
        )

    def dense(self, device: torch.device) -> Tensor:
        """(queries, keys) bool: True where a query may look. Shared between equal masks: not to be written into."""
        return _dense(self, device)


@functools.lru_cache(maxsize=32)
def _dense(mask: FrameMask, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # it may be used in a backward later
        return mask.table.repeat_interleave(mask.tokens, 0).repeat_interleave(mask.tokens, 1).to(device)


def _grid(num_queries: int, num_keys: int) -> tuple[Tensor, Tensor]:
    # On the CPU whatever the default is: a network on the meta device asks for its masks too.
    return torch.arange(num_queries, device="cpu").unsqueeze(1), torch.arange(num_keys, device="cpu").unsqueeze(0)


def _banded(table: Tensor, left: int, right: int) -> Tensor:
    """A band of the shape of `table` whose last query lines up with the last key; a side of -1 has no limit."""
    query, key = _grid(*table.shape)
    distance = query + table.shape[1] - table.shape[0] - key
    seen = torch.ones_like(distance, dtype=torch.bool)
    seen = seen & (distance <= left) if left >= 0 else seen
    return seen & (-distance <= right) if right >= 0 else seen
