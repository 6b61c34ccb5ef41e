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
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser, column
from ractd_core.diffusion.samplers import (
    initial_noise,
    sample_ancestral,
    sample_euler,
    sample_heun,
)
from ractd_core.diffusion.schedule import ddpm_grid, grid
from ractd_core.draws import Draws
from ractd_core.losses import plan_reward_loss, student_loss
from ractd_core.training import Trainer

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


class Distillation(nn.Module):
    def __init__(self, reward_weight: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = ConsistencyTrajectory(Network(), NOISE)
        self.network: nn.Module = self.student
        self.memory = nn.ModuleDict()
        self.target = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher, self.value = MixtureTeacher(), Pays()
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


def by_heun() -> Tensor:
    return sample_heun(MixtureTeacher(), start(), NO_COND, grid(NOISE), clamp=None)


def by_euler() -> Tensor:
    return sample_euler(MixtureTeacher(), start(), NO_COND, grid(NOISE, bins=60), clamp=None)


def by_ddim() -> Tensor:
    sigmas = ddpm_grid(NOISE, "cpu", 60)
    return sample_euler(MixtureTeacher(), start(), NO_COND, sigmas, clamp=None)


def by_ddpm() -> Tensor:
    sigmas = ddpm_grid(NOISE, "cpu", 60)
    z = torch.randn(58, 4000, 1, 1, generator=torch.Generator().manual_seed(1))
    return sample_ancestral(MixtureTeacher(), start(), NO_COND, sigmas, list(z), clamp=None)


@pytest.mark.parametrize("sample", [by_heun, by_euler, by_ddim, by_ddpm])
def test_the_teacher_samples_both_modes(sample: Callable[[], Tensor]) -> None:
    x = sample().flatten()
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
