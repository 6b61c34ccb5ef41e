"""Paths against value iteration, and collected data against the physics that made it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.waypoints import Cell, WaypointController, distances_to
from ractd_core.envs import Maze2d
from ractd_core.tasks import DatasetName, get_task, parse_dataset_name

STEP = 0.06
"""No state is farther from the one before: 5 m/s for 10 ms, and some for the solver."""


def value_iteration(goal: Cell, free: set[Cell]) -> dict[Cell, int]:
    """D4RL's way to the same numbers: sweep V(cell) = max over moves V(next) - 1 until it rests."""
    value = {cell: 0.0 if cell == goal else -math.inf for cell in free}
    while True:
        swept = {
            (r, c): 0.0
            if (r, c) == goal
            else max(
                value.get(cell, -math.inf) - 1
                for cell in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1))
            )
            for r, c in free
        }
        if swept == value:
            return {cell: int(-v) for cell, v in value.items() if v > -math.inf}
        value = swept


@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_distances_are_those_of_value_iteration(size: str) -> None:
    env = Maze2d(get_task(f"maze2d-{size}-v1"))
    free = set(env.free_cells)
    for goal in env.free_cells[:: 1 if size == "umaze" else 5]:
        assert distances_to(goal, free) == value_iteration(goal, free)
    env.close()


def test_cells_that_cannot_be_reached_have_no_distance() -> None:
    free = {(0, 0), (0, 1), (5, 5)}
    assert distances_to((0, 0), free) == {(0, 0): 0, (0, 1): 1} == value_iteration((0, 0), free)


@pytest.mark.parametrize("size", ["umaze", "large"])
def test_the_controller_arrives_at_every_cell_and_rests_there(size: str) -> None:
    env = Maze2d(get_task(f"maze2d-{size}-v1"))
    controller = WaypointController(env, np.random.default_rng(4))
    state, _ = env.reset(seed=0)
    for cell in env.free_cells[:: 1 if size == "umaze" else 7]:
        target = env.cell_position(cell)
        controller.set_target(state[:2], target + 0.05)
        for _ in range(1200):
            force, arrived = controller.act(state)
            assert np.abs(force).max() <= 1
            if arrived:
                break
            state = env.step(force)[0]
        assert arrived
        assert np.linalg.norm(state[:2] - target) < 0.1
    env.close()


def test_waypoints_are_moved_towards_smaller_d4rl_coordinates_but_not_the_last() -> None:
    # With no velocity the force is 10 (waypoint - position), so near waypoints can be read off it.
    env = Maze2d(get_task("maze2d-umaze-v1"))
    controller = WaypointController(env, np.random.default_rng(0))
    start, beside = env.cell_position((1, 1)), env.cell_position((1, 2))
    seen = []
    for _ in range(300):
        controller.set_target(start, env.cell_position((1, 3)))
        position = beside + np.array([-0.1, 0.1])
        force, _ = controller.act(np.array([*position, 0.0, 0.0]))
        if np.abs(force).max() < 1:
            seen.append(position + force / 10 - beside)
    # D4RL subtracts U(0, 0.2) from (p0, p1), that is from -y and from x.
    offsets = np.array(seen)
    assert len(offsets) > 200
    assert -0.2 <= offsets[:, 0].min() < -0.18
    assert -0.02 < offsets[:, 0].max() <= 0
    assert 0 <= offsets[:, 1].min() < 0.02
    assert 0.18 < offsets[:, 1].max() <= 0.2

    controller.set_target(start, env.cell_position((1, 2)))
    force, _ = controller.act(np.array([*(beside + 0.05), 0.0, 0.0]))
    np.testing.assert_allclose(force, [-0.5, -0.5], atol=1e-9)
    env.close()


def test_collecting_is_fixed_by_its_arguments(umaze: DatasetName, umaze_data: FlatDataset) -> None:
    assert collect_maze2d(umaze, 3000, seed=0).fingerprint == umaze_data.fingerprint
    others = [
        collect_maze2d(umaze, 3000, seed=1),
        collect_maze2d(umaze, 3000, seed=0, noisy=True),
        collect_maze2d(umaze, 2999, seed=0),
    ]
    assert len({data.fingerprint for data in [umaze_data, *others]}) == 4


def test_episodes_are_a_stream_that_is_never_reset(umaze_data: FlatDataset) -> None:
    data = umaze_data
    jumps = np.linalg.norm(np.diff(data.observations[:, :2], axis=0), axis=1)
    between = data.bounds[1:-1] - 1
    assert np.delete(jumps, between).max() < STEP
    # An episode begins where the last one ended, unless one-step episodes between were dropped.
    starts, ends = data.observations[data.bounds[1:-1]], data.observations[between]
    assert np.abs(starts - ends)[:, :2].max() < 5 * STEP
    assert np.all(starts == ends, axis=1).mean() > 0.7
    assert np.diff(data.bounds).min() >= 3
    assert not data.terminated.any()
    assert 2800 < data.transitions <= 3000
    assert 10 < data.episodes < 100


def test_every_recorded_force_leads_to_the_recorded_state(umaze_data: FlatDataset) -> None:
    data = umaze_data
    env = Maze2d(get_task("maze2d-umaze-v1"))
    env.reset(seed=0)
    for first, end in list(zip(data.bounds[:-1], data.bounds[1:], strict=True))[:3]:
        start = data.observations[first].astype(np.float64)
        env._maze.point_env.set_state(start[:2], start[2:])
        for row in range(first, end - 1):
            state = env.step(data.actions[row].astype(np.float64))[0]
            np.testing.assert_allclose(data.observations[row + 1], state, atol=2e-3)
    env.close()


@pytest.mark.parametrize("kind", ["", "-dense"])
def test_rewards_are_those_of_the_evaluation_goal_on_the_state_before_the_step(kind: str) -> None:
    name = parse_dataset_name(f"local/maze2d-umaze{kind}-v1")
    data = collect_maze2d(name, 1500, seed=2, noisy=True)
    distance = np.linalg.norm(data.observations[:, :2] - np.array([-0.8, 0.8]), axis=1)
    expected = np.exp(-distance) if kind else (distance <= 0.5).astype(np.float64)
    final = np.zeros(len(expected), dtype=bool)
    final[data.bounds[1:] - 1] = True
    expected[final] = 0
    clear = np.abs(distance - 0.5) > 1e-6
    np.testing.assert_allclose(data.rewards[clear], expected[clear], atol=1e-6)
    assert 0 < expected.mean() < 1
    assert not data.actions[final].any()
    assert np.abs(data.actions).max() <= 1


def test_action_noise_has_standard_deviation_one_half(umaze: DatasetName) -> None:
    quiet = collect_maze2d(umaze, 4000, seed=5)
    noisy = collect_maze2d(umaze, 4000, seed=5, noisy=True)

    def roughness(data: FlatDataset) -> float:
        """Standard deviation of a force around its neighbours, where none is clipped."""
        steps = np.diff(data.actions, n=2, axis=0)
        free = np.abs(data.actions[2:]).max(1) < 1
        free &= np.abs(data.actions[1:-1]).max(1) < 1
        free &= np.abs(data.actions[:-2]).max(1) < 1
        return float(np.median(np.abs(steps[free])) / 0.6745 / np.sqrt(6))

    assert roughness(quiet) < 0.1
    # Clipping cuts off the larger noise, so the spread that is left is below 0.5.
    assert 0.3 < roughness(noisy) < 0.55


def test_the_first_target_does_not_depend_on_the_start(umaze: DatasetName) -> None:
    env = Maze2d(umaze.task)
    stays = 0
    for seed in range(12):
        data = collect_maze2d(umaze, 150, seed=seed)
        first = data.observations[: data.bounds[1], :2].astype(np.float64)
        start = env.reset(seed=seed)[0][:2]
        at_start = np.linalg.norm(first[0] - start) < 1e-6
        stays += not at_start or env.cell_at(first[0]) == env.cell_at(first[-1])
    # One target in seven is in the cell of the start: 12 of 12 happen once in 10^10 tries.
    assert stays < 12
    env.close()


@pytest.mark.parametrize("transitions", [-1, 0, 1])
def test_fewer_than_two_transitions_are_refused(umaze: DatasetName, transitions: int) -> None:
    with pytest.raises(ValueError, match=f"2 or more, found {transitions}"):
        collect_maze2d(umaze, transitions)


def test_data_too_short_to_keep_an_episode_say_so(umaze: DatasetName) -> None:
    def outcome(seed: int) -> str:
        try:
            return f"{collect_maze2d(umaze, 2, seed=seed).transitions} transitions kept"
        except DataError as error:
            return str(error)

    for seed in range(8):
        assert re.search("^2 transitions kept|2 transitions hold no episode", outcome(seed))
