"""Adroit: a dexterous hand turns a pen, drives a nail, opens a door or moves a ball.

D4RL's ``-v1`` tasks pay the dense reward. Gymnasium-Robotics 1.2.1 to 1.4.2 have the wrong sign on
its reaching term, +0.1 instead of -0.1 times the distance from palm to object, in all but pen; and
their pen neither ends when it is dropped nor after D4RL's 100 steps. Both are put right here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from ractd_core.envs.base import Array, D4RLEnv, make_simulator
from ractd_core.tasks import Task

# Palm to object in metres, read off the observation.
_REACH: dict[str, Callable[[Array], Array]] = {
    "hammer": lambda observation: observation[33:36] - observation[36:39],
    "door": lambda observation: observation[35:38],
    "relocate": lambda observation: observation[30:33],
}
_REACH_WEIGHT = 0.1
_DROPPED_BELOW = 0.075


@cache
def _pays_for_distance(name: str, env_id: str) -> bool:
    """Whether the installed environment has the reaching term's wrong sign.

    Measured, because the release that corrects it may keep the version in the environment's name:
    the palm's site has no mass, so moving it changes the distance and nothing else.
    """
    simulator = make_simulator(env_id)
    palm = simulator.model.site("S_grasp").id
    rewards, distances = [], []
    for shift in (0.0, 1.0):
        simulator.model.site_pos[palm] += shift
        simulator.reset(seed=0)
        observation, reward, *_ = simulator.step(np.zeros(simulator.action_space.shape))
        rewards.append(reward)
        distances.append(np.linalg.norm(_REACH[name](observation)))
    simulator.close()
    return bool((rewards[1] - rewards[0]) * (distances[1] - distances[0]) > 0)


class Adroit(D4RLEnv):
    """D4RL's Adroit evaluation protocol.

    Observations are the hand's joint positions and the object's state, pen (45,), hammer (46,),
    door and relocate (39,); actions, (24,), (26,), (28,) and (30,), are joint positions scaled to
    [-1, 1]. Pen terminates when it falls below 0.075 m, the others never do. ``info["success"]``
    tells whether the task is in its goal state. Raises ValueError for a task of another domain.
    """

    domain: ClassVar[str] = "adroit"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._simulator = make_simulator(task.env_id)
        name = task.name.split("-")[0]
        self._pen = name == "pen"
        self._reach = _REACH.get(name)
        if self._reach is not None and not _pays_for_distance(name, task.env_id):
            self._reach = None

    def _start(self, seed: int | None) -> Array:
        return self._simulator.reset(seed=seed)[0]

    def _advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        observation, reward, _, _, info = self._simulator.step(action)
        if self._reach is not None:
            reward -= 2 * _REACH_WEIGHT * np.linalg.norm(self._reach(observation))
        height = self._simulator.data.xpos[self._simulator.obj_body_id][2] if self._pen else np.inf
        dropped = bool(height < _DROPPED_BELOW)
        return observation, float(reward), dropped, {"success": bool(info["success"])}
