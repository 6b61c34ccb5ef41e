"""Episodes that end by themselves: played once each, the same to the last bit in any company."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ractd_core import evaluate as module
from ractd_core.envs import Array, Locomotion, make_env
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.policy import LANES, Lanes, Planner, Policy, make_policy
from ractd_core.tasks import DatasetName, TaskError, parse_dataset_name
from tests.core.processes import run_workers

SEEDS = range(1000, 1040)


def policy_of(model: Path) -> Policy:
    return make_policy(Planner.load(model, torch.device("cpu")))


@pytest.fixture
def policy(action_models: dict[str, Path]) -> Policy:
    return policy_of(action_models["student"])


@pytest.fixture(scope="session")
def played(action_models: dict[str, Path], hopper: DatasetName) -> Evaluation:
    """Forty episodes of a policy that falls soon; some lanes play two of them."""
    return evaluate(policy_of(action_models["student"]), hopper, SEEDS)


def same(found: Evaluation, expected: Evaluation, rows: Any = slice(None)) -> None:
    """Bit for bit, since a legged robot turns the last bit into another return."""
    for key in ("seeds", "returns", "lengths", "terminated"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key)[rows], key)


@pytest.mark.parametrize(("batch", "every"), [(1, 3), (5, 1), (32, 1)])
def test_an_episode_does_not_depend_on_the_batch(
    policy: Policy, hopper: DatasetName, played: Evaluation, batch: int, every: int
) -> None:
    # One at a time takes long, so not all are.
    rows = slice(None, None, every)
    same(evaluate(policy, hopper, SEEDS[rows], batch=batch), played, rows)
    assert len(set(played.returns.tolist())) == len(SEEDS)
    # Otherwise nothing had time to grow apart.
    assert played.lengths.min() > 5
    assert len(set(played.lengths.tolist())) > 5


@pytest.mark.parametrize("batch", [7, 32])
def test_an_episode_does_not_depend_on_order_or_company(
    policy: Policy, hopper: DatasetName, played: Evaluation, batch: int
) -> None:
    order = np.random.default_rng(0).permutation(len(SEEDS))
    shuffled = [SEEDS[index] for index in order]
    same(evaluate(policy, hopper, shuffled, batch=batch), played, order)
    few = [38, 6, 0]
    same(evaluate(policy, hopper, [SEEDS[index] for index in few], batch=batch), played, few)
    same(evaluate(policy, hopper, [SEEDS[7]], batch=batch), played, [7])


class Watched:
    """A policy that notes in which lane which seed begins, and what it is shown."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.lanes = policy, policy.lanes
        self.begun: list[tuple[int, int]] = []
        self.shapes: set[tuple[int, ...]] = set()

    def start(
        self, lanes: Lanes, observations: Array, goals: Array | None, seeds: Sequence[int]
    ) -> None:
        self.begun.extend(zip(map(int, lanes), seeds, strict=True))
        self.policy.start(lanes, observations, goals, seeds)

    def act(self, observations: Array) -> Array:
        self.shapes.add(observations.shape)
        return self.policy.act(observations)


@pytest.mark.parametrize("batch", [2, 32])
def test_a_seed_always_has_the_same_row_of_a_call_of_the_same_size(
    policy: Policy, hopper: DatasetName, batch: int
) -> None:
    # Networks as small as these need not show that others round by row and number of rows.
    watched = Watched(policy)
    seeds = [70, 6, 38, 5, 9]
    evaluate(watched, hopper, seeds, batch=batch)
    assert sorted(watched.begun) == sorted((seed % LANES, seed) for seed in seeds)
    assert watched.shapes == {(LANES, 11)}


def by_hand(policy: Policy, name: DatasetName, seed: int) -> tuple[float, int, bool]:
    """Return, length and whether it terminated, of one episode played alone in its lane."""
    env = make_env(name.task)
    lane = seed % LANES
    seen = np.zeros((LANES, name.task.obs_dim))
    seen[lane] = env.reset(seed=seed)[0]
    policy.start(np.array([lane]), seen, None, [seed])
    total, length = 0.0, 0
    while True:
        seen[lane], reward, terminated, truncated, _ = env.step(policy.act(seen)[lane])
        total, length = total + reward, length + 1
        if terminated or truncated:
            env.close()
            return total, length, terminated


def test_returns_are_the_environments_rewards_up_to_the_first_end(
    policy: Policy, hopper: DatasetName, played: Evaluation
) -> None:
    for index in (0, 11, 39):
        expected = by_hand(policy, hopper, SEEDS[index])
        found = (played.returns[index], played.lengths[index], played.terminated[index])
        assert found == expected
    assert played.terminated.all()
    assert played.lengths.max() < hopper.task.max_episode_steps


def test_episodes_that_fell_are_told_from_those_that_were_cut(
    policy: Policy, hopper: DatasetName, played: Evaluation
) -> None:
    limit = int(np.median(played.lengths))
    # Of another name: environments are kept by their task's.
    short = replace(hopper.task, name="hopper-short-v2", max_episode_steps=limit)
    name = DatasetName("local", short)
    result = evaluate(policy, name, SEEDS)
    fell = played.lengths <= limit
    assert 0 < fell.sum() < len(fell)
    np.testing.assert_array_equal(result.terminated, fell)
    np.testing.assert_array_equal(result.lengths, np.minimum(played.lengths, limit))
    np.testing.assert_array_equal(result.returns[fell], played.returns[fell])
    cut = int(np.flatnonzero(~fell)[0])
    assert by_hand(policy, name, SEEDS[cut]) == (result.returns[cut], limit, False)
    column = [line.rsplit(",", 1)[1] for line in result.csv().splitlines()[1:]]
    assert column == [str(int(end)) for end in fell]


def test_every_seed_is_played_exactly_once_and_not_beyond_its_end(
    policy: Policy, hopper: DatasetName, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets: Counter[int | None] = Counter()
    steps: list[int] = []
    reset, step = Locomotion.reset, Locomotion.step

    def counted(self: Locomotion, *, seed: int | None = None, **options: Any) -> Any:
        resets[seed] += 1
        return reset(self, seed=seed, **options)

    def stepped(self: Locomotion, action: Array) -> Any:
        steps.append(1)
        return step(self, action)

    monkeypatch.setattr(Locomotion, "reset", counted)
    monkeypatch.setattr(Locomotion, "step", stepped)
    # 7 and 39 share a lane, and a seed that is asked for twice is played twice.
    seeds = [7, 39, 8, 8, 40]
    result = evaluate(policy, hopper, seeds, batch=2)
    assert resets == Counter(seeds)
    assert len(steps) == result.lengths.sum()
    assert result.seeds.tolist() == seeds
    assert result.returns[2] == result.returns[3]


class Failing:
    """Stands for a policy that breaks in the middle of its episodes."""

    lanes = LANES

    def __init__(self) -> None:
        self.steps = 0

    def start(
        self, lanes: Lanes, observations: Array, goals: Array | None, seeds: Sequence[int]
    ) -> None:
        assert goals is None

    def act(self, observations: Array) -> Array:
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("broken")
        return np.zeros((LANES, 3))


def test_after_an_error_the_environments_are_used_again(
    policy: Policy, hopper: DatasetName, played: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(task: Any) -> Any:
        made.append(task.name)
        return make_env(task)

    monkeypatch.setattr(module, "_pool", {})
    monkeypatch.setattr(module, "make_env", counted)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(Failing(), hopper, range(4))
    assert len(made) == 4
    # Those that were left in the middle of an episode begin anew like all others.
    same(evaluate(policy, hopper, SEEDS[:4]), played, slice(4))
    assert len(made) == 4


@pytest.mark.parametrize("task", ["antmaze-umaze-v2", "antmaze-large-diverse-v2"])
def test_what_cannot_be_scored_is_refused_before_anything_is_played(
    policy: Policy, task: str
) -> None:
    name = parse_dataset_name(f"d4rl/{task}")
    with pytest.raises(TaskError, match=rf"^d4rl/{task}: .* use minari/{task}"):
        evaluate(policy, name, [0])


# Several workers


def _work(rank: int, folder: Path, model: Path, name: DatasetName, tasks: list[list[int]]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    own: Counter[int | None] = Counter()
    reset = Locomotion.reset

    def counted(self: Locomotion, *, seed: int | None = None, **options: Any) -> Any:
        own[seed] += 1
        return reset(self, seed=seed, **options)

    results = []
    for seeds in tasks:
        own.clear()
        with patch.object(Locomotion, "reset", counted):
            result = evaluate(policy_of(model), name, seeds, record=True)
        keys = ("seeds", "returns", "lengths", "terminated", "steps")
        results.append(({key: getattr(result, key) for key in keys}, dict(own)))
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_share_the_episodes_and_both_get_them_all(
    action_models: dict[str, Path],
    hopper: DatasetName,
    policy: Policy,
    played: Evaluation,
    tmp_path: Path,
) -> None:
    # An even and an odd number, and fewer episodes than workers.
    counts = (40, 7, 1)
    tasks = [list(SEEDS[:count]) for count in counts]
    assert run_workers(_work, tmp_path, action_models["student"], hopper, tasks) == [0, 0]

    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for index, count in enumerate(counts):
        alone = evaluate(policy, hopper, tasks[index], record=True).dataset()
        for rank in range(2):
            both = Evaluation(hopper.task, **found[rank][index][0])
            same(both, played, slice(count))
            assert both.dataset().fingerprint == alone.fingerprint
        shares = [Counter(found[rank][index][1]) for rank in range(2)]
        # Nothing is played twice, and neither worker plays all.
        assert shares[0] + shares[1] == Counter(tasks[index])
        assert abs(shares[0].total() - shares[1].total()) <= 1
