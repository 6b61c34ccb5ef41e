"""AntMaze: an ant walks through a maze to a goal that is drawn anew for every episode.

As in D4RL's ``-v2`` tasks the ant starts in a fixed cell with noise on all joints, reaching the
goal pays 1 and ends the episode, and the goal lies in a fixed cell with a random offset (D4RL
``maze_env.py``, ``ant.py``). What cannot be reproduced: Gymnasium's ant has other gears and half
the control period, so a policy trained on D4RL's files cannot be scored here, and positions are
relative to the maze's centre with y upwards, not to the start cell with y downwards.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ractd_core.envs.base import Array, D4RLEnv
from ractd_core.envs.mazes import GOAL_RADIUS, make_maze
from ractd_core.tasks import Task

# D4RL's U_MAZE_TEST, BIG_MAZE_TEST and HARDEST_MAZE_TEST; r is the start and g the goal.
_MAZES = {
    "umaze": "##### #r00# ###0# #g00# #####",
    "medium": "######## #r0##00# #00#000# ##000### #00#000# #0#00#0# #000#0g# ########",
    "large": (
        "############ #r000#00000# #0##0#0#0#0# #000000#000# #0####0###0# #00#0#00000# "
        "##0#0#0#0### #00#000#0g0# ############"
    ),
}
_START_NOISE = 0.1


class AntMaze(D4RLEnv):
    """D4RL's antmaze evaluation protocol in Gymnasium-Robotics' coordinates.

    Observations (29,) are the ant's 15 positions, x and y in metres first, and 14 velocities;
    actions (8,) are torques for 50 ms. The return is 1 if x, y comes within 0.5 of ``goal`` and 0
    otherwise. ``goal`` is the present episode's, or the cell's centre before the first reset.
    Raises ValueError for a task of another domain.
    """

    domain: ClassVar[str] = "antmaze"
    goal: Array

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        rows = _MAZES[task.name.split("-")[1]].split()
        grid = [[1 if mark == "#" else 0 if mark == "0" else mark for mark in row] for row in rows]
        self._simulator = self._maze = make_maze(task.env_id, maze_map=grid)
        (self._start_cell,) = self._maze.maze.unique_reset_locations
        (self._goal_cell,) = self._maze.maze.unique_goal_locations
        self.goal = self._goal_cell.copy()

    def _start(self, seed: int | None) -> Array:
        self._maze.reset(seed=seed)
        rng = self.np_random
        # D4RL adds two offsets along its own axes, of which y points the other way.
        offset = rng.uniform(0.0, 1.0, 2) + rng.uniform(0.0, 0.5, 2)
        self.goal = self._goal_cell + offset * [1.0, -1.0]
        self._maze.goal = self.goal.copy()
        self._maze.update_target_site_pos()
        ant = self._maze.ant_env
        # The simulator's own reset has moved the initial x and y to a noisy start of its own.
        positions = np.concatenate([self._start_cell, ant.init_qpos[2:]])
        positions += rng.uniform(-_START_NOISE, _START_NOISE, len(positions))
        velocities = ant.init_qvel + _START_NOISE * rng.standard_normal(len(ant.init_qvel))
        ant.set_state(positions, velocities)
        return self._observation()

    def _advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        self._maze.ant_env.step(action)
        observation = self._observation()
        reached = bool(np.linalg.norm(observation[:2] - self.goal) <= GOAL_RADIUS)
        return observation, float(reached), reached, {}

    def _observation(self) -> Array:
        return np.concatenate([self._maze.data.qpos, self._maze.data.qvel])
