"""Whether clips show what their captions say: rates of a parser's verdicts. A pure function of videos."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from wm.measures import Estimate, wilson

# Match(video (T, 3, H, W) uint8, caption) -> aspect: whether the video shows it as the caption says. Always the same aspects.
Match = Callable[[Tensor, str], Mapping[str, bool]]

ALL = "all"  # every aspect of a clip at once


def verdicts(videos: Sequence[Tensor], captions: Sequence[str], match: Match) -> list[dict[str, bool]]:
    """For each clip the verdict on each aspect, and on ALL of them."""
    if len(videos) != len(captions):
        raise ValueError(f"{len(videos)} clips and {len(captions)} captions: each clip needs the one it was made from")
    found = [dict(match(video, caption)) for video, caption in zip(videos, captions, strict=True)]
    return [{**aspects, ALL: all(aspects.values())} for aspects in found]


def match_rates(found: Sequence[Mapping[str, bool]]) -> dict[str, Estimate]:
    """The share of clips that are right, by aspect, with Wilson's interval; ValueError without a clip."""
    if not found:
        raise ValueError("no clips to judge: a rate needs at least one")
    return {aspect: wilson(sum(verdict[aspect] for verdict in found), len(found)) for aspect in found[0]}
