"""Heun's method on Gaussian data, whose probability-flow ODE has a closed-form solution."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ractd_core.config import NoiseConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, column
from ractd_core.diffusion.samplers import (
    heun_step,
    initial_noise,
    sample_heun,
    sample_one_step,
)
from ractd_core.diffusion.schedule import grid

NO_COND = torch.zeros(1, 0)


class Gaussian:
    """The exact denoiser of N(mean, std²) data in every coordinate; counts its calls."""

    def __init__(self, mean: float = 0.0, std: float = 0.5) -> None:
        self.mean, self.std = mean, std
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        time = column(t, x)
        return (self.std**2 * x + time**2 * self.mean) / (self.std**2 + time**2)

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """The ODE's solution: dx/dt = (x - D) / t keeps (x - mean) / sqrt(std² + t²)."""
        return self.mean + (x - self.mean) * math.sqrt((self.std**2 + s**2) / (self.std**2 + t**2))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.3, 1.0, 4.0])
def test_one_steps_error_is_of_third_order(t: float) -> None:
    gaussian = Gaussian(mean=0.2)
    x = torch.full((1, 1, 1), 1.7, dtype=torch.float64)

    def error(step: float) -> float:
        there = heun_step(gaussian, x, double(t), double(t - step), NO_COND)
        return abs(float(there - gaussian.flow(x, t, t - step)))

    steps = [0.08 * t / 2**k for k in range(4)]
    for wide, narrow in pairwise(steps):
        assert error(wide) / error(narrow) == pytest.approx(8, rel=0.15)
    assert error(steps[0]) < 1e-3


def test_the_whole_ways_error_is_of_second_order() -> None:
    gaussian = Gaussian(mean=-0.1)
    x = torch.full((1, 1, 1), 2.0, dtype=torch.float64)

    def error(steps: int) -> float:
        sigmas = torch.linspace(2.0, 0.5, steps + 1, dtype=torch.float64)
        end = sample_heun(gaussian, x, NO_COND, sigmas, clamp=None)
        return abs(float(end - gaussian.flow(x, 2.0, 0.5)))

    for steps in (20, 40, 80):
        assert error(steps) / error(2 * steps) == pytest.approx(4, rel=0.1)


def test_rows_with_a_step_of_length_zero_are_unchanged() -> None:
    gaussian = Gaussian(mean=0.3)
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([80.0, 1.0, 0.02, 0.5])
    assert torch.equal(heun_step(gaussian, x, t, t, NO_COND), x)
    s = torch.tensor([80.0, 0.9, 0.02, 0.5])
    moved = heun_step(gaussian, x, t, s, NO_COND)
    assert torch.equal(moved[[0, 2, 3]], x[[0, 2, 3]])
    assert not torch.equal(moved[1], x[1])


def test_sampling_reproduces_a_gaussians_mean_and_spread() -> None:
    noise = NoiseConfig(init_noise="sigma_max")
    gaussian = Gaussian(mean=0.3, std=0.2)
    z = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(0))
    start = initial_noise(noise, z)
    x = sample_heun(gaussian, start, NO_COND, grid(noise), clamp=None)
    torch.testing.assert_close(x, gaussian.flow(start, 80.0, 0.02), rtol=0, atol=4e-3)
    spread = math.sqrt((0.2**2 + 0.02**2) / (0.2**2 + 80**2)) * 80
    assert float(x.mean()) == pytest.approx(0.3, abs=4 * spread / math.sqrt(20_000))
    assert float(x.std()) == pytest.approx(spread, rel=0.02)


def test_a_start_of_unit_variance_goes_to_the_mode() -> None:
    noise = NoiseConfig(init_noise="unit")
    gaussian = Gaussian(mean=0.3, std=0.2)
    z = torch.randn(2000, 1, 1, generator=torch.Generator().manual_seed(0))
    x = sample_heun(gaussian, initial_noise(noise, z), NO_COND, grid(noise), clamp=None)
    # The ODE shrinks a spread of 1 at sigma_max by std / sigma_max.
    assert float(x.std()) == pytest.approx(0.2 / 80, rel=0.1)
    assert float(x.mean()) == pytest.approx(0.3, abs=5e-3)


def test_the_sampler_calls_the_network_twice_per_interval() -> None:
    noise = NoiseConfig(bins=11)
    sigmas = grid(noise)
    gaussian = Gaussian()
    seen: list[tuple[int, Tensor]] = []
    x = sample_heun(
        gaussian,
        torch.ones(3, 2, 1),
        NO_COND,
        sigmas,
        callback=lambda step, x: seen.append((step, x)),
    )
    pairs = [level for pair in pairwise(sigmas) for level in pair]
    assert gaussian.times == [float(level) for level in pairs]
    assert [step for step, _ in seen] == list(range(10))
    assert torch.equal(seen[-1][1].clamp(-1, 1), x)


def test_denoised_plans_are_bounded_by_the_clamp() -> None:
    outside = Gaussian(mean=3.0, std=0.1)
    noise = NoiseConfig()
    start = torch.zeros(2, 3, 1)
    free = sample_heun(outside, start, NO_COND, grid(noise), clamp=None)
    torch.testing.assert_close(free, torch.full_like(free, 3.0), atol=0.1, rtol=0)
    steps: list[Tensor] = []
    bounded = sample_heun(
        outside, start, NO_COND, grid(noise), callback=lambda _, x: steps.append(x)
    )
    assert float(bounded.abs().max()) <= 1
    # With D bounded to 1 the trajectory itself ends at 1, before the last bound is applied.
    torch.testing.assert_close(steps[-1], torch.ones_like(free), atol=0.05, rtol=0)
    half = sample_heun(outside, start, NO_COND, grid(noise), clamp=0.5)
    torch.testing.assert_close(half, torch.full_like(half, 0.5), atol=1e-3, rtol=0)


def test_initial_noise() -> None:
    z = torch.randn(4, 2, 3)
    assert torch.equal(initial_noise(NoiseConfig(), z), z)
    scaled = initial_noise(NoiseConfig(init_noise="sigma_max", sigma_max=50.0), z)
    assert torch.equal(scaled, 50 * z)


def test_one_step_sampling_is_one_call_at_sigma_max_to_sigma_min() -> None:
    calls: list[tuple[Tensor, Tensor | None]] = []

    class Big(nn.Module):
        def forward(self, x: Tensor, t: Tensor, stop: Tensor | None, cond: Tensor) -> Tensor:
            calls.append((t, stop))
            return torch.full_like(x, 6.0)

    student = ConsistencyTrajectory(Big(), NoiseConfig())
    x = torch.zeros(3, 4, 2)
    out = sample_one_step(student, x, torch.zeros(3, 0))
    assert len(calls) == 1
    t, stop = calls[0]
    torch.testing.assert_close(t, torch.full((3,), 250 * math.log(80)))
    assert stop is not None
    torch.testing.assert_close(stop, torch.full((3,), 250 * math.log(0.02)))
    # c_out 6 is about 3, beyond the data's range.
    assert torch.equal(out, torch.ones_like(x))
