"""Our samplers against the schedulers of diffusers: the same model outputs, step for step, the same states.

A scheduler walks down with some function as the model; ours then walks the same levels and is given what that model said
at each call. Every state that a model is asked about, and the last one, must agree to 1e-5 of the state's size.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mixture import make
from torch import Tensor

from wm.ddpm import alpha_bar_of, levels_of, linear_betas
from wm.flow import Flow, Predict, shifted, time_grid
from wm.levels import ExponentialShift
from wm.samplers import ancestral, dpm_solver, euler, heun, unipc
from wm.time_grids import KarrasTimes

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -c constraints.txt diffusers", exc_type=ImportError
)

SHAPE = (2, 1, 4, 6, 10)  # (B, T, C, H, W), one frame
STEPS = 12


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def model(x_t: Tensor) -> Tensor:
    """What stands for a network: any function will do, as both sides are told the same."""
    return torch.tanh(1.3 * x_t + 0.2 * x_t.roll(1, -1) + 0.1)


class Walk:
    """A scheduler's way from noise to data: the states it asked about, what it was told, where it came out."""

    def __init__(self, scheduler: Any, x: Tensor, **step: Any) -> None:
        self.states: list[Tensor] = []
        self.told: list[Tensor] = []
        for t in scheduler.timesteps:
            self.states.append(x)
            self.told.append(model(x))
            x = scheduler.step(self.told[-1], t, x, **{k: v(len(self.told) - 1) for k, v in step.items()}).prev_sample
        self.states.append(x)

    def followed_by(self, sampler: Callable[[Predict], Tensor]) -> None:
        """`sampler`, told the same, asks about the same states and comes out the same."""
        asked: list[Tensor] = []

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            asked.append(x_t)
            return self.told[len(asked) - 1]

        asked.append(sampler(predict))
        assert len(asked) == len(self.states)
        for ours, theirs in zip(asked, self.states, strict=True):
            size = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(ours / size, theirs / size, rtol=0, atol=1e-5, check_dtype=False)


def levels(flow: Flow, ratios: Tensor) -> Tensor:
    """The levels of a scheduler's sigmas, which are b / a but on flow schedulers, where they are t."""
    return flow.path.level_of(ratios.double())


PREDICTED = (("epsilon", "noise"), ("sample", "x"), ("v_prediction", "v"))
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def test_discrete_steps_are_theirs() -> None:
    theirs = diffusers.DDPMScheduler(**BETAS)
    torch.testing.assert_close(linear_betas().float(), theirs.betas)
    torch.testing.assert_close(alpha_bar_of(linear_betas()).float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)


def ddpm_levels(flow: Flow, scheduler: Any) -> Tensor:
    steps = levels_of(flow.path, scheduler.alphas_cumprod.double()[scheduler.timesteps])
    return torch.cat([steps, torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("theirs", "ours"), PREDICTED)
def test_euler_and_ancestral_are_ddim(theirs: str, ours: str, eta: float) -> None:
    flow = make("vp_linear", ours)
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, prediction_type=theirs, timestep_spacing="trailing")
    scheduler.set_timesteps(10)  # it takes the step before to be 1000 / 10 lower, which a divisor alone makes true
    walk = Walk(scheduler, normal(0), eta=lambda i: eta, variance_noise=lambda i: normal(10 + i) if eta else None)
    times = ddpm_levels(flow, scheduler)
    walk.followed_by(lambda predict: ancestral(flow, predict, normal(0), times, eta, lambda i: normal(10 + i)))
    if eta == 0:
        walk.followed_by(lambda predict: euler(flow, predict, normal(0), times))


@pytest.mark.parametrize(("theirs", "ours"), PREDICTED)
def test_ancestral_is_ddpm(theirs: str, ours: str) -> None:
    flow = make("vp_linear", ours)
    scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False, prediction_type=theirs, timestep_spacing="leading")
    scheduler.set_timesteps(50)
    walk = Walk(scheduler, normal(0), generator=lambda i: torch.Generator().manual_seed(10 + i))
    times = ddpm_levels(flow, scheduler)
    walk.followed_by(lambda predict: ancestral(flow, predict, normal(0), times, 1.0, lambda i: normal(10 + i)))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_flow_matching(shift: float) -> None:
    flow = make("rectified", "velocity")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    times = time_grid(STEPS, shift)
    torch.testing.assert_close(times, scheduler.sigmas, rtol=0, atol=1e-6)
    Walk(scheduler, normal(0)).followed_by(lambda predict: euler(flow, predict, normal(0), times))


def test_the_shift_by_size_is_fluxs() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    rule = ExponentialShift()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=math.log(rule.shift(1536)))
    torch.testing.assert_close(shifted(time_grid(STEPS), rule.shift(1536)), scheduler.sigmas, rtol=0, atol=1e-6)
    config = scheduler.config
    ends = (rule.base, rule.base_mu, rule.large, rule.large_mu)
    assert ends == (config.base_image_seq_len, config.base_shift, config.max_image_seq_len, config.max_shift)


@pytest.mark.parametrize(("theirs", "ours"), [("epsilon", "noise"), ("sample", "x")])
@pytest.mark.parametrize(
    ("name", "sampler"), [("EulerDiscreteScheduler", euler), ("HeunDiscreteScheduler", heun)], ids=["euler", "heun"]
)
def test_euler_and_heun_are_edms_on_karras_levels(
    name: str, sampler: Callable[..., Tensor], theirs: str, ours: str
) -> None:
    flow = make("ve", ours)
    scheduler = getattr(diffusers, name)(**BETAS, prediction_type=theirs, use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    ratios = scheduler.sigmas[[0, *range(1, len(scheduler.sigmas), 2)]] if sampler is heun else scheduler.sigmas
    ours_ratios = KarrasTimes(lowest=float(ratios[-2]), highest=float(ratios[0])).ratios(STEPS)
    torch.testing.assert_close(ours_ratios.float(), ratios[:-1].float(), rtol=1e-5, atol=0)
    x, times = normal(0) * float(ratios[0]), levels(flow, ratios)
    Walk(scheduler, x).followed_by(lambda predict: sampler(flow, predict, x, times))


def test_euler_is_edms_with_its_preconditioning_on_our_karras_grid() -> None:
    flow = make("ve", "x")
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5)
    scheduler.set_timesteps(STEPS)
    times = KarrasTimes().times(flow, STEPS).double()
    torch.testing.assert_close(flow.noise_ratio(times).float(), scheduler.sigmas, rtol=2e-5, atol=0)
    x = normal(0) * 80
    walk = Walk(scheduler, x)
    walk.told = [
        scheduler.precondition_outputs(state, told, sigma)
        for state, told, sigma in zip(walk.states[:-1], walk.told, scheduler.sigmas[:-1], strict=True)
    ]
    walk.followed_by(lambda predict: euler(flow, predict, x, levels(flow, scheduler.sigmas)))


MULTISTEP = (
    ("DPMSolverMultistepScheduler", {"solver_order": 2}, dpm_solver),
    ("UniPCMultistepScheduler", {"solver_order": 1}, lambda *given: unipc(*given, order=1)),
    ("UniPCMultistepScheduler", {"solver_order": 2}, unipc),
    ("UniPCMultistepScheduler", {"solver_order": 3}, lambda *given: unipc(*given, order=3)),
)


@pytest.mark.parametrize(("theirs", "ours"), PREDICTED)
@pytest.mark.parametrize(("name", "settings", "sampler"), MULTISTEP)
def test_multistep_samplers_on_the_variance_preserving_path(
    name: str, settings: dict[str, Any], sampler: Callable[..., Tensor], theirs: str, ours: str
) -> None:
    flow = make("vp_linear", ours)
    scheduler = getattr(diffusers, name)(**BETAS, **settings, prediction_type=theirs, final_sigmas_type="zero")
    scheduler.set_timesteps(STEPS)
    times = levels(flow, scheduler.sigmas)
    Walk(scheduler, normal(0)).followed_by(lambda predict: sampler(flow, predict, normal(0), times))


@pytest.mark.parametrize(("name", "settings", "sampler"), MULTISTEP)
def test_multistep_samplers_on_the_rectified_path(
    name: str, settings: dict[str, Any], sampler: Callable[..., Tensor]
) -> None:
    flow = make("rectified", "velocity")
    scheduler = getattr(diffusers, name)(
        **settings, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(STEPS)
    times = scheduler.sigmas.double()  # on this path they are t
    Walk(scheduler, normal(0)).followed_by(lambda predict: sampler(flow, predict, normal(0), times))
