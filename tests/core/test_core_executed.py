"""Several actions of each window are executed: when a lane replans, with which noise, and what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ractd_core.config import Sampling
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.policy import Planner, RecedingHorizon, make_policy
from ractd_core.tasks import DatasetName
from tests.core.test_core_receding import Recorder, observed, play

CPU = torch.device("cpu")
HORIZON = 16
LANES = 4


def planner_of(files: dict[str, Path], kind: str) -> Planner:
    # DDPM draws anew at every call, so that its noise has more than one tensor per window.
    sampling = Sampling(method="ddpm", calls=3) if kind == "teacher" else None
    return Planner.load(files[kind], CPU, sampling)


def seen_at(step: int, lane: int, episode: int) -> NDArray[np.float64]:
    """What an episode shows at a step of its own."""
    rng: NDArray[np.float64] = np.random.default_rng([step, lane, episode]).normal(size=11)
    return rng


def twin(planner: Planner, lane: int, episode: int, seed: int, steps: int, n: int) -> Any:
    """One episode by itself, in its row of calls that are empty otherwise, written out."""
    past: deque[NDArray[np.float64]] = deque(maxlen=planner.context)
    block = max(1, 64 // planner.draws)
    actions, queue = [], deque[NDArray[np.float64]]()
    for step in range(steps):
        seen = seen_at(step, lane, episode)
        past.extend([seen] * (planner.context if step == 0 else 1))
        if not queue:
            number = step // n
            observations = torch.zeros(LANES, planner.context, planner.observation_dims)
            observations[lane] = torch.tensor(np.stack(past), dtype=torch.float32)
            z = torch.zeros(LANES, planner.draws, planner.horizon, planner.dims)
            z[lane] = planner.noise(seed, number - number % block, block)[number % block]
            queue.extend(planner.plan(observations, z)[lane].double().numpy()[:n])
        actions.append(queue.popleft())
    return np.array(actions)


@pytest.mark.parametrize("kind", ["teacher", "student", "regression"])
@pytest.mark.parametrize("n", [1, 3, HORIZON])
def test_lanes_out_of_step_act_as_each_by_itself_to_the_last_bit(
    kind: str, n: int, action_models: dict[str, Path]
) -> None:
    planner = planner_of(action_models, kind)
    policy = make_policy(planner, LANES, n)
    # Lane, step of the sweep at which it begins, and its seed; two lanes play two episodes.
    begins = [(0, 0, 7), (1, 0, 8), (2, 4, 9), (0, 23, 10), (3, 23, 11), (1, 38, 12)]
    total = 60
    running: dict[int, tuple[int, int]] = {}
    done: dict[int, list[NDArray[np.float64]]] = {number: [] for number in range(len(begins))}
    for step in range(total):
        for number, (lane, begin, _) in enumerate(begins):
            if begin == step:
                running[lane] = number, step
        now = np.full((LANES, 11), 99.0)
        for lane, (number, begin) in running.items():
            now[lane] = seen_at(step - begin, lane, number)
        starting = [(lane, seed) for lane, begin, seed in begins if begin == step]
        if starting:
            lanes, seeds = zip(*starting, strict=True)
            policy.start(np.array(lanes), now, None, seeds)
        actions = policy.act(now)
        for lane, (number, _) in running.items():
            done[number].append(actions[lane])
    for number, (lane, _, seed) in enumerate(begins):
        found = np.array(done[number])
        assert len(found) >= 19
        expected = twin(planner, lane, number, seed, len(found), n)
        np.testing.assert_array_equal(found, expected, str(number))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_lanes_in_step_plan_once_for_as_many_actions(n: int) -> None:
    planner = Recorder()
    actions = play(RecedingHorizon(planner, 2, n), {0: {0: 1, 1: 2}}, steps=8)
    assert len(planner.z) == 8 // n
    # Windows of 4 actions of 3 numbers, counted on: the second lane's begins at 12.
    for step, executed in enumerate(actions):
        first = 3.0 * (step % n)
        assert executed.dtype == np.float64
        assert executed.tolist() == [
            [first, first + 1, first + 2],
            [first + 12, first + 13, first + 14],
        ]


def test_a_window_is_planned_from_what_was_seen_last_also_between_windows() -> None:
    planner = Recorder(context=3)
    play(RecedingHorizon(planner, 1, 2), {0: {0: 1}}, steps=5)
    asked = [seen[0].tolist() for seen in planner.seen]
    assert asked == [
        [observed(0, 0)] * 3,
        [observed(0, step) for step in (0, 1, 2)],
        [observed(0, step) for step in (2, 3, 4)],
    ]


@pytest.mark.parametrize("draws", [1, 65])
def test_noise_is_numbered_by_window_and_not_by_step(draws: int) -> None:
    def noise(n: int, windows: int) -> list[Tensor]:
        planner = Recorder(draws=draws)
        play(RecedingHorizon(planner, 2, n), {0: {0: 42, 1: 3}}, n * windows)
        return planner.z

    expected = noise(1, 70)
    for n in (2, 4):
        for found, wanted in zip(noise(n, 70), expected, strict=True):
            assert torch.equal(found, wanted)


def test_a_lane_that_starts_anew_plans_at_once() -> None:
    planner = Recorder()
    # In the middle of a window of four.
    play(RecedingHorizon(planner, 2, 4), {0: {0: 1, 1: 2}, 2: {0: 5}}, steps=6)
    assert [float(seen[0, -1, 0]) for seen in planner.seen] == [0.0, 2.0, 4.0]
    [_, second, third] = planner.z
    own = planner.noise(5, 0, 64)
    assert torch.equal(second[0], own[0])
    # The other lane's turn: its second window.
    assert torch.equal(third[1], planner.noise(2, 0, 64)[1])


@pytest.mark.parametrize("n", [0, -1, HORIZON + 1])
def test_a_window_has_no_more_actions_than_its_horizon(
    n: int, action_models: dict[str, Path]
) -> None:
    planner = Planner.load(action_models["student"], CPU)
    with pytest.raises(ValueError, match=f"1 to {HORIZON} actions .* executed, found {n}"):
        make_policy(planner, executed_actions=n)


def test_a_plan_of_states_is_executed_whole(models: dict[str, Path]) -> None:
    planner = Planner.load(models["student"], CPU)
    with pytest.raises(ValueError, match="executed whole, found executed_actions 2"):
        make_policy(planner, executed_actions=2)


# Played


def same(found: Evaluation, expected: Evaluation, rows: Any = slice(None)) -> None:
    for key in ("seeds", "returns", "lengths", "terminated"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key)[rows], key)


@pytest.fixture(scope="module")
def score(action_models: dict[str, Path], hopper: DatasetName) -> Callable[..., Evaluation]:
    planner = Planner.load(action_models["student"], CPU)

    def play(seeds: NDArray[np.int64], n: int, batch: int = 32) -> Evaluation:
        policy = make_policy(planner, executed_actions=n)
        return evaluate(policy, hopper, seeds.tolist(), batch=batch)

    return play


def test_an_episode_depends_neither_on_batch_nor_order_nor_company(
    score: Callable[..., Evaluation],
) -> None:
    # Lanes play three of them, which begin when others are in the middle of a window.
    seeds = np.array([1000 + lane + 32 * turn for lane in range(4) for turn in range(3)])
    played = score(seeds, 3)
    same(score(seeds, 3, batch=3), played)
    order = np.random.default_rng(0).permutation(len(seeds))
    same(score(seeds[order], 3), played, order)
    same(score(seeds[[11, 6]], 3), played, [11, 6])
    assert len(set(played.lengths % 3)) == 3, "episodes end within windows"
    replanned = score(seeds, 1)
    assert (played.returns != replanned.returns).all()
