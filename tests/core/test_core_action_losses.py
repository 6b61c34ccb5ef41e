"""The reward term for windows of actions: what R is asked, and where its gradient goes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ractd_core.config import NoiseConfig, StudentConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser, column
from ractd_core.draws import Draws
from ractd_core.losses import action_reward_loss, inside, student_loss

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """R = (Σ action)² + newest position, of two actions and three observations."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach())
        return x[..., :2].sum(-1) ** 2 + x[..., 2]


def batch(rows: int = 6, scale: float = 0.5) -> tuple[Tensor, Tensor]:
    """Actions (rows, 4, 2) and the last two observations (rows, 2 · 3)."""
    source = torch.Generator().manual_seed(0)
    actions = scale * (2 * torch.rand(rows, 4, 2, generator=source) - 1)
    return actions.requires_grad_(True), torch.randn(rows, 6, generator=source)


def draws(rows: int, step: int = 0) -> Draws:
    return Draws(0, step, rows, CPU)


def test_the_reward_is_that_of_the_first_action_in_the_newest_observation() -> None:
    value = Recorder()
    actions, cond = batch()
    loss = action_reward_loss(value, actions, cond, draws(6), observation_dims=3)
    (asked,) = value.asked
    assert asked.shape == (6, 1, 5)
    torch.testing.assert_close(asked[:, 0, :2], actions[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(asked[:, 0, 2:], cond[:, 3:], rtol=0, atol=0)
    expected = -(actions[:, 0].sum(-1) ** 2 + cond[:, 3]).mean()
    torch.testing.assert_close(loss, expected)
    # Nothing of it is drawn.
    again = action_reward_loss(Recorder(), actions, cond, draws(6, step=9), observation_dims=3)
    assert torch.equal(loss, again)


def test_the_gradient_reaches_the_executed_action_alone() -> None:
    actions, cond = batch()
    loss = action_reward_loss(Recorder(), actions, cond, draws(6), observation_dims=3)
    (gradient,) = torch.autograd.grad(loss, actions)
    assert not gradient[:, 1:].any()
    expected = -2 * actions[:, 0].sum(-1, keepdim=True).expand(-1, 2) / 6
    torch.testing.assert_close(gradient[:, 0], expected)
    assert bool((gradient[:, 0] != 0).all())


def test_an_action_beyond_the_data_is_asked_at_its_limit_and_still_has_a_gradient() -> None:
    value = Recorder()
    actions, cond = batch(scale=5.0)
    loss = action_reward_loss(value, actions, cond, draws(6), observation_dims=3)
    clamped = actions[:, 0].clamp(-1, 1)
    assert bool((clamped != actions[:, 0]).any())
    torch.testing.assert_close(value.asked[0][:, 0, :2], clamped)
    (gradient,) = torch.autograd.grad(loss, actions)
    # The slope at the limit, passed on as if nothing had been clamped.
    torch.testing.assert_close(gradient[:, 0], -2 * clamped.sum(-1, keepdim=True).expand(-1, 2) / 6)
    # Observations are never clamped: R has seen all of them.
    assert torch.equal(value.asked[0][:, 0, 2:], cond[:, 3:])


@pytest.mark.parametrize("size", [1.0, 3.3, 1e4, 1e8, 1e30])
def test_inside_is_a_clamp_whose_gradient_passes_straight_through(size: float) -> None:
    x = (size * torch.linspace(-1, 1, 101)).requires_grad_(True)
    found = inside(x)
    # To the last bit, however far a network that has just begun to learn is off.
    assert torch.equal(found.detach(), x.detach().clamp(-1, 1))
    weights = torch.arange(101.0)
    (gradient,) = torch.autograd.grad((weights * found).sum(), x)
    torch.testing.assert_close(gradient, weights)


class Shrink(Denoiser):
    """Halves every window."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return 0.5 * x


class Jump(ConsistencyTrajectory):
    """Scales every window towards its stop time."""

    def __init__(self, noise: NoiseConfig) -> None:
        super().__init__(nn.Identity(), noise)
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        return torch.where(column(t, x) == column(s, x), x, self.gain * x)


@pytest.mark.parametrize("at", ["dsm", "noise"])
def test_the_students_reward_term_is_taken_on_its_own_first_actions(at: str) -> None:
    noise = NoiseConfig(sigma_max=1.0)
    student, target, value = Jump(noise), Jump(noise).requires_grad_(False), Recorder()
    config = StudentConfig.model_validate(
        {"ctm_weight": 0, "reward_weight": 2.0, "reward_at": at, "dsm_weight": 1e-9}
    )
    actions, cond = batch(rows=64)
    reward_loss = partial(action_reward_loss, value, observation_dims=3)
    x0 = actions.detach()
    loss, info = student_loss(
        student, target, Shrink(nn.Identity(), noise), reward_loss, x0, cond, draws(64), config
    )
    # Beside its own it asks for the data's, to compare.
    asked, of_data = value.asked
    assert asked.shape == (64, 1, 5)
    assert torch.equal(asked[:, 0, 2:], cond[:, 3:])
    assert torch.equal(of_data[:, 0], torch.cat([x0[:, 0], cond[:, 3:]], dim=1))
    assert info["reward"].item() == pytest.approx(-Recorder()(asked).mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(2 * info["reward"].item(), rel=1e-3)
    torch.autograd.backward(loss)
    assert student.gain.grad is not None
    # A larger gain makes the squared sum of every clamped action larger or leaves it.
    assert float(student.gain.grad) < 0
