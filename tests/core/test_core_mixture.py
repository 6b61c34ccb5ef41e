"""The method on data with two modes in one dimension, where the teacher is known exactly.

Distillation alone keeps both modes; the reward term leaves the one that pays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ractd_core.config import NoiseConfig, OptimConfig, StudentConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoise, Denoiser, column
from ractd_core.diffusion.samplers import (
    guided,
    initial_noise,
    sample_ancestral,
    sample_euler,
    sample_heun,
)
from ractd_core.diffusion.schedule import ddpm_grid, grid, karras_weight, training_times
from ractd_core.draws import Draws
from ractd_core.losses import action_reward_loss, plan_reward_loss, student_loss
from ractd_core.training import Metrics, Trainer

CPU = torch.device("cpu")
NOISE = NoiseConfig(init_noise="sigma_max", bins=18)
MODES = torch.tensor([-0.6, 0.6])
STD = 0.05
NO_COND = torch.zeros(4000, 0)


class MixtureTeacher(Denoiser):
    """E[x_0 | x_t] when x_0 is -0.6 or 0.6, each with probability ½, plus N(0, 0.05²)."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), NOISE)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        time = column(t, x)[..., None]
        variance = STD**2 + time**2
        each = (STD**2 * x[..., None] + time**2 * MODES) / variance
        weight = (-((x[..., None] - MODES) ** 2) / (2 * variance)).softmax(-1)
        return (weight * each).sum(-1)


class Network(nn.Module):
    """F for plans of one number."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(3, 32), nn.Mish()]
        layers += [nn.Linear(32, 32), nn.Mish(), nn.Linear(32, 32), nn.Mish(), nn.Linear(32, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, t: Tensor, stop: Tensor, cond: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.stack([x[:, 0, 0], t / 1000, stop / 1000], dim=1))
        return out[..., None]


class Pays(nn.Module):
    """1 at the upper mode, -1 at the lower."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(8 * x).squeeze(-1)


class Slope(nn.Module):
    """As much as x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)


class Distillation(nn.Module):
    def __init__(self, reward_weight: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = ConsistencyTrajectory(Network(), NOISE)
        self.network: nn.Module = self.student
        self.memory = nn.ModuleDict()
        self.target = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher = MixtureTeacher()
        self.value: nn.Module = Pays()
        self.config = StudentConfig(dsm_weight=0, reward_weight=reward_weight, reward_at="noise")

    def forward(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = (MODES[draws.integers(2)] + STD * draws.normal())[:, None, None]
        return student_loss(
            self.student,
            self.target,
            self.teacher,
            partial(plan_reward_loss, self.value, states=self.config.reward_states),
            x0,
            x0.new_zeros(len(x0), 0),
            draws,
            self.config,
        )

    def after_step(self) -> None:
        self.target.load_state_dict(self.student.state_dict())

    def collapsed(self, metrics: Metrics) -> str | None:
        return None


def start() -> Tensor:
    z = torch.randn(4000, 1, 1, generator=torch.Generator().manual_seed(1))
    return initial_noise(NOISE, z)


def distilled(reward_weight: float) -> Tensor:
    stage = Distillation(reward_weight)
    config = OptimConfig(steps=400, batch_size=128, lr=3e-3, ema_decay=0.99)
    trainer = Trainer(stage, config, seed=0, device=CPU)
    trainer.run(every=400)
    assert isinstance(trainer.ema, ConsistencyTrajectory)
    with torch.no_grad():
        return trainer.ema.to_data(start(), torch.full((4000,), 80.0), NO_COND).flatten()


Sample = Callable[[Denoise], Tensor]


def by_heun(teacher: Denoise) -> Tensor:
    return sample_heun(teacher, start(), NO_COND, grid(NOISE), clamp=None)


def by_euler(teacher: Denoise) -> Tensor:
    return sample_euler(teacher, start(), NO_COND, grid(NOISE, bins=60), clamp=None)


def by_ddim(teacher: Denoise) -> Tensor:
    sigmas = ddpm_grid(NOISE, "cpu", 60)
    return sample_euler(teacher, start(), NO_COND, sigmas, clamp=None)


def by_ddpm(teacher: Denoise) -> Tensor:
    sigmas = ddpm_grid(NOISE, "cpu", 60)
    z = torch.randn(58, 4000, 1, 1, generator=torch.Generator().manual_seed(1))
    return sample_ancestral(teacher, start(), NO_COND, sigmas, list(z), clamp=None)


SAMPLERS = [by_heun, by_euler, by_ddim, by_ddpm]


@pytest.mark.parametrize("sample", SAMPLERS)
def test_the_teacher_samples_both_modes(sample: Sample) -> None:
    x = sample(MixtureTeacher()).flatten()
    nearest = (x[:, None] - MODES).abs().min(1).values
    assert float((nearest < 0.2).float().mean()) > 0.98
    assert float((x > 0).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_the_reward_term_moves_the_one_step_student_to_the_mode_that_pays() -> None:
    both, upper = distilled(0.0), distilled(0.05)
    assert float((both > 0.3).float().mean()) == pytest.approx(0.45, abs=0.1)
    assert float((both < -0.3).float().mean()) == pytest.approx(0.45, abs=0.1)
    assert float((upper < 0).float().mean()) < 0.02
    assert float((upper > 0.2).float().mean()) > 0.9
    # Moved to the data's mode, not to wherever the reward model is largest.
    assert float(upper.median()) == pytest.approx(0.6, abs=0.25)


# Guidance: the gradient of a linear reward R(x) = SLOPE x, as the teacher samples

SLOPE = 0.7


def gaussian(mean: float) -> Denoise:
    """E[x_0 | x_t] when x_0 is N(mean, σ_data²)."""

    def denoise(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        data, noise = NOISE.sigma_data**2, column(t, x) ** 2
        return (data * x + noise * mean) / (data + noise)

    return denoise


def pulled(teacher: Denoise, strength: float) -> Denoise:
    return guided(teacher, lambda x, cond: torch.full_like(x, SLOPE), strength, NOISE)


@pytest.mark.parametrize("strength", [-1.5, 0.0, 0.8])
def test_a_guided_gaussian_is_the_gaussian_that_the_reward_tilts_it_to(strength: float) -> None:
    """N(m, s²) times exp(w a x) is N(m + w a s², s²): the closed form, at every noise level."""
    tilted = gaussian(0.3 + strength * SLOPE * NOISE.sigma_data**2)
    teacher = pulled(gaussian(0.3), strength)
    x, t = start(), torch.linspace(0.02, 80, 4000)
    torch.testing.assert_close(teacher(x, t, NO_COND), tilted(x, t, NO_COND))


@pytest.mark.parametrize("sample", SAMPLERS)
def test_samples_move_by_the_closed_form_and_spread_as_before(sample: Sample) -> None:
    plain, moved = (sample(pulled(gaussian(0.3), w)) for w in (0.0, 0.8))
    expected = 0.8 * SLOPE * NOISE.sigma_data**2
    # At the lowest level, where sampling ends, the noise of that level is left.
    assert float((moved - plain).mean()) == pytest.approx(expected, rel=0.02)
    assert float((moved - plain).std()) < 0.01
    assert float(moved.std()) == pytest.approx(float(plain.std()), rel=0.01)


@pytest.mark.parametrize("sample", SAMPLERS)
def test_guidance_chooses_the_mode_that_pays(sample: Sample) -> None:
    shares = [
        float((sample(pulled(MixtureTeacher(), w)) > 0).float().mean()) for w in (-2.0, 0.0, 2.0)
    ]
    assert shares[1] == pytest.approx(0.5, abs=0.04)
    # Tilting would leave 1 / (1 + exp(-2·2·0.7·0.6)) = 0.84 of it there; two modes are no Gaussian,
    # and at the noise levels that decide between them x_0 varies by more than is taken.
    assert 0.65 < shares[2] < 0.84
    assert shares[0] == pytest.approx(1 - shares[2], abs=0.04)


# The pull of a linear reward R(x) = k·x: how far, not only where to


class Moved(ConsistencyTrajectory):
    """The teacher's prediction and ``by`` (horizon, dims), the only thing to be learnt."""

    def __init__(self, horizon: int, dims: int) -> None:
        super().__init__(nn.Identity(), NOISE)
        self.teacher = MixtureTeacher()
        self.by = nn.Parameter(torch.zeros(horizon, dims))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        out: Tensor = self.teacher(x, t, cond) + self.by
        return out


DIRECTION = torch.tensor([0.7, -0.3])


def moved_by(
    weight: float, horizon: int, *, executed: bool = False, trust_radius: float | None = None
) -> tuple[Tensor, float]:
    """Where denoising under the reward ends on one large batch, and the mean of λ(t) over it."""
    rows = 4000
    config = StudentConfig(
        ctm_weight=0, reward_weight=weight, reward_states=None, trust_radius=trust_radius
    )
    student = Moved(horizon, 2)
    source = torch.Generator().manual_seed(3)
    signs = torch.randint(2, (rows, horizon, 2), generator=source)
    x0 = MODES[signs] + STD * torch.randn(rows, horizon, 2, generator=source)

    def reward(x: Tensor) -> Tensor:
        return torch.einsum("...d,d->...", x[..., :2], DIRECTION)

    reward_loss = (
        partial(action_reward_loss, reward, observation_dims=3)
        if executed
        else partial(plan_reward_loss, reward, states=None)
    )

    def loss() -> Tensor:
        drawn, cond = Draws(0, 0, rows, CPU), torch.zeros(rows, 3)
        teacher = student.teacher
        return student_loss(student, student, teacher, reward_loss, x0, cond, drawn, config)[0]

    if trust_radius is None:
        # Of a quadratic, one step of Newton's method is the end.
        [slope] = torch.autograd.grad(loss(), student.by)
        nn.init.constant_(student.by, 0.1)
        [other] = torch.autograd.grad(loss(), student.by)
        at = -0.1 * slope / (other - slope)
    else:
        optimizer = torch.optim.SGD(student.parameters(), lr=2e-5)
        for _ in range(150):
            optimizer.zero_grad()
            torch.autograd.backward(loss())
            optimizer.step()
        at = student.by.detach()
    t = training_times(NOISE, config.times, Draws(0, 0, rows, CPU))
    return at, float(karras_weight(NOISE, t).mean())


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("weight", [0.01, 1.0, 30.0])
def test_a_reward_moves_predictions_by_its_closed_form(weight: float, horizon: int) -> None:
    """λ|G - x_0|² / (H d) - σ Σ k·G is least at E[x_0|x_t] + σ k H d / (2 λ)."""
    plain, _ = moved_by(0.0, horizon)
    found, weighting = moved_by(weight, horizon)
    expected = weight * DIRECTION * horizon * 2 / (2 * weighting)
    torch.testing.assert_close(
        found - plain, expected.expand(horizon, 2), rtol=2e-3, atol=1e-5 + 1e-4 * weight
    )
    # Without it nothing moves: the teacher's prediction is the best one.
    assert float(plain.abs().max()) < 0.03


def test_an_actions_reward_moves_the_executed_one_by_its_closed_form() -> None:
    plain, _ = moved_by(0.0, 4, executed=True)
    found, weighting = moved_by(2.0, 4, executed=True)
    expected = 2.0 * DIRECTION * 4 * 2 / (2 * weighting)
    torch.testing.assert_close((found - plain)[0], expected, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(found[1:], plain[1:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_the_pull_ends_at_the_trust_radius(radius: float) -> None:
    """min(closed form, radius): an absurd weight changes the distance no more."""
    free, _ = moved_by(1000.0, 1)
    assert float(free.abs().min()) > 0.6
    held, _ = moved_by(1000.0, 1, trust_radius=radius)
    expected = (radius * DIRECTION.sign())[None]
    torch.testing.assert_close(held, expected, rtol=0, atol=0.03)


def test_a_students_network_stays_within_the_trust_radius_of_the_teacher() -> None:
    def strayed(radius: float | None) -> Tensor:
        """How far the student's predictions lie from the teacher's, (n,), at all noise levels."""
        stage = Distillation(0.0)
        stage.value = Slope()
        stage.config = StudentConfig(ctm_weight=0, reward_weight=20.0, trust_radius=radius)
        config = OptimConfig(steps=400, batch_size=128, lr=3e-3, ema_decay=0.99)
        trainer = Trainer(stage, config, seed=0, device=CPU)
        trainer.run(every=400)
        assert isinstance(trainer.ema, ConsistencyTrajectory)
        t = grid(NOISE)[:-1].repeat(100)
        source = torch.Generator().manual_seed(2)
        signs = torch.randint(2, (len(t),), generator=source)
        clean = MODES[signs] + STD * torch.randn(len(t), generator=source)
        x = (clean + t * torch.randn(len(t), generator=source))[:, None, None]
        with torch.no_grad():
            found: Tensor = trainer.ema.to_data(x, t, NO_COND)
            return (found - stage.teacher.forward(x, t, NO_COND)).flatten()

    held, free = strayed(0.2), strayed(None)
    # The denoising loss pulls back whatever the reward has pulled beyond the radius.
    assert float(held.median()) == pytest.approx(0.2, abs=0.05)
    assert float(held.quantile(0.95)) < 0.45
    # Without it, σ k / (2 λ), λ being 4 at high noise: far beyond the data.
    assert float(free.median()) == pytest.approx(20 / 8, rel=0.05)
