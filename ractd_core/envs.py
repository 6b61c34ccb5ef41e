"""Evaluation environments that follow each domain's D4RL protocol.

Maze2d (D4RL ``maze_model.py``): the ball starts at a uniformly drawn free cell, the goal's cell
included, with position noise U(-0.1, 0.1) and velocity noise N(0, 0.1); the goal is a fixed cell;
a step pays 1 within 0.5 of it (sparse) or exp(-distance) (dense); nothing ends the episode but the
step limit. Gymnasium-Robotics' PointMaze has the same physics but another protocol, so the pieces
that differ are replaced here.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ractd_core.tasks import Task

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    # The import prints a notice about Adroit rewards, which are corrected where they are used.
    import gymnasium_robotics

Array = NDArray[np.float64]

GOAL_RADIUS = 0.5
_GOAL_CELLS = {"umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
_START_NOISE = 0.1
_WALL_OFFSET = 0.2
"""D4RL centres walls 0.2 below the integer grid, so its "cell positions" are off the centre."""


class Maze2d(gym.Env[Array, Array]):
    """D4RL's maze2d evaluation protocol in PointMaze's coordinates.

    Observations are (x, y, vx, vy), shape (4,), in metres and metres per second; actions are
    forces, shape (2,), clipped to [-1, 1]. Raises ValueError for a task of another domain.
    """

    def __init__(self, task: Task) -> None:
        if task.domain != "maze2d":
            raise ValueError(f"{task.name} is a {task.domain} task, not a maze2d one")
        gym.register_envs(gymnasium_robotics)
        maze: Any = gym.make(
            task.env_id, continuing_task=True, reset_target=False, max_episode_steps=None
        )
        # The wrappers check spaces on every step; the physics needs none of it.
        self._maze = maze.unwrapped
        # The simulator has read its model by now; left alone, the file would stay for ever.
        Path(self._maze.tmp_xml_file_path).unlink(missing_ok=True)
        grid = self._maze.maze
        self._shape = (grid.map_length, grid.map_width)
        self.task = task
        self.free_cells = [
            (row, column)
            for row in range(grid.map_length)
            for column in range(grid.map_width)
            if grid.maze_map[row][column] != 1
        ]
        self.goal = self.cell_position(_GOAL_CELLS[task.name.split("-")[1]])
        self._dense = "-dense-" in task.name
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)
        self._steps = 0

    def cell_position(self, cell: tuple[int, int]) -> Array:
        """D4RL's integer position of (row, column) as PointMaze x, y."""
        length, width = self._shape
        offset = 0.5 + _WALL_OFFSET
        return np.array([cell[1] + offset - width / 2, length / 2 - cell[0] - offset])

    def cell_at(self, position: Array) -> tuple[int, int]:
        """The free cell whose D4RL position is nearest to ``position``."""
        positions = np.array([self.cell_position(cell) for cell in self.free_cells])
        return self.free_cells[int(np.argmin(np.linalg.norm(positions - position, axis=1)))]

    def random_position(self, rng: np.random.Generator) -> Array:
        """A free cell's position plus U(-0.1, 0.1), as D4RL draws starts and targets."""
        cell = self.free_cells[int(rng.integers(len(self.free_cells)))]
        return self.cell_position(cell) + rng.uniform(-_START_NOISE, _START_NOISE, 2)

    def reward(self, observations: Array) -> Array:
        """Reward of states (..., 4): 0 or 1 within 0.5 of the goal, or exp(-distance) if dense."""
        distance = np.linalg.norm(observations[..., :2] - self.goal, axis=-1)
        return np.exp(-distance) if self._dense else (distance <= GOAL_RADIUS).astype(np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode; the same seed gives the same start."""
        super().reset(seed=seed)
        self._maze.reset(seed=seed)
        self._maze.goal = self.goal.copy()
        self._maze.update_target_site_pos()
        position = self.random_position(self.np_random)
        velocity = self.np_random.normal(size=2) * _START_NOISE
        self._maze.point_env.set_state(position, velocity)
        self._steps = 0
        return self._observation(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply a force for 10 ms. Never terminates; truncates at the task's step limit."""
        observation = cast(Array, self._maze.point_env.step(action)[0])
        self._steps += 1
        truncated = self._steps >= self.task.max_episode_steps
        return observation, float(self.reward(observation)), False, truncated, {}

    def close(self) -> None:
        """Free the simulator."""
        self._maze.close()

    def _observation(self) -> Array:
        data = self._maze.data
        return np.concatenate([data.qpos, data.qvel])


def make_env(task: Task) -> Maze2d:
    """The evaluation environment of ``task``; ValueError if its domain has none here."""
    return Maze2d(task)
