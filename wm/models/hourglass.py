"""Convolutions around the tokens of a DiT: down from latents to tokens, and up again with what was passed over.

A token stands for many latents, and one linear layer would learn what a cursor looks like at each place in it apart;
convolutions learn it once. As a U-Net (Ronneberger et al. 2015) whose innermost level is the transformer (Hoogeboom et al.
2023, 2301.11093, section 2.3).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wm.nn.convolution import ChannelNorm, FiLM, Fold, ResidualBlock, Unfold
from wm.tags import tagged

WAVES = 16  # cosines along each axis that tell a place where it is


def fold_sizes(patch_size: int, num_levels: int) -> list[int]:
    """How much each level is folded to reach the next, the tokens last: 2 each, and what is left of `patch_size`.

    ValueError where `patch_size` has no room for so many levels.
    """
    last, rest = divmod(patch_size, 2 ** (num_levels - 1))
    if rest or last < 1:
        raise ValueError(f"patch_size {patch_size} cannot be halved {num_levels - 1} times: give fewer widths")
    return [2] * (num_levels - 1) + [last]


class Down(nn.Module):
    """What goes into each frame (B, T, J, H, W), under the frame's state (B, T, D) -> tokens (B, T, N, D) and the levels.

    The state, which knows the noise level and the action, scales and shifts what the first convolution finds; so does the
    place, as cosines (2 WAVES, H, W): a window opens where its kind of window opens; and `aim` ((B T), width, H, W), what
    Aim says of the way from the pointer. The levels are what `Up` takes on the way back, ((B T), width, H / 2^i, W / 2^i).
    """

    def __init__(self, joined: int, widths: tuple[int, ...], patch_size: int, size: int) -> None:
        super().__init__()
        folds = fold_sizes(patch_size, len(widths))
        self.enter = tagged(nn.Conv2d(joined, widths[0], 3, padding=1), hidden=False)
        self.where = tagged(nn.Conv2d(2 * WAVES, widths[0], 1), hidden=False)
        self.film = FiLM(widths[0], size)
        self.folds = nn.ModuleList(Fold(fold) for fold in folds)
        self.merges = nn.ModuleList(
            nn.Conv2d(width * fold**2, wider, 1)
            for width, fold, wider in zip(widths, folds, (*widths[1:], size), strict=True)
        )
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths[1:])

    def forward(
        self, joined: Tensor, state: Tensor, cosines: Tensor, aim: Tensor | float = 0.0
    ) -> tuple[Tensor, list[Tensor]]:
        frames = rearrange(joined, "b t c h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        x = self.film(self.enter(frames) + self.where(cosines) + aim, state.flatten(0, 1))
        levels = [x]
        for fold, merge, block in zip(list(self.folds)[:-1], list(self.merges)[:-1], self.blocks, strict=True):
            x = block(merge(fold(x)))
            levels.append(x)
        x = self.merges[-1](self.folds[-1](x))
        return rearrange(x, "(b t) d h w -> b t (h w) d", b=len(joined)), levels


class Drawn(NamedTuple):
    """What `Up` drew, for each latent."""

    picture: Tensor  # (B, T, C, H, W)
    shares: Tensor  # (B, T, 2 or 3, H, W) that sum to 1, of what is shown: what was held there, the picture, what is carried
    stamped: Tensor | float  # (B, T, C, H, W) on top of it
    features: Tensor  # ((B T), width, H, W) that this was read from

    def over(self, held: Tensor | float, carried: Tensor | None = None) -> Tensor:
        """(B, T, C, H, W): what is shown, layers by their masks (Finn et al. 2016, arXiv:1605.07157, eq. 3)."""
        shown = self.shares[:, :, :1] * held + self.shares[:, :, 1:2] * self.picture + self.stamped
        return shown if carried is None else shown + self.shares[:, :, 2:] * carried


class Up(nn.Module):
    """Tokens (B, T, N, D), the levels that `Down` left, the frame's state (B, T, D) and the maps -> what is Drawn.

    Where nothing happens a single share near 0 says so, sooner than many weights that cancel.
    """

    def __init__(
        self,
        size: int,
        widths: tuple[int, ...],
        patch_size: int,
        channels: int,
        num_maps: int,
        stamps: int,
        carries: bool = False,
    ) -> None:
        super().__init__()
        folds = fold_sizes(patch_size, len(widths))
        self.splits = nn.ModuleList(
            nn.Conv2d(wider, width * fold**2, 1)
            for width, fold, wider in zip(widths, folds, (*widths[1:], size), strict=True)
        )
        self.unfolds = nn.ModuleList(Unfold(fold) for fold in folds)
        self.blocks = nn.ModuleList(ResidualBlock(width, state_size=size) for width in widths)
        self.norm = ChannelNorm(widths[0])
        self.stamps = Stamps(num_maps, stamps, channels) if num_maps and stamps else None
        self.parts = channels, 2 if carries else 1, stamps if self.stamps else 0
        self.leave = tagged(nn.Conv2d(widths[0], sum(self.parts), 1), hidden=False)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def begin_holding(self) -> None:
        """Begin with little else anywhere: what was held is a good first guess."""
        assert self.leave.bias is not None
        nn.init.constant_(self.leave.bias.split(self.parts)[1], -2.0)

    def forward(self, tokens: Tensor, levels: list[Tensor], rows: int, state: Tensor, maps: Tensor | None) -> Drawn:
        x, state = rearrange(tokens, "b t (h w) d -> (b t) d h w", h=rows), state.flatten(0, 1)
        for split, unfold, block, level in reversed(
            list(zip(self.splits, self.unfolds, self.blocks, levels, strict=True))
        ):
            x = block(unfold(split(x)) + level, state)
        picture, scores, chosen = self.leave(F.silu(self.norm(x))).split(self.parts, dim=1)
        stamped = 0.0 if self.stamps is None or maps is None else self.stamps(maps, chosen)
        b = len(tokens)
        return Drawn(
            picture=picture.unflatten(0, (b, -1)),
            # The score of what was held is 0: two shares are a sigmoid.
            shares=F.pad(scores, (0, 0, 0, 0, 1, 0)).softmax(1).unflatten(0, (b, -1)),
            stamped=stamped if isinstance(stamped, float) else stamped.unflatten(0, (b, -1)),
            features=x,
        )


class Stamps(nn.Module):
    """Maps (B, T, M, H, W) and a choice ((B T), K, H, W) of logits -> what is stamped there, ((B T), C, H, W).

    What stands where the maps say (a cursor) is one of a few pictures, each the same anywhere: a linear function of the
    maps, which is learned much sooner than by the layers around it; those have only to choose.
    """

    def __init__(self, num_maps: int, num_stamps: int, channels: int) -> None:
        super().__init__()
        self.pictures = tagged(nn.Conv2d(num_maps, num_stamps * channels, 5, padding=2), hidden=False)
        # Almost nothing, but not the same nothing: equal pictures would learn to be equal.
        nn.init.normal_(self.pictures.weight, std=0.01)
        assert self.pictures.bias is not None
        nn.init.zeros_(self.pictures.bias)

    def forward(self, maps: Tensor, chosen: Tensor) -> Tensor:
        frames = rearrange(maps, "b t m h w -> (b t) m h w").contiguous(memory_format=torch.channels_last)
        pictures = self.pictures(frames).unflatten(1, (chosen.shape[1], -1))
        return (pictures * chosen.softmax(dim=1).unsqueeze(2)).sum(dim=1)
