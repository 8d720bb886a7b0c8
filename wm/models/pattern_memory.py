"""A memory that keeps in each layer what its pattern lets later frames see: a window, first frames as sinks, or all."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from wm.models.memory import Memory
from wm.nn.frame_mask import Pattern


class PatternMemory(Memory):
    """A Memory of layers with patterns of their own, which knows the number of every frame that it keeps.

    A layer without a window keeps all frames, so a rollout with one grows as it goes on.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        if not all(pattern.causal for pattern in patterns):
            raise ValueError("a model that looks at frames to come has no memory: it draws a clip as a whole")
        super().__init__(len(patterns), max((pattern.window for pattern in patterns), default=1) - 1)
        self.patterns = tuple(patterns)
        self.numbers: list[tuple[int, ...]] = [()] * len(patterns)
        self.num_seen = 0  # frames since the clip began

    def numbers_with(self, layer: int, new: int) -> tuple[int, ...]:
        """The numbers of the frames that layer `layer` keeps, and of `new` ones after them."""
        return *self.numbers[layer], *range(self.num_seen, self.num_seen + new)

    def commit(self) -> None:
        """Remember the frames that were set aside, forgetting those that no later one sees."""
        new = 0
        for layer, held in enumerate(self.held):
            assert held is not None, "commit follows hold, and hold a forward"
            new = held[0].shape[2]
            numbers = self.numbers_with(layer, new)
            kept = [i for i, number in enumerate(numbers) if self._is_seen_later(layer, number, self.num_seen + new)]
            key, value = self.extended(layer, *held)
            self.frames[layer] = key[:, :, _run(kept)], value[:, :, _run(kept)]
            self.numbers[layer] = tuple(numbers[i] for i in kept)
        self.num_seen += new

    def begin(self, layers: Mapping[int, tuple[Tensor, Tensor]], num_frames: int) -> None:
        """Take in what `layers` keep of `num_frames` frames that no other layer has computed."""
        self.num_seen += num_frames
        for layer, (key, value) in layers.items():
            numbers = range(self.num_seen - num_frames, self.num_seen)
            kept = [i for i, number in enumerate(numbers) if self._is_seen_later(layer, number, self.num_seen)]
            self.frames[layer] = key[:, :, _run(kept)], value[:, :, _run(kept)]
            self.numbers[layer] = tuple(numbers[i] for i in kept)

    def _is_seen_later(self, layer: int, number: int, later: int) -> bool:
        pattern = self.patterns[layer]
        return not pattern.window or later - number < pattern.window or number < pattern.sinks


def _run(kept: list[int]) -> slice | list[int]:
    """`kept` as a slice where its numbers follow each other: a slice is not copied."""
    if kept and kept[-1] - kept[0] == len(kept) - 1:
        return slice(kept[0], kept[-1] + 1)
    return kept
