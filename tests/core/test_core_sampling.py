"""Planners by every sampler: their calls, levels and draws, and episodes that do not depend."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ractd_core.bench import plan_latency
from ractd_core.config import NoiseConfig, Sampling
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.diffusion.schedule import ddpm_grid, grid
from ractd_core.draws import generator
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, RecedingHorizon, make_policy
from ractd_core.stages import load_model
from ractd_core.tasks import DatasetName, parse_dataset_name

CPU = torch.device("cpu")
DENSE = parse_dataset_name("local/maze2d-umaze-dense-v1")
"""Dense returns show every difference between two plans."""


def load(path: Path, method: str = "heun", calls: int | None = None) -> Planner:
    return Planner.load(path, CPU, Sampling.model_validate({"method": method, "calls": calls}))


def ends(rows: int, seed: int = 0) -> Tensor:
    """First and last states of plans, (rows, 2, 4)."""
    source = torch.Generator().manual_seed(seed)
    return torch.rand(rows, 2, 4, generator=source) * 2 - 1


def levels_of(planner: Planner, z: Tensor) -> tuple[list[float], Tensor]:
    """The noise levels at which a plan calls the network, once each, and the plan."""
    network, seen = planner.network, []
    assert isinstance(network, Denoiser | ConsistencyTrajectory)
    handle = network.network.register_forward_pre_hook(
        lambda _, args: seen.append(math.exp(float(args[1][0]) / 250))
    )
    plan = planner.plan(ends(len(z)), z)
    handle.remove()
    return seen, plan


@pytest.mark.parametrize(
    ("method", "calls", "taken", "draws"),
    [
        ("heun", None, 158, 1),
        ("heun", 20, 20, 1),
        ("heun", 2, 2, 1),
        ("euler", None, 79, 1),
        ("euler", 7, 7, 1),
        ("ddim", None, 79, 1),
        ("ddim", 20, 20, 1),
        ("ddim", 1, 1, 1),
        ("ddpm", None, 79, 79),
        ("ddpm", 5, 5, 5),
        ("ddpm", 1, 1, 1),
    ],
)
def test_a_teachers_calls_and_draws(
    method: str, calls: int | None, taken: int, draws: int, models: dict[str, Path]
) -> None:
    planner = load(models["teacher"], method, calls)
    z = planner.noise(3, 0, 2)
    assert z.shape == (2, draws, 16, 4)
    found, plan = levels_of(planner, z)
    assert (planner.calls, planner.draws, len(found)) == (taken, draws, taken)
    assert plan.shape == (2, 16, 4)
    bins = taken // 2 + 1 if method == "heun" else taken + 1
    sigmas = (
        ddpm_grid(NoiseConfig(), CPU, bins)
        if method in ("ddim", "ddpm")
        else grid(NoiseConfig(), bins=bins)
    ).tolist()
    if method == "heun":
        expected = [sigma for pair in pairwise(sigmas) for sigma in pair]
    else:
        expected = sigmas[:-1]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_students_calls_and_draws(calls: int, models: dict[str, Path]) -> None:
    planner = load(models["student"], calls=calls)
    z = planner.noise(3, 0, 2)
    assert z.shape == (2, calls, 16, 4)
    found, plan = levels_of(planner, z)
    assert (planner.calls, planner.draws) == (calls, calls)
    assert plan.shape == (2, 16, 4)
    # The last level of the grid is where every call ends, not where one begins.
    expected = grid(NoiseConfig(), bins=calls + 1)[:-1].tolist()
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[0] == pytest.approx(80)


def test_a_regression_takes_one_call_and_heun_an_even_number(models: dict[str, Path]) -> None:
    regression = load(models["regression"], calls=1)
    assert (regression.calls, regression.draws) == (1, 1)
    with pytest.raises(ValueError, match="a regression takes one call, found calls 2"):
        load(models["regression"], calls=2)
    for calls in (1, 7):
        message = f"heun takes 2 calls per step, found calls {calls}"
        with pytest.raises(ValueError, match=message):
            load(models["teacher"], "heun", calls)
    # It is the teacher's method alone.
    assert load(models["student"], "heun", 7).calls == 7


def test_what_is_asked_of_a_sampler_by_default_is_what_it_was(models: dict[str, Path]) -> None:
    for kind in ("teacher", "student", "regression"):
        plain, asked = Planner.load(models[kind], CPU), load(models[kind])
        z = plain.noise(3)
        assert torch.equal(plain.plan(ends(1), z), asked.plan(ends(1), z))
    default, whole = load(models["teacher"]), load(models["teacher"], "heun", 158)
    z = default.noise(3)
    assert torch.equal(default.plan(ends(1), z), whole.plan(ends(1), z))


SAMPLED = [
    ("teacher", "heun", 20),
    ("teacher", "euler", 7),
    ("teacher", "ddim", 20),
    ("teacher", "ddpm", 5),
    ("student", "heun", 1),
    ("student", "heun", 4),
]


@pytest.mark.parametrize(("kind", "method", "calls"), SAMPLED)
def test_every_draw_counts_and_they_are_a_windows_own(
    kind: str, method: str, calls: int, models: dict[str, Path]
) -> None:
    planner = load(models[kind], method, calls)
    z = torch.cat([planner.noise(seed) for seed in range(3)])
    given = ends(3)
    plans = planner.plan(given, z)
    for draw in range(planner.draws):
        other = z.clone()
        other[1, draw] += 0.5
        moved = planner.plan(given, other)
        assert not torch.equal(moved[1], plans[1])
        torch.testing.assert_close(moved[[0, 2]], plans[[0, 2]], atol=1e-4, rtol=1e-4)
    if planner.draws > 1:
        assert not torch.equal(planner.plan(given, z.flip(1)), plans)


def test_a_plan_by_ddim_and_by_ddpm_written_out(models: dict[str, Path]) -> None:
    model = load_model(models["teacher"])
    low, span = model.normalizers.observations.low, model.normalizers.observations.scale
    given = ends(3)
    cond = torch.cat([(given[:, end] - low) / span - 1 for end in (0, 1)], dim=1)
    for method in ("ddim", "ddpm"):
        planner = load(models["teacher"], method, 5)
        z = torch.cat([planner.noise(seed) for seed in range(3)])
        sigmas = ddpm_grid(NoiseConfig(), CPU, 6).tolist()
        x = z[:, 0]
        for index in range(5):
            t, s = sigmas[index : index + 2]
            with torch.no_grad():
                clean = model.network(x, torch.full((3,), t), cond).clamp(-1, 1)
            if method == "ddim":
                x = clean + s / t * (x - clean)
            else:
                x = clean + (s / t) ** 2 * (x - clean)
                if index < 4:
                    x = x + s * math.sqrt(1 - (s / t) ** 2) * z[:, index + 1]
        expected = (x.clamp(-1, 1) + 1) * span + low
        torch.testing.assert_close(planner.plan(given, z), expected, atol=1e-4, rtol=1e-4)


def test_a_students_plan_in_two_jumps_written_out(models: dict[str, Path]) -> None:
    planner = load(models["student"], calls=2)
    model = load_model(models["student"])
    low, span = model.normalizers.observations.low, model.normalizers.observations.scale
    given, z = ends(3), torch.cat([planner.noise(seed) for seed in range(3)])
    cond = torch.cat([(given[:, end] - low) / span - 1 for end in (0, 1)], dim=1)
    # Half way through the grid, which is even in the seventh root.
    middle = ((80 ** (1 / 7) + 0.02 ** (1 / 7)) / 2) ** 7
    x, end = z[:, 0], torch.full((3,), 0.02)
    with torch.no_grad():
        first = model.network(x, torch.full((3,), 80.0), end, cond).clamp(-1, 1)
        x = first + math.sqrt(middle**2 - 0.02**2) * z[:, 1]
        second = model.network(x, torch.full((3,), middle), end, cond).clamp(-1, 1)
    expected = (second + 1) * span + low
    torch.testing.assert_close(planner.plan(given, z), expected, atol=1e-4, rtol=1e-4)


# Noise


@pytest.mark.parametrize(("kind", "method"), [("teacher", "ddim"), ("student", "heun")])
@pytest.mark.parametrize(("first", "count"), [(0, 1), (5, 1), (0, 64), (128, 64)])
def test_of_one_draw_the_noise_is_that_of_the_windows_alone(
    kind: str, method: str, first: int, count: int, models: dict[str, Path]
) -> None:
    planner = load(models[kind], method, 1)
    windows = torch.randn((count, 16, 4), generator=generator(9, first // count))
    assert torch.equal(planner.noise(9, first, count), windows[:, None])


def test_the_noise_of_several_draws_is_standard_normal_and_never_the_same(
    models: dict[str, Path],
) -> None:
    planner = load(models["teacher"], "ddpm", 5)
    noise = torch.cat([planner.noise(seed, first) for seed in range(20) for first in range(4)])
    assert noise.shape == (80, 5, 16, 4)
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    assert len({tuple(draw.tolist()) for draw in noise[:, :, 0].flatten(0, 1)}) == 400
    assert torch.equal(planner.noise(7, 3), noise[[7 * 4 + 3]])


# Episodes


@pytest.mark.parametrize(
    ("kind", "method", "calls"), [("teacher", "ddpm", 5), ("student", "heun", 2)]
)
def test_a_mazes_episode_does_not_depend_on_batch_order_or_company(
    kind: str, method: str, calls: int, models: dict[str, Path]
) -> None:
    policy = make_policy(load(models[kind], method, calls))
    # The first and the last two share a lane.
    seeds = [3, 8, 20, 35, 67]
    together = evaluate(policy, DENSE, seeds)
    assert len(set(together.returns.tolist())) == 5
    order = [4, 2, 0, 3, 1]
    shuffled = evaluate(policy, DENSE, [seeds[index] for index in order], batch=2)
    np.testing.assert_array_equal(shuffled.returns, together.returns[order])
    for index in (1, 3):
        alone = evaluate(policy, DENSE, [seeds[index]], batch=1)
        assert alone.returns[0] == together.returns[index]
    fresh = evaluate(make_policy(load(models[kind], method, calls)), DENSE, seeds[3:])
    np.testing.assert_array_equal(fresh.returns, together.returns[3:])


@pytest.mark.parametrize(
    ("kind", "method", "calls"), [("teacher", "ddpm", 5), ("student", "heun", 2)]
)
def test_a_replanned_episode_does_not_depend_on_batch_order_or_company(
    kind: str,
    method: str,
    calls: int,
    action_models: dict[str, Path],
    hopper: DatasetName,
) -> None:
    policy = make_policy(load(action_models[kind], method, calls))
    assert isinstance(policy, RecedingHorizon)
    seeds = [1000, 1001, 1032, 1033]
    together = evaluate(policy, hopper, seeds)
    assert len(set(together.returns.tolist())) == 4
    shuffled = evaluate(policy, hopper, seeds[::-1], batch=1)
    np.testing.assert_array_equal(shuffled.returns, together.returns[::-1])
    np.testing.assert_array_equal(shuffled.lengths, together.lengths[::-1])


@pytest.mark.parametrize(
    ("kind", "method", "calls"), [("teacher", "ddpm", 5), ("student", "heun", 3)]
)
def test_latency_is_measured_over_all_calls(
    kind: str, method: str, calls: int, models: dict[str, Path]
) -> None:
    planner = load(models[kind], method, calls)
    counted: list[int] = []
    assert isinstance(planner.network, Denoiser | ConsistencyTrajectory)
    planner.network.network.register_forward_hook(lambda *_: counted.append(1))
    assert plan_latency(planner, repetitions=4, batch=2).median > 0
    assert len(counted) == (3 + 4) * calls
