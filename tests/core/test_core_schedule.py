"""The grid against its published values, the training times against their distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from ractd_core.config import NoiseConfig
from ractd_core.diffusion.denoiser import scalings
from ractd_core.diffusion.schedule import (
    ddpm_grid,
    grid,
    karras_weight,
    training_times,
    warped,
)
from ractd_core.draws import Draws

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("bin_", "sigma"),
    [
        (1, 75.2),
        (10, 42.0),
        (20, 20.7),
        (27, 12.0),
        (40, 3.86),
        (54, 0.885),
        (60, 0.422),
        (70, 0.100),
        (78, 0.0244),
    ],
)
def test_the_grid_has_the_published_values(bin_: int, sigma: float) -> None:
    digits = 2 - math.floor(math.log10(sigma))
    assert float(grid(NoiseConfig())[bin_]) == pytest.approx(sigma, abs=0.51 * 10**-digits)


@given(
    st.floats(1e-3, 0.5),
    st.floats(1.0, 200.0),
    st.floats(1.0, 10.0),
    st.integers(2, 200),
)
def test_any_grid_falls_from_end_to_end(low: float, high: float, rho: float, bins: int) -> None:
    sigmas = grid(NoiseConfig(sigma_min=low, sigma_max=high, rho=rho, bins=bins))
    assert sigmas.shape == (bins,)
    assert sigmas.dtype == torch.float32
    assert float(sigmas[0]) == pytest.approx(high, rel=1e-6)
    assert float(sigmas[-1]) == pytest.approx(low, rel=1e-6)
    assert bool((sigmas.diff() < 0).all())
    # Equation 5 of EDM is an even grid in sigma^(1/rho).
    even = sigmas.double() ** (1 / rho)
    steps = even.diff() / (even[-1] - even[0])
    np.testing.assert_allclose(steps, 1 / (bins - 1), rtol=2e-3, atol=2e-5)


def test_the_ends_are_exact() -> None:
    sigmas = grid(NoiseConfig())
    assert sigmas[0] == torch.tensor(80.0)
    assert sigmas[-1] == torch.tensor(0.02)


@given(st.integers(2, 200))
def test_a_grid_of_other_bins_is_that_of_a_configuration_with_them(bins: int) -> None:
    assert torch.equal(grid(NoiseConfig(), bins=bins), grid(NoiseConfig(bins=bins)))
    assert torch.equal(grid(NoiseConfig(bins=bins)), grid(NoiseConfig(bins=bins), bins=bins))


def ddpm_kept() -> list[float]:
    """ᾱ after each of DDPM's 1,000 steps, multiplied out."""
    kept, product = [], 1.0
    for step in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        kept.append(product)
    return kept


def ddpm_levels() -> list[float]:
    return [math.sqrt((1 - kept) / kept) for kept in ddpm_kept()]


def ddpm_steps(sigmas: torch.Tensor) -> NDArray[np.float64]:
    """The steps whose noise levels ``sigmas`` are; between two of them ln ᾱ is even."""
    kept = np.log(ddpm_kept())
    wanted = -np.log1p(sigmas.double().numpy() ** 2)
    return np.asarray(np.interp(wanted, kept[::-1], np.arange(999, -1, -1)), dtype=np.float64)


@settings(max_examples=50)
@given(st.floats(0.011, 0.5), st.floats(1.0, 157.0), st.integers(2, 400))
def test_any_ddpm_grid_falls_from_end_to_end_in_even_steps(
    low: float, high: float, bins: int
) -> None:
    sigmas = ddpm_grid(NoiseConfig(sigma_min=low, sigma_max=high), "cpu", bins)
    assert sigmas.shape == (bins,)
    assert sigmas.dtype == torch.float32
    assert torch.equal(sigmas[[0, -1]], torch.tensor([high, low]))
    assert bool((sigmas.diff() < 0).all())
    steps = ddpm_steps(sigmas)
    # Nobody says how levels run between two steps; it makes no more than this.
    np.testing.assert_allclose(steps, np.linspace(steps[0], steps[-1], bins), atol=0.2)


def test_the_whole_ddpm_grid_is_ddpms_own_chain() -> None:
    levels = ddpm_levels()
    noise = NoiseConfig(sigma_min=levels[0], sigma_max=levels[-1])
    sigmas = ddpm_grid(noise, "cpu", 1000)
    np.testing.assert_allclose(sigmas, levels[::-1], rtol=1e-5)
    every_ninth = ddpm_grid(noise, "cpu", 112)
    np.testing.assert_allclose(every_ninth, levels[::-9], rtol=1e-5)


@settings(max_examples=50)
@given(st.floats(158, 1e4), st.floats(1e-4, 0.0099), st.integers(2, 400))
def test_ends_beyond_ddpms_levels_are_reached_in_one_step_each(
    high: float, low: float, bins: int
) -> None:
    levels = ddpm_levels()
    for noise in (
        NoiseConfig(sigma_max=high),
        NoiseConfig(sigma_min=low),
        NoiseConfig(sigma_min=low, sigma_max=high),
    ):
        sigmas = ddpm_grid(noise, "cpu", bins)
        ends = torch.tensor([noise.sigma_max, noise.sigma_min])
        assert torch.equal(sigmas[[0, -1]], ends)
        assert bool((sigmas.diff() < 0).all())
        inner = sigmas[1:-1].double()
        assert bool((inner >= levels[0]).all())
        assert bool((inner <= levels[-1]).all())


@settings(max_examples=50)
@given(st.integers(400, 20_000))
def test_a_ddpm_grid_finer_than_the_chain_still_falls(bins: int) -> None:
    sigmas = ddpm_grid(NoiseConfig(), "cpu", bins)
    assert sigmas.shape == (bins,)
    assert bool((sigmas.diff() < 0).all())


def test_warping_stays_within_the_ends() -> None:
    noise = NoiseConfig()
    sigmas = warped(noise, torch.linspace(0, 1, 10_001))
    assert float(sigmas.max()) <= 80
    assert float(sigmas.min()) >= torch.tensor(0.02)
    assert float(warped(noise, torch.tensor(0.7))) == pytest.approx(0.759, abs=5e-4)


@given(st.floats(0.02, 80), st.floats(0.1, 2))
def test_the_weight_is_one_on_the_networks_output(t: float, data: float) -> None:
    noise = NoiseConfig(sigma_data=data, preconditioning="edm")
    time = torch.tensor([t], dtype=torch.float64)
    weight = karras_weight(noise, time)
    assert float(weight) == pytest.approx((t * t + data * data) / (t * data) ** 2, rel=1e-9)
    c_out = scalings(noise, time)[1]
    assert float(weight * c_out**2) == pytest.approx(1, rel=1e-9)


def test_the_largest_weight_is_that_at_sigma_min() -> None:
    assert float(karras_weight(NoiseConfig(), torch.tensor(0.02))) == pytest.approx(2504, rel=1e-4)


def test_lognormal_times() -> None:
    t = training_times(NoiseConfig(), "lognormal", Draws(0, 0, 40_000, CPU)).double()
    smallest = torch.tensor(0.02)
    assert float(t.min()) >= float(smallest)
    assert float(t.max()) <= 80
    # 1.19 % of the draws lie below sigma_min and are moved there.
    assert float((t == smallest.double()).double().mean()) == pytest.approx(0.0119, abs=0.002)
    inside = t[t > smallest].log().numpy()
    low = math.log(0.02)
    expected = stats.truncnorm((low + 1.2) / 1.2, np.inf, loc=-1.2, scale=1.2)
    assert stats.kstest(inside, expected.cdf).pvalue > 1e-3


def test_mixed_times_are_half_lognormal_and_half_high() -> None:
    noise = NoiseConfig()
    t = training_times(noise, "mixed", Draws(1, 0, 40_000, CPU)).double().numpy()
    assert t.min() >= float(torch.tensor(0.02))
    assert t.max() <= 80
    lognormal = stats.norm(-1.2, 1.2)
    roots = 80 ** (1 / 7), 0.02 ** (1 / 7)
    for level in (0.05, 0.3, 0.7, 1.0, 3.0, 10.0, 40.0):
        # Fraction of the warped grid passed at `level`, of which the upper 0.7 are drawn from.
        fraction = (roots[0] - level ** (1 / 7)) / (roots[0] - roots[1])
        high = 1 - min(fraction / 0.7, 1)
        expected = 0.5 * lognormal.cdf(math.log(level)) + 0.5 * high
        assert (t <= level).mean() == pytest.approx(expected, abs=0.01)


def test_workers_share_the_times_of_one_batch() -> None:
    noise = NoiseConfig()
    whole = training_times(noise, "mixed", Draws(0, 3, 8, CPU))
    parts = [
        training_times(noise, "mixed", Draws(0, 3, 8, CPU, rank=rank, workers=2))
        for rank in range(2)
    ]
    assert torch.equal(torch.stack(parts, dim=1).flatten(), whole)
