"""The average of the weights of any length, after the training, from what checkpoints hold of two lengths.

Karras et al. 2024 (EDM2, arXiv:2312.02696), section 3 and appendix C. A power average at step t weighs step tau by
p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1). Its length is the standard deviation of that weight over t, so 0.1 means
about the last tenth of the run at whatever step. A weight that was not tracked is put together from those that were, by
least squares over [0, t].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wm.engine.partition import Fragment, Reader

LONGEST = 12**-0.5  # of exponent 0, where all steps weigh the same


def power_exponent(length: float) -> float:
    """gamma of a relative length: the real root of (gamma + 2)^2 (gamma + 3) length^2 = gamma + 1 that is 0 or more."""
    if not 0 < length < LONGEST:
        raise ValueError(f"average length {length} must lie between 0 and {LONGEST:.3f}, which weighs all steps alike")
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real[np.isreal(roots)].max())


def power_length(exponent: float) -> float:
    """The relative length of an exponent gamma (equation 123 of the paper's appendix C)."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


def power_kind(length: float) -> str:
    """Under which name a checkpoint holds the power average of this length."""
    return f"power_{length:g}"


@dataclass(frozen=True)
class Profile:
    """How a power average weighs the steps until `step`."""

    step: float
    exponent: float

    def inner(self, other: "Profile") -> float:
        """The integral of the product of both weights; by quotients, because the powers alone have no room in a float."""
        total = self.exponent + other.exponent + 1
        first, last = sorted((self, other), key=lambda profile: profile.step)
        scale = (self.exponent + 1) * (other.exponent + 1) / (total * last.step)
        return scale * (first.step / last.step) ** last.exponent


def coefficients(kept: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """What the kept averages are multiplied by so that their sum weighs the steps most nearly as `wanted` does."""
    products = np.array([[a.inner(b) for b in kept] for a in kept])
    return np.linalg.solve(products, np.array([a.inner(wanted) for a in kept]))


def reconstructed(parts: Sequence[Path], length: float, step: int) -> dict[str, Tensor]:
    """The power average of `length` at `step`, float32, flat, by name of the parameter.

    `parts` are folders that learners saved (`checkpoints/step-N/<part>`), the more the nearer; those beyond `step` are left
    out. ValueError where none was saved at `step`, whose last weights nobody else knows, or none holds power averages.
    """
    readers = [reader for reader in map(Reader, parts) if 0 < reader.facts["applied"] <= step]
    kept = [(reader, kind) for reader in readers for kind in sorted(reader.kinds()) if kind.startswith("power_")]
    if not kept:
        raise ValueError(
            f"none of {len(parts)} checkpoints holds power averages at or before step {step}: train with "
            "learner.average_lengths, for example [0.05, 0.1]"
        )
    profiles = [Profile(r.facts["applied"], power_exponent(float(kind.removeprefix("power_")))) for r, kind in kept]
    factors = coefficients(profiles, Profile(step, power_exponent(length)))
    numels = kept[0][0].numels
    if step not in (steps := sorted({int(profile.step) for profile in profiles})):
        raise ValueError(f"no checkpoint at step {step}, whose last weights no other one knows; there are {steps}")
    # Factors of both signs that nearly cancel: sums are taken in float64.
    sums = {name: torch.zeros(numel, dtype=torch.float64) for name, numel in numels.items()}
    for (reader, kind), factor in zip(kept, factors, strict=True):
        reader.check(numels)
        for name, numel in numels.items():
            held = torch.empty(numel)
            reader.fill([Fragment(name, numel, 0, {kind: held})])
            sums[name] += float(factor) * held.double()
    return {name: total.float() for name, total in sums.items()}
