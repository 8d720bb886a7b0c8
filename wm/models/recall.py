"""What is copied: what a place showed before, by attention whose values are the latents themselves, and what is dragged.

A window that closes uncovers what was there before it opened. To fetch that takes one weight near 1; to draw it again would
take the whole network. As a pointer network copies words (Vinyals et al. 2015, arXiv:1506.03134, eq. 3), a place copies
one of its own pasts.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wm.models.memory import Memory
from wm.nn.convolution import Unfold
from wm.nn.sequence_parallel import SequenceGroup

# The last frame's head start, in logits: a place begins by showing what it showed last.
HEAD_START = 5.0


class Recall(nn.Module):
    """Features ((B T), C', H, W), the levels of `Down` and the frames before (B, T, C, H, W) -> one of these at each place.

    Keys tell what a place looked like with what was around it; the age of a frame has a score of its own. The last layer
    of a Memory is this one's.
    """

    def __init__(self, widths: tuple[int, ...], key_size: int, window: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(widths[0], key_size, 1), nn.Conv2d(widths[0], key_size, 1)
        self.around = nn.Sequential(nn.Conv2d(widths[1], 4 * key_size, 1), Unfold(2)) if len(widths) > 1 else None
        self.age = nn.Parameter(F.pad(torch.tensor([HEAD_START]), (0, window - 1)))

    def forward(
        self,
        features: Tensor,
        levels: list[Tensor],
        before: Tensor,
        mask: Tensor,
        memory: Memory | None,
        group: SequenceGroup | None = None,
    ) -> Tensor:
        rows = before.shape[-2]
        query = _by_place(self.query(features), len(before))
        key, value = self.kept(levels, before)
        if memory is not None:
            key, value = memory.extended(memory.last, key, value)
        if group is not None:  # all frames of some places
            query, key, value = (group.exchanged(part, scatter=0, gather=2) for part in (query, key, value))
        chosen = (query @ key.transpose(2, 3)).float() * query.shape[-1] ** -0.5 + self._of_age(mask)
        copied = chosen.softmax(-1).to(value.dtype) @ value
        if group is not None:
            copied = group.exchanged(copied, scatter=2, gather=0)
        return rearrange(copied, "(b h w) 1 t c -> b t c h w", b=len(before), h=rows)

    def kept(self, levels: list[Tensor], before: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value of each frame at each place, ((B H W), 1, T, key size or C): what a memory keeps."""
        key = self.key(levels[0])
        if self.around is not None:
            key = key + self.around(levels[1])
        return _by_place(key, len(before)), _by_place(before.flatten(0, 1), len(before))

    def _of_age(self, mask: Tensor) -> Tensor:
        """The score of each key's age for each query, (T of queries, T of keys); -inf where `mask` is False."""
        queries, keys = mask.shape
        now = torch.arange(keys, device=mask.device)
        age = now[keys - queries :].unsqueeze(1) - now
        return self.age.float()[age.clamp(0, len(self.age) - 1)].masked_fill(~mask, float("-inf"))


def _by_place(x: Tensor, batch: int) -> Tensor:
    # Of one clip this is a view, which a product of batches would take matrix by matrix, copying each.
    return rearrange(x, "(b t) c h w -> (b h w) 1 t c", b=batch).contiguous()


def carried(x: Tensor, moved: Tensor) -> Tensor:
    """x (B, T, C, H, W), each frame shifted by `moved` (B, T, 2) latents down and right; 0 where nothing comes from.

    What is dragged goes where the pointer goes, and needs not be drawn (Finn et al. 2016, arXiv:1605.07157, section 3.2).
    """
    rows, columns = x.shape[-2:]
    row = torch.arange(rows, device=x.device) - moved[..., :1]
    column = torch.arange(columns, device=x.device) - moved[..., 1:]
    inside = ((row >= 0) & (row < rows)).unsqueeze(-1) & ((column >= 0) & (column < columns)).unsqueeze(-2)
    source = row.clamp(0, rows - 1).unsqueeze(-1) * columns + column.clamp(0, columns - 1).unsqueeze(-2)
    shifted = x.flatten(3).gather(3, source.flatten(2).unsqueeze(2).expand(-1, -1, x.shape[2], -1))
    return shifted.view_as(x) * inside.unsqueeze(2)
