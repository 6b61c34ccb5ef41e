"""Scalings by their defining properties, boundary conditions exactly, the warm start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ractd_core.config import NoiseConfig, UNetConfig
from ractd_core.diffusion.denoiser import (
    ConsistencyTrajectory,
    Denoiser,
    column,
    scalings,
    time_input,
)
from ractd_core.models.unet import TemporalUNet, load_teacher

NETWORK = UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8)


class Affine(nn.Module):
    """F(x, t, s, cond) = 0.3 x + 1 (+ 0.1 s), and it remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Tensor, Tensor, Tensor | None, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, stop: Tensor | None, cond: Tensor) -> Tensor:
        self.given.append((x, t, stop, cond))
        shift = 0.0 if stop is None else 0.1 * column(stop, x)
        return 0.3 * x + 1 + shift


def unet(stop_time: bool, seed: int = 0, config: UNetConfig = NETWORK) -> TemporalUNet:
    torch.manual_seed(seed)
    return TemporalUNet(4, 8, config, stop_time=stop_time)


def batch(rows: int = 5, seed: int = 1) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 16, 4, generator=source),
        torch.randn(rows, 8, generator=source),
    )


@given(st.floats(0.02, 80), st.floats(0.1, 2))
def test_edm_scalings_do_what_edm_derives_them_from(t: float, data: float) -> None:
    noise = NoiseConfig(preconditioning="edm", sigma_data=data)
    skip, out, inside = (float(c) for c in scalings(noise, torch.tensor([t], dtype=torch.float64)))
    # The network's input has unit variance, its target has unit variance, and the error of the
    # skipped part is the least there is (Karras et al. 2022, appendix B.6).
    assert inside**2 * (data**2 + t**2) == pytest.approx(1)
    assert (1 - skip) ** 2 * data**2 + skip**2 * t**2 == pytest.approx(out**2)
    for other in (skip + 1e-3, skip - 1e-3):
        assert (1 - other) ** 2 * data**2 + other**2 * t**2 > out**2


@given(st.floats(0.02, 80))
def test_boundary_scalings_are_those_of_consistency_models(t: float) -> None:
    skip, out, inside = (
        float(c) for c in scalings(NoiseConfig(), torch.tensor([t], dtype=torch.float64))
    )
    assert skip == pytest.approx(0.25 / ((t - 0.02) ** 2 + 0.25))
    assert out == pytest.approx((t - 0.02) * 0.5 / math.sqrt(t * t + 0.25))
    assert inside == pytest.approx(1 / math.sqrt(t * t + 0.25))


@settings(max_examples=20)
@given(st.floats(1e-3, 0.9), st.integers(0, 99))
def test_at_sigma_min_the_boundary_denoiser_returns_its_input(low: float, seed: int) -> None:
    noise = NoiseConfig(sigma_min=low)
    denoiser = Denoiser(unet(False, seed), noise)
    x, cond = batch(seed=seed)
    torch.testing.assert_close(denoiser(x, torch.full((5,), low), cond), x, rtol=0, atol=1e-7 / low)


def test_at_the_default_sigma_min_it_does_so_exactly() -> None:
    x, cond = batch()
    lowest = torch.full((5,), 0.02)
    assert torch.equal(Denoiser(unet(False), NoiseConfig())(x, lowest, cond), x)
    student = ConsistencyTrajectory(unet(True), NoiseConfig())
    assert torch.equal(student.to_data(x, lowest, cond), x)


def test_the_edm_denoiser_does_not() -> None:
    x, cond = batch()
    denoiser = Denoiser(unet(False), NoiseConfig(preconditioning="edm"))
    assert not torch.equal(denoiser(x, torch.full((5,), 0.02), cond), x)


@pytest.mark.parametrize("preconditioning", ["boundary", "edm"])
def test_the_denoiser_is_skip_plus_scaled_network(preconditioning: str) -> None:
    noise = NoiseConfig.model_validate({"preconditioning": preconditioning})
    network = Affine()
    x, cond = batch()
    t = torch.tensor([0.02, 0.1, 1.0, 7.0, 80.0])
    result = Denoiser(network, noise)(x, t, cond)
    skip, out, inside = (c.double().reshape(5, 1, 1) for c in scalings(noise, t))
    expected = skip * x + out * (0.3 * inside * x + 1)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    given_x, given_t, given_stop, given_cond = network.given[0]
    torch.testing.assert_close(given_x.double(), inside * x)
    torch.testing.assert_close(given_t, torch.tensor([250 * math.log(v) for v in t.tolist()]))
    assert given_stop is None
    assert torch.equal(given_cond, cond)


def test_the_time_input_is_a_thousand_quarter_logarithms() -> None:
    t = torch.tensor([1.0, math.e, 80.0])
    np.testing.assert_allclose(time_input(t), 1000 * np.log(t.numpy()) / 4, rtol=1e-6)


@settings(max_examples=25)
@given(st.floats(0.02, 80), st.integers(0, 99))
def test_a_jump_to_where_one_is_changes_nothing(time: float, seed: int) -> None:
    student = ConsistencyTrajectory(unet(True, seed), NoiseConfig())
    x, cond = batch(seed=seed)
    t = torch.full((5,), time)
    assert torch.equal(student(x, t, t, cond), x)


def test_a_jump_is_a_blend_of_input_and_network() -> None:
    network = Affine()
    student = ConsistencyTrajectory(network, NoiseConfig())
    x, cond = batch()
    t = torch.tensor([0.1, 0.5, 3.0, 20.0, 80.0])
    s = torch.tensor([0.02, 0.5, 1.0, 0.02, 40.0])
    jumped = student(x, t, s, cond)
    skip, out, inside = (c.double().reshape(5, 1, 1) for c in scalings(student.noise, t))
    log_s = torch.tensor([math.log(v) for v in s.tolist()], dtype=torch.float64)
    g = skip * x + out * (0.3 * inside * x + 1 + 0.1 * 250 * log_s.reshape(5, 1, 1))
    ratio = (s.double() / t).reshape(5, 1, 1)
    torch.testing.assert_close(jumped.double(), ratio * x + (1 - ratio) * g, rtol=1e-4, atol=1e-4)
    to_data = student.to_data(x, t, cond)
    torch.testing.assert_close(to_data, student(x, t, torch.full((5,), 0.02), cond))


def test_a_warm_started_student_is_its_teacher_at_every_stop_time() -> None:
    noise = NoiseConfig()
    teacher = Denoiser(unet(False, seed=1), noise)
    student = ConsistencyTrajectory(unet(True, seed=2), noise)
    load_teacher(student, teacher)
    x, cond = batch(rows=40)
    t = torch.logspace(math.log10(0.03), math.log10(80), 40)
    clean = teacher(x, t, cond)
    for fraction in (0.0, 0.2, 0.7, 1.0):
        s = 0.02 + fraction * (t - 0.02)
        ratio = (s / t)[:, None, None]
        expected = ratio * x + (1 - ratio) * clean
        torch.testing.assert_close(student(x, t, s, cond), expected, rtol=1e-5, atol=1e-5)


def test_the_warm_start_leaves_the_teacher_its_own_weights() -> None:
    teacher = Denoiser(unet(False, seed=1), NoiseConfig())
    student = ConsistencyTrajectory(unet(True, seed=2), NoiseConfig())
    load_teacher(student, teacher)
    kept = {key: value.clone() for key, value in teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, kept[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    "other",
    [
        UNetConfig(widths=(8, 8), patch=4, groups=4, embed_dim=8),
        UNetConfig(widths=(16,), patch=4, groups=4, embed_dim=8),
        UNetConfig(widths=(8,), patch=2, groups=4, embed_dim=8),
        UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=16),
        UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8, kernel_size=3),
    ],
    ids=["levels", "widths", "patch", "embed_dim", "kernel_size"],
)
@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_a_teacher_of_another_shape_is_refused(other: UNetConfig, larger: str) -> None:
    student = unet(True, config=other if larger == "student" else NETWORK)
    teacher = unet(False, config=NETWORK if larger == "student" else other)
    with pytest.raises(ValueError, match="teacher and student networks differ"):
        load_teacher(student, teacher)
