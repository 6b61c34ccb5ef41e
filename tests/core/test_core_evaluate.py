"""One episode per seed, true returns, and the same result in whatever order and company."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ractd_core.data.waypoints import WaypointController
from ractd_core.envs import Array, Maze2d
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.policy import LANES, Lanes, PlanAndTrack, Planner, make_policy
from ractd_core.tasks import DatasetName, parse_dataset_name

DENSE = parse_dataset_name("local/maze2d-umaze-dense-v1")
"""Dense returns show every difference between two plans."""
SPARSE = parse_dataset_name("local/maze2d-umaze-v1")


@pytest.fixture
def policy(models: dict[str, Path]) -> PlanAndTrack:
    made = make_policy(Planner.load(models["student"], torch.device("cpu")))
    assert isinstance(made, PlanAndTrack)
    return made


def by_hand(policy: PlanAndTrack, seed: int) -> float:
    """The sum of the environment's own rewards over one episode, played alone in its lane."""
    env = Maze2d(DENSE.task)
    lane = seed % LANES
    states, goals = np.zeros((LANES, 4)), np.zeros((LANES, 2))
    states[lane], goals[lane] = env.reset(seed=seed)[0], env.goal
    policy.start(np.array([lane]), states, goals, [seed])
    total = 0.0
    for _ in range(300):
        states[lane], reward, *_ = env.step(policy.act(states)[lane])
        total += reward
    env.close()
    return total


def test_returns_are_the_environments_rewards_summed(policy: PlanAndTrack) -> None:
    seeds = [7, 0, 123]
    result = evaluate(policy, DENSE, seeds)
    expected = [by_hand(policy, seed) for seed in seeds]
    np.testing.assert_array_equal(result.returns, expected)
    assert len(set(expected)) == 3
    assert result.lengths.tolist() == [300, 300, 300]
    assert result.seeds.tolist() == seeds
    # A maze's episode never ends by itself.
    assert not result.terminated.any()


def test_an_episode_does_not_depend_on_order_batch_or_company(policy: PlanAndTrack) -> None:
    # More than there are lanes, so that some lanes play twice.
    seeds = list(range(40))
    straight = evaluate(policy, DENSE, seeds)
    order = np.random.default_rng(0).permutation(40)
    mixed = evaluate(policy, DENSE, [int(seed) for seed in order], batch=7)
    np.testing.assert_array_equal(mixed.returns, straight.returns[order])
    few = evaluate(policy, DENSE, [39, 3], batch=1)
    np.testing.assert_array_equal(few.returns, straight.returns[[39, 3]])
    again = evaluate(policy, DENSE, seeds)
    np.testing.assert_array_equal(again.returns, straight.returns)
    assert len(set(straight.returns.tolist())) == 40


def test_recorded_steps_are_what_was_played_and_recording_changes_nothing(
    policy: PlanAndTrack,
) -> None:
    seeds = [7, 0, 39]
    plain = evaluate(policy, DENSE, seeds)
    with pytest.raises(ValueError, match="record=True"):
        plain.dataset()
    result = evaluate(policy, DENSE, seeds, record=True)
    np.testing.assert_array_equal(result.returns, plain.returns)
    data = result.dataset()
    assert data.bounds.tolist() == [0, 301, 602, 903]
    assert data.terminated.tolist() == [False] * 3
    for episode, seed in enumerate(seeds):
        rows = slice(data.bounds[episode], data.bounds[episode + 1])
        observations, actions, rewards = (
            values[rows] for values in (data.observations, data.actions, data.rewards)
        )
        # Played again, action by action, the simulator goes the same way.
        env = Maze2d(DENSE.task)
        seen, paid = [env.reset(seed=seed)[0]], []
        for action in actions[:-1]:
            state, reward, *_ = env.step(action.astype(np.float64))
            seen.append(state.copy())
            paid.append(reward)
        env.close()
        np.testing.assert_allclose(observations, seen, atol=1e-3)
        np.testing.assert_allclose(rewards[:-1], paid, atol=1e-3)
        assert rewards[:-1].sum(dtype=np.float64) == pytest.approx(result.returns[episode], 1e-5)
        assert not actions[-1].any()
        assert rewards[-1] == 0
    assert np.abs(data.actions).max() <= 1


def test_every_seed_is_played_exactly_once(
    policy: PlanAndTrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets: Counter[int | None] = Counter()
    reset = Maze2d.reset
    steps = []
    step = Maze2d.step

    def counted(self: Maze2d, *, seed: int | None = None, **options: Any) -> Any:
        resets[seed] += 1
        return reset(self, seed=seed, **options)

    def stepped(self: Maze2d, action: NDArray[np.float64]) -> Any:
        steps.append(1)
        return step(self, action)

    monkeypatch.setattr(Maze2d, "reset", counted)
    monkeypatch.setattr(Maze2d, "step", stepped)
    seeds = [5, 1, 27]
    evaluate(policy, DENSE, seeds)
    assert resets == Counter(seeds)
    assert len(steps) == 3 * 300


class Waypoints:
    """D4RL's own controller in a policy's place."""

    lanes = 40

    def __init__(self) -> None:
        self.env = Maze2d(SPARSE.task)
        self.controllers: dict[int, WaypointController] = {}

    def start(
        self, lanes: Lanes, observations: Array, goals: Array | None, seeds: Sequence[int]
    ) -> None:
        assert goals is not None
        for lane, seed in zip(lanes, seeds, strict=True):
            controller = WaypointController(self.env, np.random.default_rng(seed))
            controller.set_target(observations[lane, :2], goals[lane])
            self.controllers[int(lane)] = controller

    def act(self, observations: Array) -> Array:
        lanes = range(self.lanes)
        return np.array([self.controllers[lane].act(observations[lane])[0] for lane in lanes])


def test_the_waypoint_controller_is_scored_at_139() -> None:
    result = evaluate(Waypoints(), SPARSE, range(40), batch=40)
    # The published 139 has a standard error of its own; so has ours, about 6.
    assert result.score == pytest.approx(139, abs=15)
    # Sparse rewards of 0 or 1: whole returns, and none beyond the length.
    assert np.array_equal(result.returns, result.returns.round())
    assert result.returns.max() <= 300


def finished(name: DatasetName, seeds: Any, returns: Array, lengths: Any) -> Evaluation:
    return Evaluation(name.task, seeds, returns, lengths, lengths < 300)


def test_scores_mean_and_spread() -> None:
    returns = np.array([68.537689, 193.66285642381482, 131.100272711907])
    result = finished(DENSE, np.arange(3), returns, np.full(3, 300))
    np.testing.assert_allclose(result.scores, [0, 100, 50], atol=1e-6)
    assert result.score == pytest.approx(50)
    assert result.std == pytest.approx(50)
    one = finished(DENSE, np.arange(1), returns[:1], np.full(1, 300))
    assert one.std == 0.0


def test_the_table_has_one_line_per_episode() -> None:
    returns = np.array([10.0, 161.86])
    result = finished(SPARSE, np.array([8, 2]), returns, np.array([300, 7]))
    rows = list(csv.DictReader(io.StringIO(result.csv())))
    assert [int(row["seed"]) for row in rows] == [8, 2]
    assert [float(row["return"]) for row in rows] == [10.0, 161.86]
    assert [int(row["length"]) for row in rows] == [300, 7]
    assert [row["terminated"] for row in rows] == ["0", "1"]
    assert float(rows[0]["score"]) == pytest.approx(100 * (10 - 23.85) / (161.86 - 23.85), rel=1e-5)
    assert float(rows[1]["score"]) == pytest.approx(100)
    assert result.csv().endswith("\n")


def test_no_seeds_are_an_error(policy: PlanAndTrack) -> None:
    with pytest.raises(ValueError, match="no evaluation seeds"):
        evaluate(policy, DENSE, [])


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_none_is_an_error(policy: PlanAndTrack, batch: int) -> None:
    with pytest.raises(ValueError, match=f"batch must be 1 or more, found {batch}"):
        evaluate(policy, DENSE, [0], batch=batch)
