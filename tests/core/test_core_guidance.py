"""Guided teachers: the reward model's gradient at every call, written out, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ractd_core.config import Sampling
from ractd_core.diffusion.denoiser import Denoiser
from ractd_core.diffusion.schedule import ddpm_grid
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import Model, load_model, reward_gradient
from tests.core.test_core_parents import changed

CPU = torch.device("cpu")
EVERY_WAY = [("heun", 6), ("euler", 5), ("ddim", 5), ("ddpm", 5)]


def guided(
    files: dict[str, Path], strength: float, method: str = "ddim", calls: int = 5
) -> Planner:
    sampling = Sampling.model_validate(
        {"method": method, "calls": calls, "guidance": strength},
    )
    return Planner.load(files["teacher"], CPU, sampling, files["reward"])


def seen_by(planner: Planner, rows: int = 6) -> Tensor:
    shape = (rows, planner.context, planner.observation_dims)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noise_of(planner: Planner, rows: int = 6) -> Tensor:
    return torch.cat([planner.noise(seed) for seed in range(rows)])


@pytest.fixture(params=["states", "actions"])
def files(request: pytest.FixtureRequest) -> dict[str, Path]:
    name = "models" if request.param == "states" else "action_models"
    found: dict[str, Path] = request.getfixturevalue(name)
    return found


def reward_of(model: Model, window: Tensor, cond: Tensor) -> Tensor:
    """The sum over a plan's states, or of the action that is executed: (rows,)."""
    window = window.clamp(-1, 1)
    if model.about["modelled"] == "states":
        total: Tensor = model.network(window).sum(1)
        return total
    newest = cond[:, -model.about["observation_dims"] :]
    executed: Tensor = model.network(torch.cat([window[:, 0], newest], dim=1))
    return executed


def test_the_gradient_is_that_of_each_windows_own_reward(files: dict[str, Path]) -> None:
    model = load_model(files["reward"])
    planner = Planner.load(files["teacher"], CPU)
    source = torch.Generator().manual_seed(1)
    window = (torch.rand(3, 16, planner.dims, generator=source) * 1.8 - 0.9).double()
    cond = torch.rand(3, planner.context * planner.observation_dims, generator=source).double()
    model.network.double()
    slope = reward_gradient(model.about, model.network)(window, cond)
    # Central differences, one entry at a time.
    step = 1e-6
    for row, place, dim in ((0, 0, 0), (1, 0, planner.dims - 1), (2, 7, 1)):
        nudge = torch.zeros_like(window)
        nudge[row, place, dim] = step
        up, down = (reward_of(model, window + sign * nudge, cond) for sign in (1, -1))
        expected = float((up - down).sum()) / (2 * step)
        assert float(slope[row, place, dim]) == pytest.approx(expected, rel=1e-5, abs=1e-10)
    assert slope.shape == window.shape
    if model.about["modelled"] == "actions":
        assert not slope[:, 1:].any(), "only the action that is executed is scored"
    assert slope[:, 0].all()


def test_beyond_the_data_the_gradient_is_that_at_its_edge(files: dict[str, Path]) -> None:
    model = load_model(files["reward"])
    gradient = reward_gradient(model.about, model.network)
    planner = Planner.load(files["teacher"], CPU)
    far = torch.full((2, 16, planner.dims), 5.0)
    cond = torch.zeros(2, planner.context * planner.observation_dims)
    assert torch.equal(gradient(far, cond), gradient(far.clamp(-1, 1), cond))
    assert gradient(far, cond)[:, 0].any()


def test_a_guided_plan_is_ddim_written_out(files: dict[str, Path]) -> None:
    strength = 3.0
    planner = guided(files, strength)
    given, z = seen_by(planner), noise_of(planner)
    teacher, reward = load_model(files["teacher"]), load_model(files["reward"])
    assert isinstance(teacher.network, Denoiser)
    cond = teacher.normalizers.observations.normalize(given).flatten(1)
    noise = teacher.network.noise
    sigmas = ddpm_grid(noise, CPU, 6)
    x = z[:, 0]
    for t, s in pairwise(sigmas):
        clean = teacher.network(x, t.expand(len(x)), cond).detach().requires_grad_()
        [slope] = torch.autograd.grad(reward_of(reward, clean, cond).sum(), clean)
        # Where the prediction leaves the data's range, clamp's gradient is 0 and ours is not.
        assert bool((clean.abs() < 1).all())
        variance = noise.sigma_data**2 * t**2 / (noise.sigma_data**2 + t**2)
        clean = (clean + strength * variance * slope).clamp(-1, 1).detach()
        x = clean + s / t * (x - clean)
    output = "observations" if teacher.about["modelled"] == "states" else "actions"
    expected = getattr(teacher.normalizers, output).unnormalize(x.clamp(-1, 1))
    torch.testing.assert_close(planner.plan(given, z), expected, atol=1e-5, rtol=1e-5)
    unguided = Planner.load(files["teacher"], CPU, Sampling(method="ddim", calls=5))
    assert not torch.equal(planner.plan(given, z), unguided.plan(given, z))


@pytest.mark.parametrize(("method", "calls"), EVERY_WAY)
def test_every_sampler_is_pulled_towards_reward_and_counts_its_gradients(
    method: str, calls: int, files: dict[str, Path]
) -> None:
    reward = load_model(files["reward"])
    normalizers = reward.normalizers
    output = (
        normalizers.observations if reward.about["modelled"] == "states" else normalizers.actions
    )
    scores = []
    sampling = Sampling.model_validate({"method": method, "calls": calls})
    planners = [
        Planner.load(files["teacher"], CPU, sampling),
        *(guided(files, strength, method, calls) for strength in (2.0, 8.0)),
    ]
    for planner in planners:
        assert planner.calls == calls
        given, z = seen_by(planner), noise_of(planner)
        windows = planner.plan(given, z)
        assert not windows.requires_grad
        cond = normalizers.observations.normalize(given).flatten(1)
        scores.append(float(reward_of(reward, output.normalize(windows), cond).mean()))
    assert [planner.gradients for planner in planners] == [0, calls, calls]
    assert scores == sorted(scores)
    assert len(set(scores)) == 3


def test_a_lanes_guided_actions_do_not_depend_on_the_other_lanes_to_the_last_bit(
    action_models: dict[str, Path],
) -> None:
    rng = np.random.default_rng(0)
    mine, others = rng.normal(size=(3, 11)), rng.normal(size=(2, 3, 32, 11))
    found = []
    for company, seeds in zip(others, (range(32), range(100, 132)), strict=True):
        policy = make_policy(guided(action_models, 2.0))
        company[:, 7] = mine
        policy.start(np.arange(32), company[0], None, [*seeds[:7], 77, *seeds[8:]])
        found.append(np.array([policy.act(seen) for seen in company]))
    np.testing.assert_array_equal(found[0][:, 7], found[1][:, 7])


def test_what_cannot_be_guided_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    pull = Sampling(guidance=2.0)
    with pytest.raises(ValueError, match="guidance 2 without a reward model"):
        Planner.load(models["teacher"], CPU, pull)
    with pytest.raises(ValueError, match="guidance 0 with a reward model"):
        Planner.load(models["teacher"], CPU, Sampling(), models["reward"])
    for kind in ("student", "regression"):
        with pytest.raises(ValueError, match=f"a {kind} is not guided: only a teacher is"):
            Planner.load(models[kind], CPU, pull, models["reward"])


def test_a_reward_model_of_other_data_is_refused(
    models: dict[str, Path], action_models: dict[str, Path], tmp_path: Path
) -> None:
    pull = Sampling(guidance=2.0)
    for other in (
        action_models["reward"],
        changed(models["reward"], tmp_path, fingerprint="f" * 64),
    ):
        with pytest.raises(ValueError, match="other data than the teacher: it has fingerprint"):
            Planner.load(models["teacher"], CPU, pull, other)
    reward = load_model(models["reward"])
    reward.normalizers.observations.low.sub_(1)
    with pytest.raises(ValueError, match="other data than the teacher: it has other normalizers"):
        Planner(load_model(models["teacher"]), CPU, pull, reward)
