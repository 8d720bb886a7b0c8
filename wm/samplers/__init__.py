"""From noise to data: functions of `predict(x_t, t)` and a falling grid of levels. No formula of its own: see flow.py.

Each takes `x` (B, T, C, H, W) at level times[0] (`noise` where b(1) = 1, `b(1) noise` on the exploding path) and
returns the state at level times[-1]; with a grid that ends at 0, that is data. All frames are at one level. Where the
chosen prediction is singular at the first level, the model is asked LEVEL_MARGIN below it (Flow.usable).
"""

from typing import Annotated, Literal, get_args

from wm.config import Kind
from wm.samplers.multistep import DPMSolver, UniPC, dpm_solver, unipc
from wm.samplers.single_step import Euler, Heun, euler, heun
from wm.samplers.steps import Fresh
from wm.samplers.stochastic import Ancestral, Churned, Consistency, ancestral, churned, consistency

SamplerConfig = Annotated[Euler | Heun | Ancestral | Churned | DPMSolver | UniPC | Consistency, Kind]
# A name alone is that sampler with its own settings.
SamplerName = Literal["euler", "heun", "ancestral", "churned", "dpm_solver", "unipc", "consistency"]


def sampler_of(choice: SamplerConfig | SamplerName) -> SamplerConfig:
    """The sampler that a config names, with its settings or by name alone."""
    if not isinstance(choice, str):
        return choice
    union, _ = get_args(SamplerConfig)
    return next(cls() for cls in get_args(union) if cls().kind == choice)


__all__ = [
    "Ancestral",
    "Churned",
    "Consistency",
    "DPMSolver",
    "Euler",
    "Fresh",
    "Heun",
    "SamplerConfig",
    "SamplerName",
    "UniPC",
    "ancestral",
    "churned",
    "consistency",
    "dpm_solver",
    "euler",
    "heun",
    "sampler_of",
    "unipc",
]
