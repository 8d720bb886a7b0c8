"""What was done in a frame as a few tokens to attend to: one of the pointer, of its wheel and the axes, of buttons, of keys."""

import torch
from torch import Tensor, nn

from wm.batch import Action, ActionSpace
from wm.tags import tagged


class ActionTokens(nn.Module):
    """An Action (B, T) -> (B, T, K, D), K of the devices that the space has."""

    def __init__(self, space: ActionSpace, hidden_size: int) -> None:
        super().__init__()
        widths = {
            "pointer": 0 if space.pointer == "none" else 2,
            "turned": 2 * space.wheel + len(space.axes),
            "buttons": 3 * len(space.buttons),
            "keyboard": 3 * len(space.keys),  # a ModuleDict has keys of its own
        }
        present = {name: width for name, width in widths.items() if width}
        if not present:
            raise ValueError("this world has no controls, and its actions were to be tokens: set tokens to false")
        self.wheel = space.wheel
        self.read = nn.ModuleDict(
            {
                name: nn.Sequential(
                    tagged(nn.Linear(width, hidden_size), hidden=False), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
                )
                for name, width in present.items()
            }
        )
        self.nothing = tagged(nn.Parameter(torch.randn(len(present), hidden_size) * 0.02), decay=False, hidden=False)

    def forward(self, action: Action) -> Tensor:
        turned = [action.wheel, action.axes] if self.wheel else [action.axes]
        devices = {
            "pointer": action.pointer,
            "turned": torch.cat(turned, dim=-1),
            "buttons": action.buttons.flatten(2),
            "keyboard": action.keys.flatten(2),
        }
        dtype = self.nothing.dtype
        return torch.stack([read(devices[name].to(dtype)) for name, read in self.read.items()], dim=2)

    def null(self, batch: int, frames: int) -> Tensor:
        """The tokens of no action, which are learned."""
        return self.nothing.expand(batch, frames, -1, -1)
