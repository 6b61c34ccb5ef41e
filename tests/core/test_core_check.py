"""What a dataset's own behaviour earns, counted by hand, and what a report says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from ractd_core.data.check import Spread, behaviour_returns, check
from ractd_core.data.flat import FlatDataset
from ractd_core.envs.kitchen import ELEMENTS, GOALS, SUBTASKS
from ractd_core.tasks import parse_dataset_name


def dataset(name: str, lengths: list[int], seed: int = 0, **changes: Any) -> FlatDataset:
    """Random episodes of these numbers of steps; the odd ones terminate."""
    task = parse_dataset_name(name).task
    rng = np.random.default_rng(seed)
    bounds = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)]).astype(np.int64)
    rows, final = int(bounds[-1]), bounds[1:] - 1
    arrays = {
        "observations": rng.normal(size=(rows, task.obs_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
    } | changes
    arrays["actions"][final], arrays["rewards"][final] = 0, 0
    return FlatDataset(
        name=parse_dataset_name(name),
        bounds=bounds,
        terminated=np.arange(len(lengths)) % 2 == 1,
        **arrays,
    )


@pytest.mark.parametrize("name", ["local/hopper-medium-v2", "d4rl/pen-human-v1"])
def test_an_episode_earns_the_sum_of_its_rewards(name: str) -> None:
    data = dataset(name, [5, 1, 9])
    returns, counted = behaviour_returns(data)
    expected = [
        sum(float(reward) for reward in data.rewards[first : end - 1])
        for first, end in zip(data.bounds[:-1], data.bounds[1:], strict=True)
    ]
    np.testing.assert_allclose(returns, expected, rtol=1e-12)
    assert counted == "episodes"


def test_mazes_are_counted_in_stretches_as_long_as_an_evaluation() -> None:
    lengths = [200, 250, 449, 1, 40]
    data = dataset("local/maze2d-umaze-v1", lengths)
    returns, counted = behaviour_returns(data)
    steps = [
        float(reward)
        for first, end in zip(data.bounds[:-1], data.bounds[1:], strict=True)
        for reward in data.rewards[first : end - 1]
    ]
    expected = [sum(steps[300 * k : 300 * (k + 1)]) for k in range(sum(lengths) // 300)]
    assert len(expected) == 3
    np.testing.assert_allclose(returns, expected, rtol=1e-9)
    assert counted == "stretches of 300 steps"


def test_a_maze_shorter_than_an_evaluation_has_no_score() -> None:
    report = check(dataset("local/maze2d-large-v1", [799]), {})
    assert report.returns is None
    assert report.score is None
    assert report.counted == "stretches of 800 steps"


@pytest.mark.parametrize("task_name", list(SUBTASKS))
def test_kitchen_counts_distinct_sub_tasks(task_name: str) -> None:
    subtasks = SUBTASKS[task_name]
    lengths = [6, 6, 6, 6]
    observations = np.zeros((28, 60), dtype=np.float32)
    # By row: what is in its goal state there. One is done twice, one in the final state only, and
    # one is no target of this task.
    foreign = next(name for name in ELEMENTS if name not in subtasks)
    done: dict[int, list[str]] = {
        1: [subtasks[0]],
        3: [subtasks[0], subtasks[1]],
        6: [subtasks[2]],
        8: [foreign],
        14: [subtasks[3]],
        16: [subtasks[3]],
        21: list(subtasks),
    }
    for row, names in done.items():
        for name in names:
            observations[row, ELEMENTS[name]] = GOALS[name]
    data = dataset(f"d4rl/{task_name}", lengths, observations=observations)
    returns, counted = behaviour_returns(data)
    assert returns.tolist() == [3, 0, 1, 4]
    assert counted == "episodes"
    report = check(data, {})
    assert report.score is not None
    assert (report.score.min, report.score.max, report.score.mean) == (0, 100, 50)


@pytest.mark.parametrize(("distance", "counts"), [(0.29, 1), (0.31, 0)])
def test_a_sub_task_is_done_within_three_tenths(distance: float, counts: int) -> None:
    observations = np.zeros((4, 60), dtype=np.float32)
    observations[2, ELEMENTS["microwave"]] = GOALS["microwave"][0] + distance
    data = dataset("d4rl/kitchen-mixed-v0", [3], observations=observations)
    assert behaviour_returns(data)[0].tolist() == [counts]


def test_antmaze_is_a_success_or_none() -> None:
    rewards = np.zeros(5 + 4 + 3, dtype=np.float32)
    rewards[[1, 2, 3]] = 1
    rewards[10] = 1
    data = dataset("minari/antmaze-umaze-v2", [4, 3, 2], rewards=rewards)
    returns, counted = behaviour_returns(data)
    assert returns.tolist() == [1, 0, 1]
    assert counted == "episodes"
    report = check(data, {})
    assert report.score is not None
    assert report.score.mean == pytest.approx(200 / 3)


def test_a_spread_is_what_numpy_says() -> None:
    sample = np.random.default_rng(0).normal(size=(7, 13)).astype(np.float32)
    spread = Spread.of(sample)
    assert spread.min == sample.min()
    assert spread.max == sample.max()
    assert spread.median == pytest.approx(np.median(sample))
    assert (spread.q25, spread.q75) == pytest.approx(tuple(np.quantile(sample, [0.25, 0.75])))
    assert spread.mean == pytest.approx(sample.mean(dtype=np.float64))
    assert Spread.of(np.array([3])) == Spread(3, 3, 3, 3, 3, 3)


def test_a_mean_of_many_is_not_rounded_on_the_way() -> None:
    values = np.full(1 << 20, 16777217 / 16, dtype=np.float64).astype(np.float32)
    assert Spread.of(values).mean == float(values[0])


def test_a_report_describes_transitions_only() -> None:
    actions = np.zeros((12, 3), dtype=np.float32)
    actions[:, 0] = 0.5
    actions[:, 1] = np.linspace(-1, 1, 12)
    actions[2, 2] = 1.0
    rewards = np.full(12, 2.0, dtype=np.float32)
    data = dataset("mylab/hopper-medium-v2", [7, 3], actions=actions, rewards=rewards)
    report = check(data, {"kind": "imported"})
    assert (report.transitions, report.episodes, report.terminated) == (10, 2, 1)
    assert (report.lengths.min, report.lengths.max) == (3, 7)
    # Final states pay nothing and no action is taken there.
    assert report.rewards == Spread(2, 2, 2, 2, 2, 2)
    assert report.returns is not None
    assert (report.returns.min, report.returns.max) == (6, 14)
    taken = np.delete(data.actions, [7, 11], axis=0)
    span = (taken.max(axis=0) - taken.min(axis=0)) / 2
    np.testing.assert_allclose(report.coverage, span, rtol=1e-6)
    assert report.coverage[0] == 0
    assert report.saturated == pytest.approx((np.abs(taken) > 0.99).sum() / 30)
    assert report.action_range == (-1, 1)
    assert report.observation_range == (data.observations.min(), data.observations.max())
    assert report.origin == {"kind": "imported"}
    assert report.dataset == "mylab/hopper-medium-v2"
    assert report.fingerprint == data.fingerprint


def test_coverage_stays_within_the_bounds() -> None:
    actions = np.full((12, 3), 5.0, dtype=np.float32)
    actions[:, 0] = np.linspace(-3, 3, 12)
    report = check(dataset("mylab/hopper-medium-v2", [7, 3], actions=actions), {})
    assert report.coverage == (1, 0, 0)
    assert report.saturated > 2 / 3


def constant(actions: np.ndarray[Any, Any]) -> None:
    actions[:, 1] = 0.25


@pytest.mark.parametrize(
    ("name", "lengths", "change", "notes"),
    [
        ("d4rl/hopper-medium-v2", [5], None, []),
        ("local/hopper-medium-v2", [5], None, ["not D4RL's own data: .*local/hopper-medium-v2"]),
        ("d4rl/hopper-medium-v2", [5, 1001], None, ["episodes of up to 1001 steps.*1000"]),
        ("d4rl/hopper-medium-v2", [5, 1000], None, []),
        ("d4rl/pen-human-v1", [5, 200], None, ["200 steps, longer than an evaluation's 100"]),
        ("d4rl/maze2d-umaze-v1", [900], None, []),
        ("d4rl/hopper-medium-v2", [5], constant, [r"action dimensions \[1\] are constant"]),
        ("d4rl/antmaze-umaze-v2", [5], None, ["cannot be scored"]),
        ("minari/pen-human-v1", [5], None, ["not D4RL's own data"]),
        ("minari/door-human-v1", [5], None, ["not D4RL's own data", "wrong sign"]),
        ("minari/antmaze-umaze-v2", [5], None, ["not D4RL's own data: scores are reported as"]),
    ],
)
def test_notes_say_what_to_know_before_training(
    name: str,
    lengths: list[int],
    change: Callable[[np.ndarray[Any, Any]], None] | None,
    notes: list[str],
) -> None:
    data = dataset(name, lengths)
    if change is not None:
        change(data.actions)
    report = check(data, {"kind": "imported"})
    assert len(report.notes) == len(notes), report.notes
    for note, expected in zip(report.notes, notes, strict=True):
        assert re.search(expected, note)


def test_a_file_that_is_not_stored_is_not_said_to_be_anybodys() -> None:
    assert check(dataset("file/hopper-medium-v2", [5]), {}).notes == ()
    [note] = check(dataset("file/antmaze-umaze-v2", [5]), {}).notes
    assert "if it is D4RL's own, policies trained on it cannot be scored" in note


def test_a_report_is_plain_json() -> None:
    report = check(dataset("local/hopper-medium-v2", [5, 2]), {"kind": "generated"})
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["episodes"] == 2
