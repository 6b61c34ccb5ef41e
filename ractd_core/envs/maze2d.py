"""Maze2d: a ball pushed through a maze to a fixed goal (D4RL ``maze_model.py``).

The ball starts at a uniformly drawn free cell, the goal's cell included, with position noise
U(-0.1, 0.1) and velocity noise N(0, 0.1); the goal is a fixed cell; a step pays 1 within 0.5 of it
(sparse) or exp(-distance) (dense); nothing ends the episode but the step limit. Gymnasium-Robotics'
PointMaze has the same physics but another protocol, so the pieces that differ are replaced here.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np

from ractd_core.envs.base import Array, D4RLEnv
from ractd_core.envs.mazes import GOAL_RADIUS, make_maze
from ractd_core.tasks import Task

_GOAL_CELLS = {"umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
_START_NOISE = 0.1
_WALL_OFFSET = 0.2
"""D4RL centres walls 0.2 below the integer grid, so its "cell positions" are off the centre."""


class Maze2d(D4RLEnv):
    """D4RL's maze2d evaluation protocol in PointMaze's coordinates.

    Observations are (x, y, vx, vy), shape (4,), in metres and metres per second; actions are
    forces, shape (2,), clipped to [-1, 1] and applied for 10 ms. Raises ValueError for a task of
    another domain.
    """

    domain: ClassVar[str] = "maze2d"
    goal: Array

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._simulator = self._maze = make_maze(task.env_id)
        grid = self._maze.maze
        self._shape = (grid.map_length, grid.map_width)
        self.free_cells = [
            (row, column)
            for row in range(grid.map_length)
            for column in range(grid.map_width)
            if grid.maze_map[row][column] != 1
        ]
        self.goal = self.cell_position(_GOAL_CELLS[task.name.split("-")[1]])
        self._dense = "-dense-" in task.name

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

    def _start(self, seed: int | None) -> Array:
        self._maze.reset(seed=seed)
        self._maze.goal = self.goal.copy()
        self._maze.update_target_site_pos()
        position = self.random_position(self.np_random)
        velocity = self.np_random.normal(size=2) * _START_NOISE
        self._maze.point_env.set_state(position, velocity)
        return np.concatenate([self._maze.data.qpos, self._maze.data.qvel])

    def _advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        observation = cast(Array, self._maze.point_env.step(action)[0])
        return observation, float(self.reward(observation)), False, {}
