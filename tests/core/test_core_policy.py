"""Planners count their calls; plans are tracked by the published law."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ractd_core.bench import plan_latency
from ractd_core.checkpoint import CheckpointError
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.diffusion.schedule import grid
from ractd_core.policy import PlanAndTrack, Planner
from ractd_core.stages import load_model

CPU = torch.device("cpu")
PLANNERS = ("teacher", "student", "regression")


def core(planner: Planner) -> torch.nn.Module:
    """The U-Net itself."""
    network = planner.network
    return network.network if isinstance(network, Denoiser) else network


def ends(rows: int, seed: int = 0) -> Tensor:
    """First and last states of plans, (rows, 2, 4)."""
    source = torch.Generator().manual_seed(seed)
    return torch.rand(rows, 2, 4, generator=source) * 2 - 1


def noise_of(planner: Planner, *seeds: int) -> Tensor:
    """The noise of the first window of an episode per seed."""
    return torch.cat([planner.noise(seed) for seed in seeds])


@pytest.mark.parametrize("kind", PLANNERS)
def test_a_planner_states_how_many_network_calls_a_plan_takes(
    kind: str, models: dict[str, Path], tiny: Recipe
) -> None:
    planner = Planner.load(models[kind], CPU)
    calls: list[int] = []
    handle = core(planner).register_forward_hook(lambda *_: calls.append(1))
    planner.plan(ends(3), noise_of(planner, 0, 1, 2))
    handle.remove()
    expected = {"teacher": 2 * (tiny.teacher.noise.bins - 1), "student": 1, "regression": 1}
    assert planner.calls == len(calls) == expected[kind]
    assert expected["teacher"] == 158


@pytest.mark.parametrize("kind", PLANNERS)
def test_plans_lie_in_the_datas_range_and_have_the_horizon(
    kind: str, models: dict[str, Path], umaze_data: FlatDataset
) -> None:
    planner = Planner.load(models[kind], CPU)
    plans = planner.plan(10 * ends(5), noise_of(planner, *range(5)))
    assert plans.shape == (5, 16, 4)
    low, high = umaze_data.observations.min(0), umaze_data.observations.max(0)
    assert bool((plans >= torch.tensor(low) - 1e-4).all())
    assert bool((plans <= torch.tensor(high) + 1e-4).all())
    assert not plans.requires_grad


def test_the_students_plan_is_its_jump_from_noise_written_out(models: dict[str, Path]) -> None:
    planner = Planner.load(models["student"], CPU)
    model = load_model(models["student"])
    assert isinstance(model.network, ConsistencyTrajectory)
    given, z = ends(4), noise_of(planner, 5, 6, 7, 8)
    low, span = model.normalizers.observations.low, model.normalizers.observations.scale
    cond = torch.cat([(given[:, end] - low) / span - 1 for end in (0, 1)], dim=1)
    start = z[:, 0]
    top, end = torch.full((4,), 80.0), torch.full((4,), 0.02)
    clean = model.network(start, top, end, cond).clamp(-1, 1)
    expected = (clean + 1) * span + low
    torch.testing.assert_close(planner.plan(given, z), expected, atol=1e-5, rtol=1e-5)


def test_the_teachers_plan_is_heuns_method_written_out(models: dict[str, Path]) -> None:
    planner = Planner.load(models["teacher"], CPU)
    model = load_model(models["teacher"])
    given, z = ends(2), noise_of(planner, 5, 6)
    low, span = model.normalizers.observations.low, model.normalizers.observations.scale
    cond = torch.cat([(given[:, end] - low) / span - 1 for end in (0, 1)], dim=1)
    assert isinstance(model.network, Denoiser)
    sigmas = grid(model.network.noise)
    x = z[:, 0]
    for t, s in pairwise(sigmas):
        here, there = t.expand(2), s.expand(2)
        slope = (x - model.network(x, here, cond).clamp(-1, 1)) / t
        euler = x + (s - t) * slope
        other = (euler - model.network(euler, there, cond).clamp(-1, 1)) / s
        x = x + (s - t) * (slope + other) / 2
    expected = (x.clamp(-1, 1) + 1) * span + low
    torch.testing.assert_close(planner.plan(given, z), expected, atol=1e-4, rtol=1e-4)


def test_the_initial_noise_is_the_models_own(models: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(models["student"])
    model.about["noise"]["init_noise"] = "sigma_max"
    model.save(tmp_path / "model")
    unit, wide = Planner.load(models["student"], CPU), Planner.load(tmp_path / "model", CPU)
    given, z = ends(3), noise_of(unit, 1, 2, 3)
    assert torch.equal(wide.plan(given, z), unit.plan(given, 80 * z))
    assert not torch.equal(wide.plan(given, z), unit.plan(given, z))


@pytest.mark.parametrize("kind", PLANNERS)
def test_a_plan_depends_on_its_own_seed_and_states_only(kind: str, models: dict[str, Path]) -> None:
    planner = Planner.load(models[kind], CPU)
    seeds = [3, 1, 4, 15, 9]
    noise = noise_of(planner, *seeds)
    assert noise.shape == (5, 1, 16, 4)
    assert torch.equal(noise_of(planner, *seeds[::-1]), noise.flip(0))
    assert torch.equal(planner.noise(4)[0], noise[2])
    assert len({float(row[0, 0, 0]) for row in noise_of(planner, *range(50))}) == 50
    given = ends(5)
    together = planner.plan(given, noise)
    for row in range(5):
        one = slice(row, row + 1)
        alone = planner.plan(given[one], noise[one])
        torch.testing.assert_close(alone, together[one], atol=1e-4, rtol=1e-4)


def test_the_seeds_noise_is_standard_normal(models: dict[str, Path]) -> None:
    noise = noise_of(Planner.load(models["student"], CPU), *range(400))
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


def test_a_reward_model_does_not_plan(models: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="reward model, expected teacher or student or regr"):
        Planner.load(models["reward"], CPU)


# Tracking


class Given(Planner):
    """Returns given plans, one per lane, and remembers what it was asked."""

    draws = 1

    def __init__(self, plans: NDArray[np.float64]) -> None:
        self.plans = torch.tensor(plans, dtype=torch.float32)
        _, self.horizon, self.dims = plans.shape
        self.device = CPU
        self.asked: list[tuple[Tensor, Tensor]] = []

    def plan(self, observations: Tensor, z: Tensor) -> Tensor:
        # Copies: the policy may go on writing into what it has handed over.
        self.asked.append((observations.clone(), z.clone()))
        return self.plans

    def noise(self, seed: int, first: int = 0, count: int = 1) -> Tensor:
        return torch.full((count, self.draws, self.horizon, self.dims), float(seed))


def tracked(plan: NDArray[np.float64], step: int, state: NDArray[np.float64]) -> Any:
    """The published law at ``step`` of ``plan`` (horizon, 4)."""
    waypoint = plan[step] if step < len(plan) else np.array([*plan[-1, :2], 0.0, 0.0])
    return (waypoint[:2] - state[:2]) + (waypoint[2:] - state[2:])


def test_a_plan_is_tracked_state_by_state_and_then_held() -> None:
    rng = np.random.default_rng(0)
    plans = rng.normal(size=(3, 6, 4)).astype(np.float32).astype(np.float64)
    planner = Given(plans)
    policy = PlanAndTrack(planner, lanes=3)
    start, goals = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    policy.start(np.arange(3), start, goals, [8, 9, 7])
    ((asked, z),) = planner.asked
    np.testing.assert_allclose(asked[:, 0], start, rtol=1e-6)
    at_rest = np.concatenate([goals, np.zeros((3, 2))], axis=1)
    np.testing.assert_allclose(asked[:, 1], at_rest, rtol=1e-6)
    assert z[:, 0, 0, 0].tolist() == [8, 9, 7]
    for step in range(1, 13):
        state = rng.normal(size=(3, 4))
        expected = [tracked(plans[lane], step, state[lane]) for lane in range(3)]
        np.testing.assert_allclose(policy.act(state), expected, atol=1e-12)


def test_a_new_episode_starts_its_plan_anew() -> None:
    plans = np.arange(48, dtype=np.float64).reshape(2, 6, 4)
    policy = PlanAndTrack(Given(plans), lanes=2)
    state, goals = np.zeros((2, 4)), np.zeros((2, 2))
    forces = []
    for _ in range(2):
        policy.start(np.arange(2), state, goals, [0, 1])
        forces.append([policy.act(state) for _ in range(9)])
    np.testing.assert_array_equal(forces[0], forces[1])


def test_an_episode_that_starts_leaves_the_other_lanes_plans_alone() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 3, 6, 4)).astype(np.float32).astype(np.float64)
    planner = Given(old)
    policy = PlanAndTrack(planner, lanes=3)
    state, goals = rng.normal(size=(3, 4)), np.zeros((3, 2))
    policy.start(np.arange(3), state, goals, [1, 2, 3])
    for _ in range(2):
        policy.act(state)
    planner.plans = torch.tensor(new, dtype=torch.float32)
    policy.start(np.array([1]), state, goals, [8])
    assert planner.asked[-1][1][:, 0, 0, 0].tolist() == [1, 8, 3]
    for step in range(1, 9):
        expected = [
            tracked(old[0], step + 2, state[0]),
            tracked(new[1], step, state[1]),
            tracked(old[2], step + 2, state[2]),
        ]
        np.testing.assert_allclose(policy.act(state), expected, atol=1e-12)


def test_a_plan_needs_a_goal() -> None:
    policy = PlanAndTrack(Given(np.zeros((2, 6, 4))), lanes=2)
    with pytest.raises(ValueError, match="this environment has none"):
        policy.start(np.arange(2), np.zeros((2, 4)), None, [0, 1])


# Latency


@pytest.mark.parametrize("batch", [1, 3])
def test_latency_times_whole_plans_in_milliseconds(models: dict[str, Path], batch: int) -> None:
    planner = Planner.load(models["student"], CPU)
    calls: list[int] = []

    def slow(*args: object) -> None:
        calls.append(1)
        time.sleep(0.02)

    core(planner).register_forward_hook(slow)
    latency = plan_latency(planner, repetitions=7, batch=batch)
    assert len(calls) == 7 + 3
    assert 20 <= latency.median <= latency.p95 < 2000
    assert (latency.batch, latency.repetitions) == (batch, 7)


def test_calls_that_warm_up_are_not_timed_and_rare_ones_show_in_the_tail(
    models: dict[str, Path],
) -> None:
    planner = Planner.load(models["regression"], CPU)
    calls: list[int] = []
    slow = {1, 2, 3}

    def sometimes(*args: object) -> None:
        calls.append(1)
        if len(calls) in slow:
            time.sleep(0.3)

    core(planner).register_forward_hook(sometimes)
    assert plan_latency(planner, repetitions=5).p95 < 250
    calls.clear()
    slow |= {6, 9}
    latency = plan_latency(planner, repetitions=10)
    assert latency.median < 250
    assert latency.p95 >= 300
