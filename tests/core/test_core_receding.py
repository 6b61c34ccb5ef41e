"""Replanning at every step: what a lane has seen, its noise, and the action it executes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ractd_core.bench import plan_latency
from ractd_core.data.flat import FlatDataset
from ractd_core.diffusion.denoiser import ConsistencyTrajectory
from ractd_core.policy import LANES, PlanAndTrack, Planner, RecedingHorizon, make_policy
from ractd_core.stages import load_model

CPU = torch.device("cpu")
KINDS = ("teacher", "student", "regression")


class Recorder(Planner):
    """Numbers its windows' actions, and remembers what it was asked; the noise is the real one."""

    def __init__(self, context: int = 3, draws: int = 1) -> None:
        self.context, self.observation_dims = context, 2
        self.horizon, self.dims = 4, 3
        self.draws = draws
        self.device = CPU
        self.seen: list[Tensor] = []
        self.z: list[Tensor] = []

    def plan(self, observations: Tensor, z: Tensor) -> Tensor:
        # Copies: the policy may go on writing into what it has handed over.
        self.seen.append(observations.clone())
        self.z.append(z.clone())
        window = z[:, 0]
        return torch.arange(float(window.numel())).reshape(window.shape)


def observed(lane: int, step: int) -> list[float]:
    return [100.0 * lane + step, -1.0 * step]


def play(policy: RecedingHorizon, starts: dict[int, dict[int, int]], steps: int) -> list[Any]:
    """Act ``steps`` times; ``starts`` says at which step which lane starts with which seed."""
    actions = []
    for step in range(steps):
        now = np.array([observed(lane, step) for lane in range(policy.lanes)])
        if step in starts:
            lanes = np.array(list(starts[step]))
            policy.start(lanes, now, None, list(starts[step].values()))
        actions.append(policy.act(now))
    return actions


def test_a_lane_sees_its_last_observations_and_repeats_its_first_before_them() -> None:
    planner = Recorder()
    begun = {0: 0, 1: 0, 2: 2}
    play(RecedingHorizon(planner, lanes=3), {0: {0: 5, 1: 6}, 2: {2: 7}, 4: {0: 8}}, steps=9)
    for step, seen in enumerate(planner.seen):
        if step == 4:
            # This lane starts anew: what its last episode saw is forgotten.
            begun[0] = 4
        for lane, start in begun.items():
            if step < start:
                continue
            expected = [observed(lane, max(start, step - ago)) for ago in (2, 1, 0)]
            assert seen[lane].tolist() == expected, (step, lane)


@pytest.mark.parametrize("context", [1, 2])
def test_the_newest_observation_comes_last(context: int) -> None:
    planner = Recorder(context)
    play(RecedingHorizon(planner, lanes=2), {0: {0: 1, 1: 2}}, steps=4)
    for step, seen in enumerate(planner.seen):
        assert seen.shape == (2, context, 2)
        assert seen[:, -1].tolist() == [observed(0, step), observed(1, step)]


@pytest.mark.parametrize("draws", [1, 3, 65])
def test_the_noise_of_an_episode_depends_on_its_seed_and_its_own_step_alone(draws: int) -> None:
    # Of 65 draws not even one step's noise fits the block that is drawn at once.
    steps = 150

    def noise(starts: dict[int, dict[int, int]], lane: int, begun: int) -> Tensor:
        planner = Recorder(draws=draws)
        play(RecedingHorizon(planner, lanes=3), starts, begun + steps)
        return torch.stack([z[lane] for z in planner.z[begun:]])

    alone = noise({0: {1: 42}}, lane=1, begun=0)
    assert alone.shape == (steps, draws, 4, 3)
    # In another lane, later, beside others, and after an episode of another length.
    later = noise({0: {0: 1, 2: 9}, 5: {1: 3}, 37: {2: 42}}, lane=2, begun=37)
    assert torch.equal(alone, later)
    other = noise({0: {1: 43}}, lane=1, begun=0)
    assert not (alone == other).any()
    # No step's noise comes again, beyond the block that is drawn at once neither.
    assert len({float(z[0, 0, 0]) for z in alone}) == steps
    assert len({tuple(z.tolist()) for z in alone[:, :, 0].flatten(0, 1)}) == steps * draws
    assert float(alone.mean()) == pytest.approx(0, abs=0.1)
    assert float(alone.std()) == pytest.approx(1, abs=0.1)


def test_the_windows_first_action_is_executed() -> None:
    actions = play(RecedingHorizon(Recorder(), lanes=2), {0: {0: 1, 1: 2}}, steps=2)
    # Windows of 4 actions of 3 numbers, counted on: the second lane's begins at 12.
    for executed in actions:
        assert executed.dtype == np.float64
        assert executed.tolist() == [[0.0, 1.0, 2.0], [12.0, 13.0, 14.0]]


def test_states_are_tracked_and_actions_executed(
    models: dict[str, Path], action_models: dict[str, Path]
) -> None:
    for kind in KINDS:
        plans = make_policy(Planner.load(models[kind], CPU))
        actions = make_policy(Planner.load(action_models[kind], CPU), lanes=5)
        assert (type(plans), plans.lanes) == (PlanAndTrack, LANES)
        assert (type(actions), actions.lanes) == (RecedingHorizon, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_lie_in_the_range_of_those_that_were_taken(
    kind: str, action_models: dict[str, Path], hopper_data: FlatDataset
) -> None:
    policy = make_policy(Planner.load(action_models[kind], CPU), lanes=6)
    taken = np.delete(hopper_data.actions, hopper_data.bounds[1:] - 1, axis=0)
    rng = np.random.default_rng(0)
    for step in range(5):
        # Far outside of what the networks know.
        seen = 30 * rng.normal(size=(6, 11))
        if step == 0:
            policy.start(np.arange(6), seen, None, range(6))
        actions = policy.act(seen)
        assert actions.shape == (6, 3)
        assert (actions >= taken.min(0) - 1e-5).all()
        assert (actions <= taken.max(0) + 1e-5).all()


def test_the_students_action_is_its_jump_from_noise_written_out(
    action_models: dict[str, Path],
) -> None:
    policy = make_policy(Planner.load(action_models["student"], CPU), lanes=4)
    model = load_model(action_models["student"])
    assert isinstance(model.network, ConsistencyTrajectory)
    seen, out = model.normalizers.observations, model.normalizers.actions
    first, second = torch.rand(2, 4, 11, generator=torch.Generator().manual_seed(0))
    policy.start(np.arange(4), first.double().numpy(), None, [5, 6, 7, 8])
    policy.act(first.double().numpy())
    actions = policy.act(second.double().numpy())

    cond = torch.cat([(state - seen.low) / seen.scale - 1 for state in (first, second)], dim=1)
    planner = Planner.load(action_models["student"], CPU)
    z = torch.stack([planner.noise(seed, 0, 64)[1, 0] for seed in (5, 6, 7, 8)])
    clean = model.network(z, torch.full((4,), 80.0), torch.full((4,), 0.02), cond).clamp(-1, 1)
    expected = (clean[:, 0] + 1) * out.scale + out.low
    np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lanes_actions_do_not_depend_on_the_other_lanes_to_the_last_bit(
    kind: str, action_models: dict[str, Path]
) -> None:
    rng = np.random.default_rng(0)
    mine, others = rng.normal(size=(3, 11)), rng.normal(size=(2, 3, 32, 11))
    found = []
    for company, seeds in zip(others, (range(32), range(100, 132)), strict=True):
        policy = make_policy(Planner.load(action_models[kind], CPU))
        company[:, 7] = mine
        policy.start(np.arange(32), company[0], None, [*seeds[:7], 77, *seeds[8:]])
        found.append(np.array([policy.act(seen) for seen in company]))
    np.testing.assert_array_equal(found[0][:, 7], found[1][:, 7])
    assert (found[0][:, 8] != found[1][:, 8]).any()


def test_latency_is_measured_for_windows_of_actions_too(action_models: dict[str, Path]) -> None:
    planner = Planner.load(action_models["student"], CPU)
    given: list[tuple[Tensor, ...]] = []
    network = planner.network
    assert isinstance(network, ConsistencyTrajectory)
    network.network.register_forward_pre_hook(lambda _, args: given.append(args))
    assert plan_latency(planner, repetitions=2, batch=3).median > 0
    assert {tuple(args[0].shape) for args in given} == {(3, 16, 3)}
    assert {tuple(args[3].shape) for args in given} == {(3, 2 * 11)}
