"""The student's loss against the paper's equations for one row at a time, gradients included."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ractd_core.config import NoiseConfig, StudentConfig, UNetConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import action_reward_loss, student_loss
from ractd_core.models.unet import TemporalUNet
from ractd_core.models.value import ValueMLP

ROWS, HORIZON, DIMS, OBSERVATION = 14, 16, 3, 5
NOISE = NoiseConfig(bins=6)
"""Few bins, so that a batch holds rows that end at sigma_min and rows whose u is their s."""
HUBER = 0.00054 * (HORIZON * DIMS) ** 0.5


class Networks:
    """All networks of a student's step, their weights large enough for every term to matter."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = UNetConfig(widths=(8, 12), patch=1, groups=4, embed_dim=8)

        def unet(stop_time: bool) -> TemporalUNet:
            return TemporalUNet(DIMS, OBSERVATION, config, stop_time=stop_time)

        self.teacher = Denoiser(unet(False), NOISE).requires_grad_(False)
        self.student = ConsistencyTrajectory(unet(True), NOISE)
        for parameter in self.student.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        self.target = copy.deepcopy(self.student).requires_grad_(False)
        for parameter in self.target.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        self.value = ValueMLP(DIMS + OBSERVATION, [8]).requires_grad_(False)

    # The paper's functions of one plan (1, horizon, dims), with t and s as plain numbers.

    def denoise(self, x: Tensor, t: float, cond: Tensor) -> Tensor:
        """D(x, t) with consistency models' boundary scalings."""
        return scaled(self.teacher.network, x, t, None, cond)

    def jump(
        self, network: ConsistencyTrajectory, x: Tensor, t: float, s: float, cond: Tensor
    ) -> Tensor:
        """G(x, t, s) = s/t x + (1 - s/t) g(x, t, s)."""
        return s / t * x + (1 - s / t) * scaled(network.network, x, t, s, cond)


def scaled(network: Any, x: Tensor, t: float, s: float | None, cond: Tensor) -> Tensor:
    data, low = NOISE.sigma_data, NOISE.sigma_min
    skip = data**2 / ((t - low) ** 2 + data**2)
    out = (t - low) * data / (t**2 + data**2) ** 0.5
    inside = 1 / (t**2 + data**2) ** 0.5
    times = [None if time is None else 250 * torch.tensor([time]).log() for time in (t, s)]
    result: Tensor = skip * x + out * network(inside * x, times[0], times[1], cond)
    return result


def huber(a: Tensor, b: Tensor) -> Tensor:
    """The released code's distance: pseudo-Huber of the squared error."""
    result: Tensor = (((a - b) ** 4 + HUBER**2).sqrt() - HUBER).mean()
    return result


def levels() -> list[float]:
    """Karras' noise levels (EDM, equation 5)."""
    high, low = (end ** (1 / NOISE.rho) for end in (NOISE.sigma_max, NOISE.sigma_min))
    last = NOISE.bins - 1
    return [(high + i / last * (low - high)) ** NOISE.rho for i in range(NOISE.bins)]


def twin(nets: Networks, x0: Tensor, cond: Tensor, draws: Draws, config: StudentConfig) -> Tensor:
    """Equation 9, row by row and call by call, for the numbers of ``draws`` in their order."""
    sigmas, low, last = levels(), NOISE.sigma_min, NOISE.bins - 1
    t_bins, far, near = draws.integers(last), draws.uniform(), draws.uniform()
    noise = draws.normal(HORIZON, DIMS)
    normal, uniform, high = draws.normal(), draws.uniform(), draws.integers(2)
    dsm_noise = draws.normal(HORIZON, DIMS)
    seen = set()
    total = torch.zeros(())
    for row in range(ROWS):
        x, c = x0[row : row + 1], cond[row : row + 1]
        b = int(t_bins[row])
        s_bin = b + 1 + int(far[row] * (last - b))
        u_bin = b + 1 + int(near[row] * min(s_bin - b, config.solver_steps))
        t, s, u = sigmas[b], sigmas[s_bin], sigmas[u_bin]
        seen |= {("s is sigma_min", s_bin == last), ("u is s", u_bin == s_bin)}
        x_t = x + t * noise[row]
        with torch.no_grad():
            x_u = x_t
            for here, there in zip(sigmas[b:u_bin], sigmas[b + 1 : u_bin + 1], strict=True):
                slope = (x_u - nets.denoise(x_u, here, c)) / here
                euler = x_u + (there - here) * slope
                slope_there = (euler - nets.denoise(euler, there, c)) / there
                x_u = x_u + (there - here) * (slope + slope_there) / 2
            expected = nets.jump(nets.target, x_u, u, s, c)
            expected = nets.jump(nets.target, expected, s, low, c)
        reached = nets.jump(nets.student, x_t, t, s, c)
        reached = nets.jump(nets.target, reached, s, low, c)
        total = total + config.ctm_weight * huber(reached, expected)

        time = float((-1.2 + 1.2 * normal[row]).exp().clamp(low, NOISE.sigma_max))
        if high[row]:
            ends = [end ** (1 / NOISE.rho) for end in (NOISE.sigma_max, low)]
            time = (ends[0] + 0.7 * float(uniform[row]) * (ends[1] - ends[0])) ** NOISE.rho
        clean = nets.jump(nets.student, x + time * dsm_noise[row], time, low, c)
        weight = (time**2 + NOISE.sigma_data**2) / (time * NOISE.sigma_data) ** 2
        total = total + config.dsm_weight * weight * huber(clean, x)

        if config.reward_weight:
            action = clean[:, 0] + (clean[:, 0].clamp(-1, 1) - clean[:, 0]).detach()
            total = total - config.reward_weight * nets.value(torch.cat([action, c], 1)).sum()
    assert len(seen) == 4, "the batch holds every case"
    return total / ROWS


def draws() -> Draws:
    return Draws(0, 0, ROWS, torch.device("cpu"))


@pytest.mark.parametrize("solver_steps", [1, 3])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 0.7), (1.3, 0.0, 0.0), (1.0, 1.0, 0.0)])
def test_the_loss_and_its_gradient_are_the_equations_row_by_row(
    weights: tuple[float, float, float], solver_steps: int
) -> None:
    ctm, dsm, reward = weights
    config = StudentConfig(
        ctm_weight=ctm,
        dsm_weight=dsm,
        reward_weight=reward,
        solver_steps=solver_steps,
        distance="squared_pseudo_huber",
    )
    nets = Networks()
    source = torch.Generator().manual_seed(1)
    x0 = 0.5 * torch.randn(ROWS, HORIZON, DIMS, generator=source)
    cond = torch.randn(ROWS, OBSERVATION, generator=source)
    parameters = list(nets.student.parameters())

    reward_loss = partial(action_reward_loss, nets.value, observation_dims=OBSERVATION)
    ours, _ = student_loss(
        nets.student, nets.target, nets.teacher, reward_loss, x0, cond, draws(), config
    )
    theirs = twin(nets, x0, cond, draws(), config)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    for mine, wanted in zip(
        torch.autograd.grad(ours, parameters),
        torch.autograd.grad(theirs, parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
