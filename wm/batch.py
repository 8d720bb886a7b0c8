"""The tensors that all stages share: what was done, what was given, what was seen."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from wm.config import config

# The last axis of Action.buttons and Action.keys.
HELD, PRESSED, RELEASED = 0, 1, 2


@config
class ActionSpace:
    """Which channels an Action has, in order. Written by the recorder; travels with data, checkpoint and artifact."""

    pointer: Literal["absolute", "relative", "none"] = "absolute"
    buttons: tuple[str, ...] = ()  # "left", "middle", "right"
    keys: tuple[str, ...] = ()  # physical key codes as browsers name them: "KeyA", "Enter", "ArrowLeft"
    wheel: bool = False
    axes: tuple[str, ...] = ()  # continuous, each in [-1, 1]
    fps: float = 10.0  # frames a second of the recording, one action a frame


@dataclass(frozen=True)
class Action:
    """What happened between frame i-1 and frame i, and what is held at frame i. All float32."""

    pointer: Tensor  # (B, T, 2) x to the right, y down, as a fraction of width and height in [0, 1); at pixel centres
    buttons: Tensor  # (B, T, num_buttons, 3) held (0 or 1), number of presses, number of releases
    keys: Tensor  # (B, T, num_keys, 3) the same for keys
    wheel: Tensor  # (B, T, 2) notches to the right and down
    axes: Tensor  # (B, T, num_axes)

    def __getitem__(self, index: object) -> Self:
        """The same fields indexed alike, over the axes (B, T)."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def to(self, device: torch.device | str) -> Self:
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})

    @classmethod
    def idle(cls, space: ActionSpace, batch: int, frames: int) -> Self:
        """Nothing done, nothing held, the pointer in the middle."""
        return cls(
            pointer=torch.full((batch, frames, 2), 0.5),
            buttons=torch.zeros(batch, frames, len(space.buttons), 3),
            keys=torch.zeros(batch, frames, len(space.keys), 3),
            wheel=torch.zeros(batch, frames, 2),
            axes=torch.zeros(batch, frames, len(space.axes)),
        )

    @classmethod
    def concatenate(cls, actions: "list[Action]", dim: int) -> Self:
        """One Action from several along axis 0 (B) or 1 (T)."""
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{name: torch.cat([getattr(a, name) for a in actions], dim) for name in names})


@dataclass(frozen=True)
class EncodedText:
    """Captions as a frozen encoder left them: what is in here needs no encoder."""

    encoder: str  # its hash
    tokens: Mapping[str, Tensor]  # by caption (L, width), real tokens alone; "" is there too, for what is dropped

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.encoder, {caption: tokens.to(device) for caption, tokens in self.tokens.items()})


@dataclass(frozen=True)
class Given:
    """What a person can supply too, so training and play enter by the same door."""

    action: Action | None = None
    text: tuple[str, ...] | None = None  # B captions
    before: Action | None = None  # (B, 1) what was done in the frame before the first, where that is known
    encoded: EncodedText | None = None  # of these captions and perhaps others

    def __getitem__(self, index: slice) -> Self:
        """Some of the batch; `index` runs over B."""
        return type(self)(
            action=None if self.action is None else self.action[index],
            text=None if self.text is None else self.text[index],
            before=None if self.before is None else self.before[index],
            encoded=self.encoded,
        )

    def parted(self, frame: int) -> tuple[Self, Self]:
        """The same of the frames before number `frame`, and of those from there on, which know what was done before."""
        if self.action is None:
            return self, self
        first, then = (
            dataclasses.replace(self, action=self.action[:, part]) for part in (slice(frame), slice(frame, None))
        )
        return first, dataclasses.replace(then, before=self.action[:, frame - 1 : frame])

    def to(self, device: torch.device | str) -> Self:
        action, before = (None if done is None else done.to(device) for done in (self.action, self.before))
        encoded = None if self.encoded is None else self.encoded.to(device)
        return dataclasses.replace(self, action=action, before=before, encoded=encoded)


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch. `step` and `index` are what randomness is keyed by."""

    step: int  # number of the global batch since the run began
    index: Tensor  # (B,) int64, position of each sample in the global stream
    given: Given
    video: Tensor | None = None  # (B, T, C, H, W) uint8
    latents: Tensor | None = None  # (B, T, C, H, W) float, raw as stored
    sample_ids: tuple[str, ...] = ()  # B names "<key>@<first frame>", for logs
    # Frames of B clips of different lengths that lie one after another: axes (B, T) of all else are then (1, sum of these).
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: slice) -> Self:
        if self.lengths:
            return self._of_row(range(len(self))[index])
        return type(self)(
            step=self.step,
            index=self.index[index],
            given=self.given[index],
            video=None if self.video is None else self.video[index],
            latents=None if self.latents is None else self.latents[index],
            sample_ids=self.sample_ids[index],
        )

    def _of_row(self, clips: Sequence[int]) -> Self:
        """These of the clips in a row, in a row."""
        places = torch.arange(sum(self.lengths)).split(self.lengths)
        frames, given = (slice(None), torch.cat([places[i] for i in clips])), self.given
        return type(self)(
            step=self.step,
            index=self.index[list(clips)],
            given=dataclasses.replace(
                given,
                action=None if given.action is None else given.action[frames],
                text=None if given.text is None else tuple(given.text[i] for i in clips),
            ),
            video=None if self.video is None else self.video[frames],
            latents=None if self.latents is None else self.latents[frames],
            sample_ids=tuple(self.sample_ids[i] for i in clips) if self.sample_ids else (),
            lengths=tuple(self.lengths[i] for i in clips),
        )

    def clips(self) -> Iterator[Self]:
        """Each clip of a row for itself: B is 1, T its own."""
        for clip in self.split(1):
            yield dataclasses.replace(clip, lengths=())

    def split(self, size: int) -> Iterator[Self]:
        """Parts of at most `size` samples, in order."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device | str) -> Self:
        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        return dataclasses.replace(
            self, given=self.given.to(device), video=move(self.video), latents=move(self.latents)
        )
