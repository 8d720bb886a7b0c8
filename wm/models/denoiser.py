"""Denoiser: conditioner and DiT, the module that is trained, saved and played."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from wm.batch import ActionSpace, Given
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.caption import TextConditionerConfig
from wm.conditioning.condition import Condition, dropped
from wm.config import Kind, config
from wm.models.dit import DiTConfig
from wm.models.memory import Memory, Past
from wm.models.packing import condition_in_a_row
from wm.models.pattern_memory import PatternMemory


@config
class WorldShape:
    """What a world hands to its model: the controls it knows and the size of its latents."""

    action_space: ActionSpace
    channels: int
    rows: int  # of latents
    columns: int
    stride: int  # pixels a latent covers, a side


@config
class DenoiserConfig:
    dit: DiTConfig = DiTConfig()
    conditioner: Annotated[ActionConditionerConfig | TextConditionerConfig, Kind] = ActionConditionerConfig()

    def __post_init__(self) -> None:
        speaks, reads = isinstance(self.conditioner, TextConditionerConfig), self.dit.text != "none"
        if speaks != reads:
            raise ValueError(
                f"conditioner {self.conditioner.kind} and dit.text {self.dit.text} do not fit: text is what the conditioner "
                f"of kind text gives and what dit.text cross or joint reads; set dit.text={'cross' if speaks else 'none'}"
            )

        done = self.conditioner.action if isinstance(self.conditioner, TextConditionerConfig) else self.conditioner
        tells = done is not None and done.tokens
        if tells != bool(self.dit.action_window):
            raise ValueError(
                f"dit.action_window is {self.dit.action_window} and the action conditioner's tokens {str(tells).lower()}: a model "
                "reads actions as tokens where there are some; set both, or neither"
            )

    def build(self, shape: WorldShape) -> "Denoiser":
        return Denoiser(self, shape)


class Denoiser(nn.Module):
    """x_t (B, T, C, H, W) at levels t (B, T) after its Past, with what was given -> prediction (B, T, C, H, W).

    Past and given may begin some frames earlier: a model with a recall_window can copy from these.
    """

    def __init__(self, config: DenoiserConfig, shape: WorldShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.conditioner = config.conditioner.build(
            shape.action_space, config.dit.hidden_size, shape.stride, shape.rows, shape.columns
        )
        self.dit = config.dit.build(shape.channels, self.conditioner.num_maps)

    def condition(self, given: Given, keep: Tensor | None = None) -> Condition:
        """The condition of `given`, dropped to nothing in the samples where `keep` (B,) is False."""
        condition = self.conditioner(given)
        return condition if keep is None else dropped(condition, self.conditioner.null(given), keep)

    def null(self, given: Given) -> Condition:
        return self.conditioner.null(given)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        past: Past,
        given: Given,
        keep: Tensor | None = None,
        memory: Memory | None = None,
        lengths: Sequence[int] = (),  # of the clips in one row, as in packing.py; `keep` is then (clips,)
    ) -> Tensor:
        if (older := past.x.shape[1] - x_t.shape[1]) > 0:
            memory = self.dit.memory()
            past, given = self.look_over(older, past, given, memory, lambda given: self.condition(given, keep))
        if lengths:
            condition = condition_in_a_row(self.condition, given, lengths, keep)
            return self.dit(x_t, t, past, condition, memory, lengths)
        return self.dit(x_t, t, past, self.condition(given, keep), memory)

    def look_over(
        self, older: int, past: Past, given: Given, memory: Memory, condition: Callable[[Given], Condition]
    ) -> tuple[Past, Given]:
        """Let `memory` begin with the first `older` frames, which can be copied from; what is left of the past and the given."""
        (first_past, past), (first_given, given) = past.parted(older), given.parted(older)
        assert isinstance(memory, PatternMemory)
        with torch.no_grad():
            self.dit.look_over(first_past, condition(first_given), memory)
        return past, given
