"""From noise to data: functions of `predict(x_t, t)` and a falling grid of levels. No formula of its own: see flow.py.

Each takes `x` (B, T, C, H, W) at level times[0] (`noise` where b(1) = 1, `b(1) noise` on the exploding path) and
returns the state at level times[-1]; with a grid that ends at 0, that is data. All frames are at one level. Where the
chosen prediction is singular at the first level, the model is asked LEVEL_MARGIN below it (Flow.usable).
"""

from typing import Annotated

from wm.config import Kind, Named
from wm.samplers.multistep import DPMSolver, UniPC, dpm_solver, unipc
from wm.samplers.single_step import Euler, Heun, euler, heun
from wm.samplers.steps import Fresh
from wm.samplers.stochastic import Ancestral, Churned, Consistency, ancestral, churned, consistency

SamplerConfig = Annotated[Euler | Heun | Ancestral | Churned | DPMSolver | UniPC | Consistency, Kind, Named]

__all__ = [
    "Ancestral",
    "Churned",
    "Consistency",
    "DPMSolver",
    "Euler",
    "Fresh",
    "Heun",
    "SamplerConfig",
    "UniPC",
    "ancestral",
    "churned",
    "consistency",
    "dpm_solver",
    "euler",
    "heun",
    "unipc",
]
