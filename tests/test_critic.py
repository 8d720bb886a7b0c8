"""The patch critic: a logit a patch, frames apart, hinges that push the right way."""

import pytest
import torch

from wm.losses.adversarial import critic_loss, fooling_loss
from wm.models.critic import PatchCritic, PatchCriticConfig


def small() -> PatchCritic:
    torch.manual_seed(0)
    return PatchCriticConfig(patch=2, width=8, depth=1).build()


def video() -> torch.Tensor:
    return torch.rand(2, 5, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_one_logit_a_patch() -> None:
    assert small()(video()).shape == (2, 5, 4, 6)


def test_frames_are_independent() -> None:
    critic, other = small(), video()
    other[:, [0, 1, 3, 4]] = 0.0
    assert torch.equal(critic(video())[:, 2], critic(other)[:, 2])


def test_gradient_reaches_every_parameter_and_the_frames() -> None:
    critic, frames = small(), video().requires_grad_()
    fooling_loss(critic(frames)).backward()
    assert [name for name, p in critic.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert frames.grad is not None
    assert bool((frames.grad.abs().sum((2, 3, 4)) > 0).all())


def test_bfloat16_weights_take_float32_frames() -> None:
    logits = small().to(torch.bfloat16)(video())
    torch.testing.assert_close(logits.float(), small()(video()), atol=0.05, rtol=0.05)


def test_the_hinge_stops_where_the_critic_is_sure() -> None:
    assert critic_loss(torch.tensor([1.0, 4.0]), torch.tensor([-1.0, -3.0])) == 0.0
    assert critic_loss(torch.tensor([0.0]), torch.tensor([0.5])) == pytest.approx(1.0 + 1.5)
    assert fooling_loss(torch.tensor([2.0, -1.0])) == pytest.approx(-0.5)


def test_a_critic_learns_to_tell_and_a_frame_to_fool() -> None:
    critic = small()
    real, made = video(), video().flip(1) * 0.3
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    before = critic_loss(critic(real), critic(made)).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = critic_loss(critic(real), critic(made))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * before
    frames = made.clone().requires_grad_()
    fooling = fooling_loss(critic(frames))
    (gradient,) = torch.autograd.grad(fooling, frames)
    assert fooling_loss(critic(made - 0.5 * gradient.sign())) < fooling
