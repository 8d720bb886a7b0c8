"""How the owned part of every parameter lies in a checkpoint: a format that knows no world size and no ZeRO stage.

Each rank writes one safetensors file with its fragments: `<kind>/<parameter>`, float32, flat, where kind is master,
exp_avg, exp_avg_sq or average; the file's metadata says at which element of the flattened parameter each begins.
A reader takes the slices that it owns out of all files, whoever wrote them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wm.durable import sync
from wm.engine import failpoints
from wm.engine.host_memory import HostMemory


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + n) of one flattened parameter: what this rank owns of it."""

    name: str
    numel: int  # of the whole parameter
    start: int
    tensors: Mapping[str, Tensor]  # kind -> (n,) float32, live: writing into it changes the learner

    @property
    def size(self) -> int:
        return next(iter(self.tensors.values())).numel()


@dataclass(frozen=True)
class RankFile:
    """What one rank writes: tensors by their key in the file, and what the file says beside them."""

    rank: int
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def save(self, folder: Path) -> None:
        path = folder / f"rank-{self.rank:05d}.safetensors"
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        try:
            save_file(tensors, path, dict(self.metadata))
        except SafetensorError as error:  # how safetensors reports a full disk, among others
            raise OSError(f"{path} cannot be written: {error}") from None
        failpoints.reach("checkpoint.file", path)
        sync(path)

    def copied(self, memory: HostMemory) -> "RankFile":
        """The same with the values of this moment, which later steps do not change."""
        return RankFile(self.rank, memory.copy(self.tensors), self.metadata)


class Nothing:
    """The snapshot of a rank that has nothing to write."""

    def save(self, folder: Path) -> None:
        return None


def rank_file(rank: int, fragments: Sequence[Fragment], extra: Mapping[str, Tensor], facts: Any) -> RankFile:
    """This rank's file. `extra` are whole tensors (buffers) and `facts` plain values; a reader takes rank 0's."""
    tensors = {f"{kind}/{f.name}": t for f in fragments for kind, t in f.tensors.items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in extra.items()}
    metadata = {
        "starts": json.dumps({f.name: f.start for f in fragments}),
        "numels": json.dumps({f.name: f.numel for f in fragments}),
        "facts": json.dumps(facts),
    }
    return RankFile(rank, tensors, metadata)


class Reader:
    """The fragments of all ranks in one part folder. Errors are ValueError and name the folder or the parameter."""

    def __init__(self, folder: Path):
        self.folder = folder
        paths = sorted(folder.glob("rank-*.safetensors"))
        if not paths or paths[0].name != "rank-00000.safetensors":
            raise ValueError(f"{folder} holds no rank-00000.safetensors; it is not the state of a learner")
        try:
            self._files = [safe_open(path, framework="pt") for path in paths]
        except SafetensorError as error:
            raise ValueError(f"{folder}: unreadable state: {error}") from None
        self._starts = [json.loads(file.metadata()["starts"]) for file in self._files]
        self.facts = json.loads(self._files[0].metadata()["facts"])
        self.numels: dict[str, int] = {}
        for file in self._files:
            self.numels |= json.loads(file.metadata()["numels"])

    def extra(self, name: str) -> Tensor:
        """One whole tensor of rank 0."""
        return self._files[0].get_tensor(f"extra/{name}")

    def kinds(self) -> set[str]:
        """master, exp_avg, ...: what the file holds for its parameters."""
        return {key.split("/", 1)[0] for file in self._files for key in file.keys()} - {"extra"}  # noqa: SIM118

    def check(self, numels: Mapping[str, int]) -> None:
        """ValueError where the parameters are not those of `numels` (name -> number of elements)."""
        names = sorted(numels.keys() ^ self.numels.keys())
        if names:
            where = "state" if names[0] in self.numels else "module"
            raise ValueError(f"{self.folder}: parameter {names[0]} is only in the {where} ({len(names)} names differ)")
        for name, numel in numels.items():
            if self.numels[name] != numel:
                raise ValueError(f"{self.folder}: {name} has {self.numels[name]} elements, the module's has {numel}")

    @torch.no_grad()
    def fill(self, fragments: Sequence[Fragment]) -> None:
        """Copy what the files hold for each fragment into its tensors."""
        for fragment in fragments:
            for kind, target in fragment.tensors.items():
                self._fill(fragment, kind, target)

    def _fill(self, fragment: Fragment, kind: str, target: Tensor) -> None:
        filled = 0
        for start, piece in self._pieces(kind, fragment.name):
            length = piece.get_shape()[0]
            first, last = max(start, fragment.start), min(start + length, fragment.start + fragment.size)
            if first < last:
                target[first - fragment.start : last - fragment.start].copy_(piece[first - start : last - start])
                filled += last - first
        if filled != fragment.size:
            raise ValueError(
                f"{self.folder}: {kind} of {fragment.name} has {filled} of the {fragment.size} elements needed"
            )

    def _pieces(self, kind: str, name: str) -> Iterator[tuple[int, Any]]:
        for file, starts in zip(self._files, self._starts, strict=True):
            if name in starts and f"{kind}/{name}" in file.keys():  # noqa: SIM118
                yield starts[name], file.get_slice(f"{kind}/{name}")
