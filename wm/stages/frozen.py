"""A network that a stage keeps beside its learners and does not train, saved with them so that a resume has it."""

from pathlib import Path
from typing import Generic, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from wm.engine.protocols import Learner
from wm.stages.context import is_first_rank

Module = TypeVar("Module", bound=nn.Module)


class FrozenModule(Generic[Module]):
    """A module without gradient that takes its weights by `copy_from`; a Part of engine/protocols.py."""

    def __init__(self, module: Module) -> None:
        self.module = module.eval().requires_grad_(False)
        self.filled = False

    def copy_from(self, learner: Learner) -> None:
        """Take the average of `learner`. Every rank calls."""
        # Not the module inside learner.averaged(): at ZeRO 3 its large parameters are whole only while a forward runs.
        self.module.load_state_dict(learner.weights())
        self.filled = True

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.filled and is_first_rank():
            save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, folder / "frozen.safetensors")

    def load(self, folder: Path) -> None:
        if (folder / "frozen.safetensors").is_file():
            self.module.load_state_dict(load_file(folder / "frozen.safetensors"))
            self.filled = True
