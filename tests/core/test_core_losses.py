"""Losses by closed forms and by spies on the callables they are given."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch import Tensor, nn

from ractd_core.config import Distance, NoiseConfig, StudentConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser, column
from ractd_core.diffusion.schedule import grid, training_times
from ractd_core.draws import Draws
from ractd_core.losses import (
    ctm_loss,
    diffuse,
    distance,
    dsm_loss,
    plan_reward_loss,
    regression_loss,
    student_loss,
    teacher_loss,
    value_loss,
)

CPU = torch.device("cpu")
NOISE = NoiseConfig()
STD = 0.4
"""Standard deviation of the Gaussian data for which teacher and student are known exactly."""


class GaussianTeacher(Denoiser):
    """E[x_0 | x_t] for N(0, STD²) data, recording its calls."""

    def __init__(self, noise: NoiseConfig = NOISE) -> None:
        super().__init__(nn.Identity(), noise)
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.calls.append((x, t))
        return self.gain * STD**2 / (STD**2 + column(t, x) ** 2) * x


class GaussianStudent(ConsistencyTrajectory):
    """The exact trajectory map for N(0, STD²) data times ``gain``, recording its calls.

    A gain other than 1 is a student that is wrong everywhere but where a jump has no length.
    """

    def __init__(self, gain: float = 1.0, noise: NoiseConfig = NOISE) -> None:
        super().__init__(nn.Identity(), noise)
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        self.calls.append((x, t, s))
        there, here = column(s, x), column(t, x)
        moved = ((STD**2 + there**2) / (STD**2 + here**2)).sqrt() * x
        return torch.where(here == there, x, self.gain * moved)


class LinearValue(nn.Module):
    """R(x) = Σ x, recording what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x)
        return self.gain * x.sum(-1)


def data(rows: int, horizon: int = 3, dims: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    x0 = STD * torch.randn(rows, horizon, dims, generator=torch.Generator().manual_seed(seed))
    return x0, torch.cat([x0[:, 0], x0[:, -1]], dim=1)


def draws(rows: int, step: int = 0) -> Draws:
    return Draws(0, step, rows, CPU)


# Distances


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_distances_are_their_closed_forms(horizon: int, dims: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 3, horizon, dims)) * rng.choice([1e-3, 0.1, 3])
    error = a - b
    # Huber's δ is 0.00054 √(horizon · dims); scipy's is δ times ours.
    delta = 0.00054 * math.sqrt(horizon * dims)
    expected: dict[Distance, np.ndarray] = {
        "mse": error**2,
        "pseudo_huber": special.pseudo_huber(delta, error) / delta,
        "squared_pseudo_huber": special.pseudo_huber(delta, error**2) / delta,
    }
    for kind, values in expected.items():
        found = distance(torch.tensor(a), torch.tensor(b), kind)
        assert found.shape == (3,)
        np.testing.assert_allclose(found, values.mean(axis=(1, 2)), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("shape", "delta"), [((16, 3), 0.00374), ((128, 4), 0.01222)])
def test_hubers_delta_is_the_published_one(shape: tuple[int, int], delta: float) -> None:
    # For an error far above δ the distance is |error| - δ.
    found = distance(
        torch.full((1, *shape), 50.0, dtype=torch.float64), torch.zeros(1, *shape), "pseudo_huber"
    )
    assert 50 - float(found) == pytest.approx(delta, abs=1e-5)


def test_diffusing_adds_noise_of_standard_deviation_t() -> None:
    x0 = torch.full((3000, 4, 2), 5.0)
    t = torch.cat([torch.full((1500,), 0.5), torch.full((1500,), 7.0)])
    x_t = diffuse(x0, t, draws(3000))
    assert float((x_t[:1500] - 5).std()) == pytest.approx(0.5, rel=0.03)
    assert float((x_t[1500:] - 5).std()) == pytest.approx(7.0, rel=0.03)
    noise = (x_t - 5) / t[:, None, None]
    assert float(noise.flatten(1).T.corrcoef().fill_diagonal_(0).abs().max()) < 0.1


# Teacher, reward model, regression


@pytest.mark.parametrize("kind", ["mse", "squared_pseudo_huber"])
def test_the_teachers_loss_by_hand(kind: Distance) -> None:
    teacher = GaussianTeacher()
    x0, cond = data(64)
    loss, info = teacher_loss(teacher, x0, cond, draws(64), "mixed", kind)
    ((x_t, t),) = teacher.calls
    clean = (STD**2 / (STD**2 + t.double()[:, None, None] ** 2) * x_t).detach().numpy()
    error = (clean - x0.numpy()) ** 2
    if kind == "squared_pseudo_huber":
        delta = 0.00054 * math.sqrt(6)
        error = special.pseudo_huber(delta, error) / delta
    weight = ((t**2 + 0.25) / (0.5 * t) ** 2).double().numpy()
    expected = (weight * error.mean(axis=(1, 2))).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert info["loss"] == loss
    assert not info["loss"].requires_grad
    noise = ((x_t - x0) / t[:, None, None]).flatten().numpy()
    assert stats.kstest(noise, stats.norm.cdf).pvalue > 1e-3


def test_the_best_denoiser_has_the_least_loss() -> None:
    x0, cond = data(4096)
    losses = {}
    for gain in (0.9, 0.97, 1.0, 1.03, 1.1):
        teacher = GaussianTeacher()
        teacher.gain.data.fill_(gain)
        losses[gain] = teacher_loss(teacher, x0, cond, draws(4096), "mixed", "mse")[0].item()
    assert min(losses, key=losses.__getitem__) == 1.0


def test_the_reward_models_loss_and_its_unexplained_part() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    target = x.sum(-1) + torch.linspace(-1, 1, 50)
    loss, info = value_loss(LinearValue(), x[:, None], target[:, None])
    residual = np.linspace(-1, 1, 50)
    assert loss.item() == pytest.approx((residual**2).mean(), rel=1e-4)
    expected = (residual**2).mean() / target.numpy().var()
    assert float(info["unexplained"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 8])
def test_targets_without_variance_give_finite_metrics(rows: int) -> None:
    # The loop stops at any metric that is not finite, so a batch of equal returns must not be one.
    _, info = value_loss(LinearValue(), torch.ones(rows, 1, 4), torch.zeros(rows, 1))
    assert all(bool(torch.isfinite(value)) for value in info.values())


def test_the_regression_sees_the_ends_only() -> None:
    seen: list[Tensor] = []

    class Network(nn.Module):
        def forward(self, x: Tensor, t: Tensor, stop: Tensor | None, cond: Tensor) -> Tensor:
            seen.extend([x, t, cond])
            assert stop is None
            return torch.full_like(x, 0.25)

    x0, cond = data(7)
    loss, _ = regression_loss(Network(), x0, cond)
    assert not seen[0].any()
    assert not seen[1].any()
    assert torch.equal(seen[2], cond)
    assert loss.item() == pytest.approx(float(np.mean((0.25 - x0.numpy()) ** 2)), rel=1e-5)


# Consistency


def jumps(
    rows: int, solver_steps: int, noise: NoiseConfig = NOISE
) -> tuple[GaussianTeacher, GaussianStudent, GaussianStudent, Tensor]:
    teacher, student, target = GaussianTeacher(noise), GaussianStudent(), GaussianStudent()
    x0, cond = data(rows)
    loss = ctm_loss(student, target, teacher, x0, cond, draws(rows), "mse", solver_steps)
    return teacher, student, target, loss


@pytest.mark.parametrize("solver_steps", [1, 3])
def test_times_are_ordered_and_lie_on_the_grid(solver_steps: int) -> None:
    sigmas = grid(NOISE)
    teacher, student, target, _ = jumps(4000, solver_steps)
    ((_, t, s),) = student.calls
    _, u, to = next(call for call in target.calls if not bool((call[2] == sigmas[-1]).all()))
    assert torch.equal(to, s)
    bins = {name: (sigmas[None] == times[:, None]).int() for name, times in
            (("t", t), ("s", s), ("u", u))}  # fmt: skip
    assert all(bool((hit.sum(1) == 1).all()) for hit in bins.values())
    t_bin, s_bin, u_bin = (bins[name].argmax(1) for name in "tsu")
    assert bool((u_bin > t_bin).all())
    assert bool((u_bin <= s_bin).all())
    assert bool((u_bin <= t_bin + solver_steps).all())
    assert set((u_bin - t_bin).tolist()) == set(range(1, solver_steps + 1))
    # t is uniform over all bins but the last, s over the bins below t.
    assert stats.chisquare(torch.bincount(t_bin, minlength=79).numpy()).pvalue > 1e-3
    place = (s_bin - t_bin - 1 + 0.5) / (79 - t_bin)
    assert float(place.mean()) == pytest.approx(0.5, abs=0.02)
    assert int(s_bin.max()) == 79
    # The teacher never crosses more than one bin at a time, and never passes u.
    times = torch.stack([times for _, times in teacher.calls])
    assert len(times) == 2 * solver_steps
    crossed = [(sigmas[None, None] == times[..., None]).int().argmax(2)][0]
    steps = crossed.diff(dim=0)
    assert set(steps.flatten().tolist()) <= {0, 1}
    assert torch.equal(crossed[0], t_bin)
    assert torch.equal(crossed[-1], u_bin)


def test_both_sides_start_from_one_noisy_plan_and_the_teachers_next_point() -> None:
    teacher, student, target, _ = jumps(50, 1)
    x_t, t, s = student.calls[0]
    assert torch.equal(teacher.calls[0][0], x_t)
    assert torch.equal(teacher.calls[0][1], t)
    sigmas = grid(NOISE)
    x_u, u, _ = next(call for call in target.calls if not bool((call[2] == sigmas[-1]).all()))
    # Heun's method written out for D(x, t) = k(t) x.
    here, there = (time.double()[:, None, None] for time in (t, u))
    k_here, k_there = (STD**2 / (STD**2 + time**2) for time in (here, there))
    slope = (1 - k_here) * x_t / here
    euler = x_t + (there - here) * slope
    expected = x_t + (there - here) * (slope + (1 - k_there) * euler / there) / 2
    torch.testing.assert_close(x_u.double(), expected.double(), rtol=1e-4, atol=1e-5)
    # Both are carried on to sigma_min, by the target.
    ends = [call for call in target.calls if bool((call[2] == sigmas[-1]).all())]
    assert len(ends) == 2
    assert all(torch.equal(call[1], s) for call in ends)
    assert len(student.calls) == 1


def test_a_perfect_student_has_no_consistency_loss() -> None:
    x0, cond = data(2000)

    def loss(gain: float, bins: int) -> float:
        noise = NoiseConfig(bins=bins)
        return ctm_loss(
            GaussianStudent(gain, noise),
            GaussianStudent(1.0, noise),
            GaussianTeacher(noise),
            x0,
            cond,
            draws(2000),
            "mse",
        ).item()

    perfect = loss(1.0, 80)
    # What is left is Heun's error, of third order per step.
    assert perfect < 1e-8
    assert loss(1.0, 160) < perfect / 20
    for gain in (0.9, 1.1):
        assert loss(gain, 80) > 1e5 * perfect


def test_the_consistency_gradient_reaches_the_student_alone() -> None:
    teacher, student = GaussianTeacher(), GaussianStudent(1.1)
    target, value = GaussianStudent(0.9).requires_grad_(False), LinearValue()
    x0, cond = data(64)
    torch.autograd.backward(ctm_loss(student, target, teacher, x0, cond, draws(64), "mse"))
    assert student.gain.grad is not None
    # Both ends go through the target (gain 0.9): its own jumps give 0.9², the student's 0.9 · gain.
    assert float(student.gain.grad) > 0
    assert target.gain.grad is None
    assert teacher.gain.grad is None
    assert value.gain.grad is None

    def at(gain: float) -> float:
        with torch.no_grad():
            return float(
                ctm_loss(GaussianStudent(gain), target, teacher, x0, cond, draws(64), "mse")
            )

    slope = (at(1.101) - at(1.099)) / 0.002
    assert float(student.gain.grad) == pytest.approx(slope, rel=1e-2)


# Denoising


def test_the_denoising_loss_by_hand() -> None:
    student = GaussianStudent(1.2)
    x0, cond = data(128)
    at = training_times(NOISE, "mixed", draws(128))
    noisy = diffuse(x0, at, draws(128, 1))
    loss, clean = dsm_loss(student, x0, noisy, at, cond, "mse")
    ((x_t, t, s),) = student.calls
    assert torch.equal(x_t, noisy)
    assert torch.equal(t, at)
    assert bool((s == torch.tensor(0.02)).all())
    time = t.double()[:, None, None]
    moved = torch.where(
        time == s.double()[:, None, None],
        x_t,
        1.2 * ((STD**2 + 0.02**2) / (STD**2 + time**2)).sqrt() * x_t,
    )
    torch.testing.assert_close(clean.double(), moved, rtol=1e-4, atol=1e-5)
    weight = ((t**2 + 0.25) / (0.5 * t) ** 2).double()
    expected = (weight * ((moved - x0) ** 2).mean((1, 2))).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    assert clean.requires_grad


# Reward


def plan_reward(value: nn.Module, plan: Tensor, draws: Draws, states: int | None) -> Tensor:
    """The reward term of a plan; its conditioning, which must not matter, is not a number."""
    cond = torch.full((len(plan), 2 * plan.shape[2]), math.nan)
    return plan_reward_loss(value, plan, cond, draws, states=states)


def test_the_full_reward_term_is_minus_the_sum_over_the_plan() -> None:
    plan = 0.9 * torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0))
    for states in (None, 5, 9):
        loss = plan_reward(LinearValue(), plan, draws(6), states)
        assert loss.item() == pytest.approx(-float(plan.sum()) / 6, rel=1e-5)


def test_a_subset_of_states_is_unbiased_and_cheap() -> None:
    plan = torch.linspace(-1, 1, 24).reshape(2, 12, 1) ** 3
    value = LinearValue()
    estimates = [plan_reward(value, plan, draws(2, step), 3).item() for step in range(3000)]
    assert {tuple(asked.shape) for asked in value.asked} == {(2, 3, 1)}
    error = float(np.std(estimates)) / math.sqrt(len(estimates))
    exact = -float(plan.sum()) / 2
    assert 0.001 < error < 0.1
    assert np.mean(estimates) == pytest.approx(exact, abs=4 * error)
    assert len(set(estimates)) > 1000


def test_the_reward_gradient_of_a_subset_is_unbiased_too() -> None:
    plan = torch.zeros(1, 6, 1, requires_grad=True)
    for step in range(2000):
        torch.autograd.backward(plan_reward(LinearValue(), plan, draws(1, step), 2))
    assert plan.grad is not None
    torch.testing.assert_close(plan.grad / 2000, torch.full((1, 6, 1), -1.0), atol=0.2, rtol=0)


def test_the_reward_model_is_asked_inside_the_data_and_the_gradient_passes() -> None:
    plan = torch.tensor([[[-3.0, 0.5], [1.0, 7.0]]], requires_grad=True)

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert float(x.detach().abs().max()) <= 1
            return (x**2).sum(-1)

    loss = plan_reward(Square(), plan, draws(1), None)
    assert loss.item() == pytest.approx(-(1 + 0.25 + 1 + 1))
    (gradient,) = torch.autograd.grad(loss, plan)
    # d/dx of -x² at the clamped point, passed on as if there were no clamp.
    torch.testing.assert_close(gradient, torch.tensor([[[2.0, -1.0], [-2.0, -2.0]]]))


# The student's sum


def parts(
    config: StudentConfig, noise: NoiseConfig = NOISE, rows: int = 32
) -> tuple[dict[str, float], GaussianTeacher, GaussianStudent, LinearValue, float]:
    teacher, student, value = GaussianTeacher(noise), GaussianStudent(1.1, noise), LinearValue()
    target = GaussianStudent(1.1, noise).requires_grad_(False)
    x0, cond = data(rows)
    reward_loss = partial(plan_reward_loss, value, states=config.reward_states)
    loss, info = student_loss(student, target, teacher, reward_loss, x0, cond, draws(rows), config)
    return {k: v.item() for k, v in info.items()}, teacher, student, value, loss.item()


@settings(max_examples=15)
@given(st.floats(0.1, 3), st.floats(0.1, 3), st.floats(1e-4, 3), st.sampled_from(["dsm", "noise"]))
def test_the_students_loss_is_the_weighted_sum(
    ctm: float, dsm: float, reward: float, at: str
) -> None:
    config = StudentConfig.model_validate(
        {
            "optim": {"steps": 1},
            "ctm_weight": ctm,
            "dsm_weight": dsm,
            "reward_weight": reward,
            "reward_at": at,
        }
    )
    info, *_, loss = parts(config)
    expected = ctm * info["ctm"] + dsm * info["dsm"] + reward * info["reward"]
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert info["loss"] == pytest.approx(loss)
    terms = {"loss", "ctm", "dsm", "reward"}
    assert set(info) == terms | {"gain", "saturated"}
    assert all(info[term] != 0 for term in terms)


def test_a_weight_of_zero_leaves_its_term_out() -> None:
    info, teacher, student, value, _ = parts(StudentConfig(ctm_weight=0))
    assert teacher.calls == []
    assert info["ctm"] == 0
    assert len(student.calls) == 1

    info, teacher, student, value, _ = parts(StudentConfig(reward_weight=0))
    assert value.asked == []
    assert info["reward"] == 0
    assert len(teacher.calls) == 2
    assert len(student.calls) == 2

    info, _, student, value, loss = parts(
        StudentConfig(dsm_weight=0, reward_at="noise", reward_weight=1)
    )
    assert info["dsm"] == 0
    assert len(student.calls) == 2
    assert len(value.asked) == 2
    assert loss == pytest.approx(info["ctm"] + info["reward"], rel=1e-5)

    # Without a denoising term the reward can still be taken on its prediction.
    info, _, student, value, loss = parts(StudentConfig(dsm_weight=0, reward_weight=1))
    assert len(value.asked) == 2
    assert loss == pytest.approx(info["ctm"] + info["reward"], rel=1e-5)


@pytest.mark.parametrize(("init", "spread"), [("unit", 1.0), ("sigma_max", 80.0)])
def test_the_reward_at_noise_is_taken_on_the_one_step_sample(init: str, spread: float) -> None:
    noise = NoiseConfig.model_validate({"init_noise": init})
    config = StudentConfig(reward_at="noise", reward_weight=1.0, reward_states=None, ctm_weight=0)
    _, _, student, value, _ = parts(config, noise, rows=2000)
    x, t, s = student.calls[-1]
    assert bool((t == 80).all())
    assert bool((s == torch.tensor(0.02)).all())
    assert float(x.std()) == pytest.approx(spread, rel=0.03)
    asked, _ = value.asked
    ratio = 1.1 * math.sqrt((STD**2 + 0.02**2) / (STD**2 + 80**2))
    torch.testing.assert_close(asked, (ratio * x).clamp(-1, 1), rtol=1e-4, atol=1e-6)


def test_the_reward_at_dsm_is_taken_on_the_denoising_prediction() -> None:
    config = StudentConfig(reward_weight=1.0, reward_states=None)
    _, _, student, value, _ = parts(config)
    x, t, s = student.calls[-1]
    with torch.no_grad():
        prediction = GaussianStudent(1.1)(x, t, s, torch.zeros(32, 0))
    torch.testing.assert_close(value.asked[0], prediction.clamp(-1, 1))
    assert len({float(time) for time in t}) > 16


def test_every_term_moves_the_student() -> None:
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1e-9, 0.0, 1.0)):
        names = ("ctm_weight", "dsm_weight", "reward_weight")
        config = StudentConfig.model_validate(dict(zip(names, weights, strict=True)))
        student, teacher, value = GaussianStudent(1.1), GaussianTeacher(), LinearValue()
        target = GaussianStudent().requires_grad_(False)
        teacher.requires_grad_(False)
        value.requires_grad_(False)
        x0, cond = data(32)
        reward_loss = partial(plan_reward_loss, value, states=config.reward_states)
        loss, _ = student_loss(student, target, teacher, reward_loss, x0, cond, draws(32), config)
        torch.autograd.backward(loss)
        assert student.gain.grad is not None
        assert abs(float(student.gain.grad)) > 1e-4
