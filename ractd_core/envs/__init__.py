"""Evaluation environments that follow each domain's D4RL protocol.

Gymnasium and Gymnasium-Robotics supply the physics; what D4RL does otherwise (rewards, starts,
ends, observations) is put right here, and every module says what cannot be. All of them run on a
newer MuJoCo than D4RL's 2.0, whose contacts differ, so scores may shift by a few points.
"""

from __future__ import annotations

from ractd_core.envs.adroit import Adroit
from ractd_core.envs.antmaze import AntMaze
from ractd_core.envs.base import Array, D4RLEnv
from ractd_core.envs.kitchen import Kitchen, completed_subtasks
from ractd_core.envs.locomotion import Locomotion
from ractd_core.envs.maze2d import Maze2d
from ractd_core.envs.mazes import GOAL_RADIUS
from ractd_core.tasks import Task

__all__ = [
    "GOAL_RADIUS",
    "Adroit",
    "AntMaze",
    "Array",
    "D4RLEnv",
    "Kitchen",
    "Locomotion",
    "Maze2d",
    "completed_subtasks",
    "make_env",
]

_DOMAINS: dict[str, type[D4RLEnv]] = {
    env.domain: env for env in (Locomotion, Maze2d, AntMaze, Kitchen, Adroit)
}


def make_env(task: Task) -> D4RLEnv:
    """The evaluation environment of ``task``."""
    return _DOMAINS[task.domain](task)
