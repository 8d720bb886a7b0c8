"""Mouse and keyboard to a Condition: keys and buttons per frame, the pointer as maps.

A pointer without a map is hopeless: NeuralOS (2507.08800) measured 130 pixels of error without and 1.6 with one.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from wm.batch import Action, ActionSpace, Given
from wm.conditioning.action_tokens import ActionTokens
from wm.conditioning.condition import Condition
from wm.config import config
from wm.tags import tagged


@config
class ActionConditionerConfig:
    kind: Literal["action"] = "action"
    pointer_sigma: float = 0.4  # pixels, width of the bump that marks the pointer's own pixel
    map_width: int = 64  # channels between the two convolutions that the drawn maps pass
    map_channels: int = 32  # that come out of them
    map_gain: float = 20.0  # height of the bumps: a single marked pixel is a whisper among a patch of latents
    step: int = 1  # latents: the pointer's way is counted in cells of so many, as what it drags moves
    button_sigma: float = 12.0  # pixels, width of the bump that marks where a button acts
    tokens: bool = False  # whether actions are tokens too, for a model with an action_window

    def build(self, space: ActionSpace, hidden_size: int, stride: int, rows: int, columns: int) -> "ActionConditioner":
        return ActionConditioner(self, space, hidden_size, stride, rows, columns)


class ActionConditioner(nn.Module):
    """Given.action to Condition.frames (B, T, D) and, for an absolute pointer, Condition.maps (B, T, M, H, W),
    place and moved.

    The pointer is drawn at pixel resolution and folded into the latent grid, stride x stride channels, so that one linear
    layer can look up the exact pixel. On a wider bump follow its neighbourhood, the offset to it, which is smooth and
    learned sooner, and for each button held, pressed and released, so that a click is an event at a place. Two small
    convolutions read these drawings: what the pointer looks like is the same anywhere on the screen, and learned once. The
    pointer's pixel is handed on as it is too, for what is to be drawn exactly there.
    """

    def __init__(
        self,
        config: ActionConditionerConfig,
        space: ActionSpace,
        hidden_size: int,
        stride: int,
        rows: int,  # of latents
        columns: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.stride, self.rows, self.columns = stride, rows, columns
        absolute = space.pointer == "absolute"
        self.num_maps = config.map_channels + stride * stride if absolute else 0
        if absolute:
            drawn = stride * stride + 3 + 3 * len(space.buttons)
            self.read = nn.Sequential(
                tagged(nn.Conv2d(drawn, config.map_width, 3, padding=1), hidden=False),
                nn.SiLU(),
                nn.Conv2d(config.map_width, config.map_channels, 3, padding=1),
            )
        width = 3 * (len(space.buttons) + len(space.keys)) + len(space.axes) + 2 + 2
        self.frames = nn.Sequential(
            tagged(nn.Linear(width, hidden_size), hidden=False), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.nothing = nn.Parameter(torch.zeros(hidden_size))
        self.tokens = ActionTokens(space, hidden_size) if config.tokens else None

    def forward(self, given: Given) -> Condition:
        action = self._action(given)
        dtype = self.nothing.dtype
        controls = [action.buttons.flatten(2), action.keys.flatten(2), action.axes, action.wheel, action.pointer]
        frames = self.frames(torch.cat(controls, dim=-1).to(dtype))
        told = None if self.tokens is None else self.tokens(action)
        if not self.num_maps:
            return Condition(frames=frames, actions=told)
        place, moved = bilinear(action.pointer, self.rows, self.columns), self._moved(action, given.before)
        return Condition(frames=frames, actions=told, maps=self._read(action), place=place, moved=moved)

    def null(self, given: Given) -> Condition:
        batch, frames = self._action(given).pointer.shape[:2]
        nothing = self.nothing.expand(batch, frames, -1)
        told = None if self.tokens is None else self.tokens.null(batch, frames)
        if not self.num_maps:
            return Condition(frames=nothing, actions=told)
        maps = self.nothing.new_zeros(batch, frames, self.num_maps, self.rows, self.columns)
        moved = torch.zeros(batch, frames, 2, dtype=torch.long, device=maps.device)
        return Condition(frames=nothing, actions=told, maps=maps, place=maps[:, :, 0], moved=moved)

    def _moved(self, action: Action, before: Action | None) -> Tensor:
        """(B, T, 2) latents down and right, in whole cells; none where the frame before is unknown."""
        first = action.pointer[:, :1] if before is None else before.pointer
        cells = action.pointer.new_tensor([self.columns, self.rows]) / self.config.step
        at = (torch.cat([first, action.pointer], dim=1) * cells).floor().long()
        return self.config.step * torch.diff(at, dim=1).flip(-1)

    def _action(self, given: Given) -> Action:
        if given.action is None:
            raise ValueError("this model is conditioned on actions and none was given")
        return given.action

    def _read(self, action: Action) -> Tensor:
        drawn = rearrange(self.drawn(action), "b t m h w -> (b t) m h w").to(self.nothing.dtype)
        read = self.read(drawn.contiguous(memory_format=torch.channels_last))
        read = torch.cat([read, drawn[:, : self.stride**2]], dim=1)
        return rearrange(read, "(b t) m h w -> b t m h w", b=len(action.pointer))

    def drawn(self, action: Action) -> Tensor:
        """(B, T, stride^2 + 3 + 3 buttons, H, W): the pointer's pixel, its bump, the offset to it, the buttons there."""
        height, width = self.rows * self.stride, self.columns * self.stride
        pixels = pointer_bump(action.pointer, height, width, self.config.pointer_sigma)
        folded = rearrange(pixels, "b t (h p) (w q) -> b t (p q) h w", p=self.stride, q=self.stride)
        place = pointer_bump(action.pointer, self.rows, self.columns, self.config.button_sigma / self.stride)
        buttons = action.buttons.flatten(2)[..., None, None] * place.unsqueeze(2)
        offset = pointer_offset(action.pointer, self.rows, self.columns) * place.unsqueeze(2)
        return self.config.map_gain * torch.cat([folded, place.unsqueeze(2), offset, buttons], dim=2)


def pointer_bump(pointer: Tensor, rows: int, columns: int, sigma: float) -> Tensor:
    """A Gaussian (B, T, rows, columns) of height 1 around the pointer (B, T, 2, fractions); sigma in cells."""
    y = (torch.arange(rows, device=pointer.device) + 0.5 - pointer[..., 1:2] * rows) / sigma
    x = (torch.arange(columns, device=pointer.device) + 0.5 - pointer[..., 0:1] * columns) / sigma
    return torch.exp(-0.5 * y.square()).unsqueeze(-1) * torch.exp(-0.5 * x.square()).unsqueeze(-2)


def bilinear(pointer: Tensor, rows: int, columns: int) -> Tensor:
    """Weights (B, T, rows, columns) that sum to 1 and read a grid at the pointer (B, T, 2, fractions)."""
    at_x = (pointer[..., 0:1] * columns - 0.5).clamp(0, columns - 1)
    at_y = (pointer[..., 1:2] * rows - 0.5).clamp(0, rows - 1)
    x = (1 - (torch.arange(columns, device=pointer.device) - at_x).abs()).clamp_min(0)
    y = (1 - (torch.arange(rows, device=pointer.device) - at_y).abs()).clamp_min(0)
    return y.unsqueeze(-1) * x.unsqueeze(-2)


def pointer_offset(pointer: Tensor, rows: int, columns: int) -> Tensor:
    """(B, T, 2, rows, columns): from each cell's centre to the pointer (B, T, 2, fractions), right and down, in cells."""
    x = pointer[..., 0:1] * columns - torch.arange(columns, device=pointer.device) - 0.5
    y = pointer[..., 1:2] * rows - torch.arange(rows, device=pointer.device) - 0.5
    across, down = x.unsqueeze(-2).expand(*x.shape[:2], rows, -1), y.unsqueeze(-1).expand(*y.shape[:2], -1, columns)
    return torch.stack([across, down], dim=2)
