"""Samplers on Gaussian data, whose probability-flow ODE has a closed-form solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ractd_core.config import NoiseConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, column
from ractd_core.diffusion.samplers import (
    heun_step,
    initial_noise,
    sample_ancestral,
    sample_euler,
    sample_heun,
    sample_steps,
)
from ractd_core.diffusion.schedule import ddpm_grid, grid

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


def test_eulers_error_is_of_first_order_the_whole_way() -> None:
    gaussian = Gaussian(mean=-0.1)
    x = torch.full((1, 1, 1), 2.0, dtype=torch.float64)

    def error(steps: int) -> float:
        sigmas = torch.linspace(2.0, 0.5, steps + 1, dtype=torch.float64)
        end = sample_euler(gaussian, x, NO_COND, sigmas, clamp=None)
        return abs(float(end - gaussian.flow(x, 2.0, 0.5)))

    for steps in (40, 80, 160):
        assert error(steps) / error(2 * steps) == pytest.approx(2, rel=0.05)
    assert error(640) < 2e-3


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
    out = sample_steps(student, x, torch.zeros(3, 0), [80.0], [])
    assert len(calls) == 1
    t, stop = calls[0]
    torch.testing.assert_close(t, torch.full((1,), 250 * math.log(80)))
    assert stop is not None
    torch.testing.assert_close(stop, torch.full((1,), 250 * math.log(0.02)))
    # c_out 6 is about 3, beyond the data's range.
    assert torch.equal(out, torch.ones_like(x))


# Euler and DDIM, ancestral sampling and DDPM


def bent(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """A denoiser that is not linear in anything."""
    return 0.8 * torch.tanh(x / (0.3 + column(t, x) ** 1.5)) + 0.1 * torch.cos(column(t, x))


def normal(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=source, dtype=torch.float64)


def kept(sigma: Tensor) -> Tensor:
    """ᾱ of DDPM's variables at the noise level: x̄ = √ᾱ x has noise of variance 1 - ᾱ."""
    return 1 / (1 + sigma**2)


def ddim(x: Tensor, sigmas: Tensor) -> Tensor:
    """Song et al. 2021, equation 12 with η = 0, in its own variables."""
    scaled = kept(sigmas[0]).sqrt() * x
    for t, s in pairwise(sigmas):
        here, there = kept(t), kept(s)
        plan = bent(scaled / here.sqrt(), t.expand(len(x)), NO_COND)
        noise = (scaled - here.sqrt() * plan) / (1 - here).sqrt()
        predicted = (scaled - (1 - here).sqrt() * noise) / here.sqrt()
        scaled = there.sqrt() * predicted + (1 - there).sqrt() * noise
    return scaled / kept(sigmas[-1]).sqrt()


def ddpm(x: Tensor, sigmas: Tensor, z: list[Tensor]) -> Tensor:
    """Ho et al. 2020, equations 6 and 7, in its own variables."""
    scaled = kept(sigmas[0]).sqrt() * x
    for index, (t, s) in enumerate(pairwise(sigmas)):
        here, there = kept(t), kept(s)
        beta = 1 - here / there
        plan = bent(scaled / here.sqrt(), t.expand(len(x)), NO_COND)
        of_plan = there.sqrt() * beta / (1 - here)
        of_here = (1 - beta).sqrt() * (1 - there) / (1 - here)
        variance = (1 - there) / (1 - here) * beta
        fresh = z[index] if index < len(z) else torch.zeros_like(x)
        scaled = of_plan * plan + of_here * scaled + variance.sqrt() * fresh
    return scaled / kept(sigmas[-1]).sqrt()


@pytest.mark.parametrize("levels", [grid, lambda noise, bins: ddpm_grid(noise, "cpu", bins)])
@pytest.mark.parametrize("bins", [2, 5, 30])
def test_eulers_method_is_ddim(levels: Callable[..., Tensor], bins: int) -> None:
    sigmas = levels(NoiseConfig(), bins=bins).double()
    x = 80 * normal(6, 3, 2)
    found = sample_euler(bent, x, NO_COND, sigmas, clamp=None)
    torch.testing.assert_close(found, ddim(x, sigmas), rtol=1e-9, atol=1e-9)
    assert float(found.std()) > 0.1


@pytest.mark.parametrize("bins", [2, 3, 30])
def test_ancestral_sampling_is_ddpm(bins: int) -> None:
    sigmas = ddpm_grid(NoiseConfig(), "cpu", bins).double()
    x, z = 80 * normal(6, 3, 2), list(normal(bins - 2, 6, 3, 2, seed=1))
    found = sample_ancestral(bent, x, NO_COND, sigmas, z, clamp=None)
    torch.testing.assert_close(found, ddpm(x, sigmas, z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), [(2.0, 0.7), (0.5, 0.45), (3.0, 0.05)])
def test_an_ancestral_step_draws_from_the_posterior_of_the_lower_level(t: float, s: float) -> None:
    """By brute force: q(x_s | x_0) q(x_t | x_s) on a fine grid of x_s."""
    clean, here = 0.3, 1.5
    there = torch.linspace(-20, 20, 2_000_001, dtype=torch.float64)
    log = -((there - clean) ** 2) / (2 * s**2) - (here - there) ** 2 / (2 * (t**2 - s**2))
    weight = log.softmax(0)
    mean = float(weight @ there)
    std = math.sqrt(float(weight @ (there - mean) ** 2))

    def knows(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.full_like(x, clean)

    steps: list[Tensor] = []
    z = double(0.0, 1.0, -1.0)[:, None, None]
    x = torch.full_like(z, here)
    sigmas = double(t, s, s / 2)
    sample_ancestral(knows, x, NO_COND, sigmas, [z], None, lambda _, x: steps.append(x))
    expected = double(mean, mean + std, mean - std)
    torch.testing.assert_close(steps[0].flatten(), expected, rtol=1e-6, atol=1e-6)


def test_the_last_ancestral_step_adds_nothing() -> None:
    sigmas = ddpm_grid(NoiseConfig(), "cpu", 6).double()
    steps: list[Tensor] = []
    x, z = 80 * normal(5, 2, 1), list(normal(4, 5, 2, 1, seed=1))
    sample_ancestral(bent, x, NO_COND, sigmas, z, None, lambda _, x: steps.append(x))
    *_, before, last = steps
    t, s = sigmas[-2:]
    plan = bent(before, t.expand(5), NO_COND)
    torch.testing.assert_close(last, plan + (s / t) ** 2 * (before - plan))
    # A single step is the last one.
    whole = sample_ancestral(bent, x, NO_COND, sigmas[[0, -1]], [], clamp=None)
    assert torch.equal(whole, sample_ancestral(bent, x, NO_COND, sigmas[[0, -1]], [], clamp=None))


def moments(outcomes: Tensor, spread: float) -> tuple[float, float]:
    """Mean and std of a linear sampler's plan under standard normal draws, without sampling.

    ``outcomes`` are its plans for draws of 1 one at a time, the first of which is scaled by
    ``spread``, and for none, last.
    """
    mean = outcomes[-1]
    weights = outcomes[:-1] - mean
    return float(mean), float((weights * double(spread, *[1.0] * (len(weights) - 1))).norm())


def one_at_a_time(draws: int) -> list[Tensor]:
    """The draws of :func:`moments`: (draws + 1, 1, 1) each."""
    return list(torch.eye(draws + 1, draws, dtype=torch.float64).T[:, :, None, None])


def test_ancestral_sampling_tends_to_the_gaussians_mean_and_spread() -> None:
    noise = NoiseConfig()

    def found(bins: int) -> tuple[float, float]:
        sigmas = ddpm_grid(noise, "cpu", bins).double()
        first, *z = one_at_a_time(bins - 1)
        x = sample_ancestral(Gaussian(mean=0.3, std=0.2), first, NO_COND, sigmas, z, clamp=None)
        return moments(x.flatten(), 80.0)

    # The data's own spread and the noise that is left at sigma_min.
    spread = math.sqrt(0.2**2 + 0.02**2)
    spreads = []
    for bins in (101, 201, 401, 801):
        mean, std = found(bins)
        # The start has mean 0 and not 0.3; little of it is left.
        assert mean == pytest.approx(0.3, abs=1e-3)
        spreads.append(std)
    errors = [spread - std for std in spreads]
    for wide, narrow in pairwise(errors):
        assert wide / narrow == pytest.approx(2, rel=0.2)
    # Of first order, so that the two finest tell where they tend to.
    assert 2 * spreads[-1] - spreads[-2] == pytest.approx(spread, rel=3e-3)


Sample = Callable[..., Tensor]


def ancestral(denoise: Sample, x: Tensor, cond: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
    """:func:`sample_ancestral` with draws of its own."""
    z = list(normal(len(sigmas) - 2, *x.shape).to(x.dtype))
    return sample_ancestral(denoise, x, cond, sigmas, z, **options)


@pytest.mark.parametrize("sample", [sample_euler, ancestral])
@pytest.mark.parametrize("bins", [2, 3, 12])
def test_these_samplers_call_the_network_once_per_interval(sample: Sample, bins: int) -> None:
    sigmas = grid(NoiseConfig(), bins=bins)
    gaussian = Gaussian()
    seen: list[tuple[int, Tensor]] = []
    x = sample(
        gaussian,
        torch.ones(3, 2, 1),
        NO_COND,
        sigmas,
        callback=lambda step, x: seen.append((step, x)),
    )
    assert gaussian.times == sigmas[:-1].tolist()
    assert [step for step, _ in seen] == list(range(bins - 1))
    assert torch.equal(seen[-1][1].clamp(-1, 1), x)


@pytest.mark.parametrize("sample", [sample_euler, ancestral])
def test_these_samplers_plans_are_bounded_by_the_clamp(sample: Sample) -> None:
    outside = Gaussian(mean=3.0, std=0.1)
    sigmas = grid(NoiseConfig())
    start = torch.zeros(2, 3, 1)
    free = sample(outside, start, NO_COND, sigmas, clamp=None)
    torch.testing.assert_close(free, torch.full_like(free, 3.0), atol=0.4, rtol=0)
    steps: list[Tensor] = []
    whole = sample(outside, start, NO_COND, sigmas, callback=lambda _, x: steps.append(x))
    assert float(whole.abs().max()) <= 1
    # With D bounded to 1 the trajectory itself ends at 1, before the last bound is applied.
    torch.testing.assert_close(steps[-1], torch.ones_like(free), atol=0.06, rtol=0)
    half = sample(outside, start, NO_COND, sigmas, clamp=0.5)
    torch.testing.assert_close(half, torch.full_like(half, 0.5), atol=0.06, rtol=0)
    assert float(half.max()) <= 0.5


# A student in several jumps


class Perfect(ConsistencyTrajectory):
    """The exact flow of N(0.1, 0.15²) data; remembers its calls."""

    def __init__(self, noise: NoiseConfig) -> None:
        super().__init__(nn.Identity(), noise)
        self.data = Gaussian(mean=0.1, std=0.15)
        self.calls: list[tuple[Tensor, float, float]] = []

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        self.calls.append((x, float(t[0]), float(s[0])))
        return self.data.flow(x, float(t[0]), float(s[0]))


@pytest.mark.parametrize("calls", [1, 2, 3, 8, 40])
def test_a_perfect_student_samples_the_data_in_any_number_of_calls(calls: int) -> None:
    noise = NoiseConfig()
    student = Perfect(noise)
    sigmas = grid(noise, bins=calls + 1)[:-1].tolist()
    first, *z = one_at_a_time(calls)
    # One at a time, no draw is so large that a plan would be clamped.
    spread = math.sqrt(0.15**2 + 80**2)
    x = sample_steps(student, 0.1 + 80 * first, NO_COND, sigmas, z)
    mean, std = moments(x.flatten(), spread / 80)
    assert mean == pytest.approx(0.1, abs=1e-9)
    assert std == pytest.approx(math.sqrt(0.15**2 + 0.02**2), rel=1e-6)
    assert [(t, s) for _, t, s in student.calls] == [(t, 0.02) for t in sigmas]


def test_the_first_of_several_calls_is_the_only_one_of_one() -> None:
    student = Perfect(NoiseConfig())
    x, z = 80 * normal(4, 2, 1), list(normal(2, 4, 2, 1, seed=1))
    sigmas = [80.0, 5.0, 0.5]
    plan = sample_steps(student, x, NO_COND, sigmas[:1], [])
    more = sample_steps(student, x, NO_COND, sigmas, z)
    (alone, *_), (first, *_), (second, *_), _ = student.calls
    assert torch.equal(first, alone)
    # The second starts from the first's plan at its own level.
    torch.testing.assert_close(second, plan + math.sqrt(5**2 - 0.02**2) * z[0])
    assert not torch.equal(more, plan)


def test_each_jumps_plan_is_clamped() -> None:
    student = Perfect(NoiseConfig())
    student.data = Gaussian(mean=5.0, std=0.1)
    zeros = [torch.zeros(3, 2, 1)] * 2
    out = sample_steps(student, torch.zeros(3, 2, 1), NO_COND, [80.0, 9, 1], zeros)
    assert torch.equal(out, torch.ones_like(out))
    for x, *_ in student.calls[1:]:
        assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize("sigma_min", [0.02, 0.0008, 0.0011])
def test_a_call_at_the_lowest_level_changes_nothing(sigma_min: float) -> None:
    # Some levels are smaller than the configured ones once they are rounded.
    student = Perfect(NoiseConfig(sigma_min=sigma_min))
    x, z = 80 * torch.randn(5, 2, 1), [torch.randn(5, 2, 1)]
    plan = sample_steps(student, x, NO_COND, [80.0], [])
    more = sample_steps(student, x, NO_COND, [80.0, sigma_min], z)
    torch.testing.assert_close(more, plan)


@pytest.mark.parametrize("sigmas", [[80.0, 80.0], [80.0, 1.0, 2.0], [1.0, 80.0]])
def test_a_students_noise_levels_must_fall(sigmas: list[float]) -> None:
    student = Perfect(NoiseConfig())
    x = torch.zeros(3, 2, 1)
    with pytest.raises(ValueError, match="must fall from call to call"):
        sample_steps(student, x, NO_COND, sigmas, [x] * (len(sigmas) - 1))
    assert not student.calls


@pytest.mark.parametrize("draws", [0, 2])
def test_a_student_needs_a_draw_between_any_two_calls(draws: int) -> None:
    x = torch.zeros(3, 2, 1)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        sample_steps(Perfect(NoiseConfig()), x, NO_COND, [80.0, 1.0], [x] * draws)
