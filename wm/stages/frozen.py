"""A network that a stage keeps beside its learners and does not train, saved with them so that a resume has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wm.engine.protocols import Learner, Snapshot
from wm.stages.context import is_first_rank

FILE = "frozen.safetensors"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class _Weights:
    """What is written; nothing where it is empty."""

    tensors: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        if self.tensors:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / FILE)


class FrozenModule(Generic[Module]):
    """A module without gradient that takes its weights by `copy_from`; a Part of engine/protocols.py."""

    def __init__(self, module: Module) -> None:
        self.module = module.eval().requires_grad_(False)
        self.filled = False
        self._held: dict[str, Tensor] = {}  # the weights on the CPU, once a snapshot asked for them

    def copy_from(self, learner: Learner) -> None:
        """Take the average of `learner`. Every rank calls."""
        # Not the module inside learner.averaged(): at ZeRO 3 its large parameters are whole only while a forward runs.
        self.module.load_state_dict(learner.weights())
        self.filled, self._held = True, {}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.filled and is_first_rank():
            _Weights(self.module.state_dict()).save(folder)

    def make_room(self) -> None:
        """Nothing: weights that do not change are held once, and small beside what trains."""

    def snapshot(self) -> Snapshot:
        if self.filled and is_first_rank() and not self._held:
            self._held = {k: v.detach().to("cpu", copy=True) for k, v in self.module.state_dict().items()}
        return _Weights(self._held)

    def load(self, folder: Path) -> None:
        if (folder / FILE).is_file():
            self.module.load_state_dict(load_file(folder / FILE))
            self.filled, self._held = True, {}
