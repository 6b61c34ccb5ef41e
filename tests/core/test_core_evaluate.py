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
from ractd_core.envs import Maze2d, make_env
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.policy import PlanAndTrack, Planner
from ractd_core.tasks import get_task

DENSE = get_task("maze2d-umaze-dense-v1")
"""Dense returns are smooth in the plan, so rounding that depends on the batch stays rounding."""
TOLERANCE = 1e-3


@pytest.fixture
def policy(models: dict[str, Path]) -> PlanAndTrack:
    return PlanAndTrack(Planner.load(models["student"], torch.device("cpu")))


def one_by_one(policy: PlanAndTrack, seed: int) -> float:
    """The sum of the environment's own rewards over one episode, played by hand."""
    env = make_env(DENSE)
    state, _ = env.reset(seed=seed)
    policy.reset(state[None], env.goal[None], [seed])
    total = 0.0
    for _ in range(300):
        state, reward, *_ = env.step(policy.act(state[None])[0])
        total += reward
    env.close()
    return total


def test_returns_are_the_environments_rewards_summed(policy: PlanAndTrack) -> None:
    seeds = [7, 0, 123]
    result = evaluate(policy, DENSE, seeds)
    expected = [one_by_one(policy, seed) for seed in seeds]
    np.testing.assert_allclose(result.returns, expected, rtol=TOLERANCE)
    assert len(set(expected)) == 3
    assert result.lengths.tolist() == [300, 300, 300]
    assert result.seeds.tolist() == seeds


def test_an_episode_does_not_depend_on_order_batch_or_company(policy: PlanAndTrack) -> None:
    # More than fit in one batch of environments.
    seeds = list(range(30))
    straight = evaluate(policy, DENSE, seeds)
    order = np.random.default_rng(0).permutation(30)
    mixed = evaluate(policy, DENSE, [int(seed) for seed in order])
    np.testing.assert_allclose(mixed.returns, straight.returns[order], rtol=TOLERANCE)
    few = evaluate(policy, DENSE, [29, 3])
    np.testing.assert_allclose(few.returns, straight.returns[[29, 3]], rtol=TOLERANCE)
    again = evaluate(policy, DENSE, seeds)
    np.testing.assert_array_equal(again.returns, straight.returns)
    assert len(set(straight.returns.tolist())) == 30


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


class Waypoints(PlanAndTrack):
    """D4RL's own controller in a policy's place."""

    def __init__(self) -> None:
        self.env = make_env(get_task("maze2d-umaze-v1"))
        self.controllers: list[WaypointController] = []

    def reset(
        self, observations: NDArray[np.float64], goals: NDArray[np.float64], seeds: Sequence[int]
    ) -> None:
        self.controllers = []
        for state, goal, seed in zip(observations, goals, seeds, strict=True):
            controller = WaypointController(self.env, np.random.default_rng(seed))
            controller.set_target(state[:2], goal)
            self.controllers.append(controller)

    def act(self, observations: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = zip(self.controllers, observations, strict=True)
        return np.array([controller.act(state)[0] for controller, state in pairs])


def test_the_waypoint_controller_is_scored_at_139() -> None:
    result = evaluate(Waypoints(), get_task("maze2d-umaze-v1"), range(40))
    # The published 139 has a standard error of its own; so has ours, about 6.
    assert result.score == pytest.approx(139, abs=15)
    # Sparse rewards of 0 or 1: whole returns, and none beyond the length.
    assert np.array_equal(result.returns, result.returns.round())
    assert result.returns.max() <= 300


def test_scores_mean_and_spread() -> None:
    returns = np.array([68.537689, 193.66285642381482, 131.100272711907])
    result = Evaluation(DENSE, np.arange(3), returns, np.full(3, 300))
    np.testing.assert_allclose(result.scores, [0, 100, 50], atol=1e-6)
    assert result.score == pytest.approx(50)
    assert result.std == pytest.approx(50)
    one = Evaluation(DENSE, np.arange(1), returns[:1], np.full(1, 300))
    assert one.std == 0.0


def test_the_table_has_one_line_per_episode() -> None:
    returns = np.array([10.0, 161.86])
    result = Evaluation(get_task("maze2d-umaze-v1"), np.array([8, 2]), returns, np.array([300, 7]))
    rows = list(csv.DictReader(io.StringIO(result.csv())))
    assert [int(row["seed"]) for row in rows] == [8, 2]
    assert [float(row["return"]) for row in rows] == [10.0, 161.86]
    assert [int(row["length"]) for row in rows] == [300, 7]
    assert float(rows[0]["score"]) == pytest.approx(100 * (10 - 23.85) / (161.86 - 23.85), rel=1e-5)
    assert float(rows[1]["score"]) == pytest.approx(100)
    assert result.csv().endswith("\n")


def test_no_seeds_are_an_error(policy: PlanAndTrack) -> None:
    with pytest.raises(ValueError, match="no evaluation seeds"):
        evaluate(policy, DENSE, [])
