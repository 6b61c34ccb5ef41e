"""Maze2d's evaluation protocol: geometry, starts, rewards, length and two published returns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ractd_core.data.waypoints import WaypointController
from ractd_core.envs import Maze2d
from ractd_core.tasks import get_task

# D4RL's maze strings (maze_model.py), O free, G goal.
MAZES = {
    "umaze": "##### #GOO# ###O# #OOO# #####",
    "medium": "######## #OO##OO# #OO#OOO# ##OOO### #OO#OOO# #O#OO#O# #OOO#OG# ########",
    "large": (
        "############ #OOOO#OOOOO# #O##O#O#O#O# #OOOOOO#OOO# #O####O###O# #OO#O#OOOOO# "
        "##O#O#O#O### #OO#OOO#OGO# ############"
    ),
}
STEPS = {"umaze": 300, "medium": 600, "large": 800}


@pytest.fixture(scope="module")
def umaze_env() -> Maze2d:
    return Maze2d(get_task("maze2d-umaze-v1"))


def d4rl_position(size: str, row: float, column: float) -> tuple[float, float]:
    """PointMaze's x, y of D4RL's qpos (row, column): x = p1 + 0.7 - W/2, y = L/2 - p0 - 0.7."""
    rows = MAZES[size].split()
    return column + 0.7 - len(rows[0]) / 2, len(rows) / 2 - row - 0.7


@pytest.mark.parametrize("size", MAZES)
@pytest.mark.parametrize("kind", ["", "-dense"])
def test_layout_goal_and_length_are_d4rls(size: str, kind: str) -> None:
    env = Maze2d(get_task(f"maze2d-{size}{kind}-v1"))
    rows = MAZES[size].split()
    free = [(r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark != "#"]
    assert env.free_cells == free
    (goal,) = [(r, c) for r, c in free if rows[r][c] == "G"]
    np.testing.assert_allclose(env.goal, d4rl_position(size, *goal), atol=1e-12)
    for cell in free:
        position = env.cell_position(cell)
        np.testing.assert_allclose(position, d4rl_position(size, *cell), atol=1e-12)
        assert env.cell_at(position + np.array([0.3, -0.3])) == cell

    env.reset(seed=0)
    for step in range(1, STEPS[size] + 1):
        observation, reward, terminated, truncated, _ = env.step(np.zeros(2))
        distance = float(np.hypot(*(observation[:2] - env.goal)))
        expected = np.exp(-distance) if kind else float(distance <= 0.5)
        assert reward == pytest.approx(expected, abs=1e-12)
        assert not terminated
        assert truncated == (step == STEPS[size])
    env.close()


def test_the_goals_radius_is_half_a_metre_and_inclusive(umaze_env: Maze2d) -> None:
    angles = np.linspace(0, 2 * np.pi, 33)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def around(radius: float) -> NDArray[np.float64]:
        still = np.zeros((len(circle), 2))
        return umaze_env.reward(np.concatenate([umaze_env.goal + radius * circle, still], axis=1))

    assert around(0.5 - 1e-9).tolist() == [1.0] * 33
    assert around(0.5 + 1e-9).tolist() == [0.0] * 33
    # Offsets that are exactly 0.5 away in floating point.
    exact = [
        state
        for offset in ([0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5], [0.3, 0.4])
        if np.linalg.norm((state := umaze_env.goal + offset) - umaze_env.goal) == 0.5
    ]
    assert exact
    for state in exact:
        assert umaze_env.reward(np.array([*state, 0.0, 0.0])) == 1.0


def test_rewards_of_a_batch_have_its_shape(umaze_env: Maze2d) -> None:
    batch = np.random.default_rng(0).normal(size=(3, 5, 4))
    rewards = umaze_env.reward(batch)
    assert rewards.shape == (3, 5)
    assert rewards[1, 2] == umaze_env.reward(batch[1, 2])


@pytest.mark.parametrize("name", ["maze2d-umaze-v1", "maze2d-umaze-dense-v1"])
def test_a_step_pays_for_the_state_it_leads_to(name: str) -> None:
    env = Maze2d(get_task(name))
    seed = next(s for s in range(99) if env.cell_at(env.reset(seed=s)[0][:2]) == (1, 1))
    state, _ = env.reset(seed=seed)
    differing = 0
    for _ in range(100):  # out of the goal's radius along the upper corridor
        after, reward, *_ = env.step(np.array([1.0, 0.0]))
        assert reward == float(env.reward(after))
        differing += reward != float(env.reward(state))
        state = after
    assert differing >= 1
    env.close()


def test_starts_are_uniform_over_free_cells_with_d4rls_noise(umaze_env: Maze2d) -> None:
    starts = np.array([umaze_env.reset(seed=seed)[0] for seed in range(2100)])
    cells = [umaze_env.cell_at(start[:2]) for start in starts]
    counts = Counter(cells)
    assert set(counts) == set(umaze_env.free_cells)
    assert (1, 1) in counts  # the goal's cell too
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3

    offsets = starts[:, :2] - np.array([umaze_env.cell_position(cell) for cell in cells])
    assert np.abs(offsets).max() <= 0.1
    for axis in (0, 1):
        uniform = stats.kstest(offsets[:, axis], stats.uniform(-0.1, 0.2).cdf)
        assert uniform.pvalue > 1e-3
        normal = stats.kstest(starts[:, 2 + axis], stats.norm(0, 0.1).cdf)
        assert normal.pvalue > 1e-3


def test_the_same_seed_plays_the_same_episode_in_fresh_and_used_environments(
    umaze_env: Maze2d,
) -> None:
    forces = np.random.default_rng(2).uniform(-1, 1, (100, 2))

    def episode(env: Maze2d) -> NDArray[np.float64]:
        states = [env.reset(seed=11)[0]]
        states.extend(env.step(force)[0] for force in forces)
        return np.array(states)

    used = episode(umaze_env)
    fresh = Maze2d(get_task("maze2d-umaze-v1"))
    np.testing.assert_array_equal(episode(fresh), used)
    np.testing.assert_array_equal(episode(umaze_env), used)
    assert not np.array_equal(umaze_env.reset(seed=12)[0], used[0])
    fresh.close()


def test_forces_are_clipped_and_speed_is_bounded(umaze_env: Maze2d) -> None:
    umaze_env.reset(seed=5)
    strong = umaze_env.step(np.array([7.0, -9.0]))[0]
    umaze_env.reset(seed=5)
    unit = umaze_env.step(np.array([1.0, -1.0]))[0]
    np.testing.assert_array_equal(strong, unit)
    for _ in range(300):
        state = umaze_env.step(np.array([1.0, -1.0]))[0]
        assert np.abs(state[2:]).max() < 5.5


@pytest.mark.parametrize(
    ("size", "reference", "largest_error"),
    [("umaze", 23.85, 9), ("medium", 13.13, 12), ("large", 6.7, 6)],
)
def test_a_random_policy_earns_d4rls_random_reference(
    size: str, reference: float, largest_error: float
) -> None:
    task = get_task(f"maze2d-{size}-v1")
    env = Maze2d(task)
    rng = np.random.default_rng(0)
    returns = []
    for seed in range(100):
        env.reset(seed=seed)
        forces = rng.uniform(-1, 1, (task.max_episode_steps, 2))
        returns.append(sum(env.step(force)[1] for force in forces))
    # D4RL's own number is a mean over 100 episodes, so both carry a standard error.
    error = float(np.std(returns, ddof=1)) * np.sqrt(1 / len(returns) + 1 / 100)
    assert error < largest_error
    assert np.mean(returns) == pytest.approx(reference, abs=2 * error)
    assert task.ref_min == reference
    env.close()


@pytest.mark.parametrize(
    ("size", "episodes", "score", "margin"),
    [("umaze", 40, 139, 15), ("medium", 16, 154, 17), ("large", 16, 202, 22)],
)
def test_the_waypoint_controller_earns_its_known_score(
    size: str, episodes: int, score: float, margin: float
) -> None:
    task = get_task(f"maze2d-{size}-v1")
    env = Maze2d(task)
    controller = WaypointController(env, np.random.default_rng(0))
    returns = []
    for seed in range(episodes):
        state, _ = env.reset(seed=seed)
        controller.set_target(state[:2], env.goal)
        total = 0.0
        for _ in range(task.max_episode_steps):
            state, reward, *_ = env.step(controller.act(state)[0])
            total += reward
        returns.append(total)
    assert task.normalized_score(returns).mean() == pytest.approx(score, abs=margin)
    env.close()
