"""AntMaze: layout, starts, goals, and an episode that ends when the goal is reached."""

from __future__ import annotations

import numpy as np
import pytest

from ractd_core.envs import AntMaze
from ractd_core.tasks import get_task

# Start and goal cells of D4RL's test mazes, and the mazes' shapes.
CELLS = {
    "antmaze-umaze-v2": ((1, 1), (3, 1), (5, 5)),
    "antmaze-umaze-diverse-v2": ((1, 1), (3, 1), (5, 5)),
    "antmaze-medium-play-v2": ((1, 1), (6, 6), (8, 8)),
    "antmaze-large-diverse-v2": ((1, 1), (7, 9), (9, 12)),
}


@pytest.fixture(scope="module")
def env() -> AntMaze:
    return AntMaze(get_task("antmaze-umaze-v2"))


def centre(cell: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """A cell's x, y: 4 m wide cells around the maze's centre, y upwards."""
    return 4 * (cell[1] + 0.5 - shape[1] / 2), 4 * (shape[0] / 2 - cell[0] - 0.5)


@pytest.mark.parametrize("name", CELLS)
def test_starts_and_goals_are_d4rls(name: str) -> None:
    env = AntMaze(get_task(name))
    start_cell, goal_cell, shape = CELLS[name]
    np.testing.assert_allclose(env.goal, centre(goal_cell, shape))
    starts, goals = [], []
    for seed in range(300):
        starts.append(env.reset(seed=seed)[0])
        goals.append(env.goal)
    # Joint noise U(-0.1, 0.1), velocities 0.1 N(0, 1).
    offsets = np.array(starts)[:, :2] - centre(start_cell, shape)
    assert np.abs(offsets).max() <= 0.1
    assert np.std(offsets) == pytest.approx(0.2 / np.sqrt(12), rel=0.1)
    assert np.std(np.array(starts)[:, 15:]) == pytest.approx(0.1, rel=0.05)
    # The goal's offset is U(0, 1) + U(0, 0.5) along D4RL's axes, x and downwards.
    moved = (np.array(goals) - centre(goal_cell, shape)) * [1, -1]
    assert 0 <= moved.min() < 0.1
    assert 1.3 < moved.max() <= 1.5
    np.testing.assert_allclose(moved.mean(0), 0.75, atol=0.06)
    np.testing.assert_allclose(moved.var(0), (1 + 0.25) / 12, rtol=0.25)
    env.close()


def test_walls_are_where_d4rl_has_them() -> None:
    env = AntMaze(get_task("antmaze-large-play-v2"))
    model = env._simulator.model
    walls = {model.geom(index).name for index in range(model.ngeom)}
    free = {(r, c) for r in range(9) for c in range(12) if f"block_{r}_{c}" not in walls}
    # HARDEST_MAZE_TEST of D4RL's maze_env.py, the free columns of each row.
    columns: list[list[int]] = [
        [],
        [1, 2, 3, 4, 6, 7, 8, 9, 10],
        [1, 4, 6, 8, 10],
        [1, 2, 3, 4, 5, 6, 8, 9, 10],
        [1, 6, 10],
        [1, 2, 4, 6, 7, 8, 9, 10],
        [2, 4, 6, 8],
        [1, 2, 4, 5, 6, 8, 9, 10],
        [],
    ]
    assert free == {(row, column) for row, found in enumerate(columns) for column in found}
    env.close()


def test_observations_are_positions_and_velocities(env: AntMaze) -> None:
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    for _ in range(20):
        observation = env.step(rng.uniform(-1, 1, 8))[0]
        simulator = env._simulator
        np.testing.assert_array_equal(observation[:15], simulator.data.qpos)
        np.testing.assert_array_equal(observation[15:], simulator.data.qvel)
        # What Gymnasium-Robotics' datasets hold, in the order D4RL's have.
        theirs = simulator._get_obs(simulator.ant_env._get_obs())
        both = np.concatenate([theirs["achieved_goal"], theirs["observation"][:27]])
        np.testing.assert_array_equal(observation, both)


def test_an_episode_ends_within_half_a_metre_of_the_goal(env: AntMaze) -> None:
    rng = np.random.default_rng(0)
    ended: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(60):
        env.reset(seed=seed)
        returned = env.step(np.zeros(8))[1]
        ant = env._simulator.ant_env
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.6)
        positions = ant.init_qpos.copy()
        positions[:2] = env.goal + radius * np.array([np.cos(angle), np.sin(angle)])
        ant.set_state(positions, np.zeros(14))
        observation, reward, terminated, truncated, _ = env.step(np.zeros(8))
        assert terminated == (reward == 1)
        assert returned + reward in {0.0, 1.0}
        assert not truncated
        ended[terminated].append(float(np.linalg.norm(observation[:2] - env.goal)))
    # Gymnasium-Robotics would end some 5 cm later.
    assert 0.48 < max(ended[True]) <= 0.5 < min(ended[False]) < 0.52
