"""HalfCheetah, Hopper and Walker2d as D4RL's ``-v2`` tasks have them, which is Gymnasium's v4.

Gymnasium's v5 differs in two ways, both undone here: Walker2d has another model file, with more
friction on one foot, and the step on which Hopper or Walker2d falls no longer pays the alive bonus.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ractd_core.envs.base import Array, D4RLEnv, make_simulator
from ractd_core.tasks import Task


class Locomotion(D4RLEnv):
    """Run forward without falling; the return is distance and alive bonus less control cost.

    Observations are joint positions (without x) and velocities, HalfCheetah and Walker2d (17,),
    Hopper (11,); actions are torques, (6,) and (3,). Hopper and Walker2d terminate when they fall.
    Raises ValueError for a task of another domain.
    """

    domain: ClassVar[str] = "mujoco"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        walker = task.env_id.startswith("Walker2d")
        options = {"xml_file": "walker2d.xml"} if walker else {}
        self._simulator = make_simulator(task.env_id, **options)
        # HalfCheetah cannot fall and has no bonus.
        self._alive_bonus = float(getattr(self._simulator, "_healthy_reward", 0.0))

    def _start(self, seed: int | None) -> Array:
        return self._simulator.reset(seed=seed)[0]

    def _advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        observation, reward, terminated, _, info = self._simulator.step(action)
        return observation, float(reward) + self._alive_bonus * terminated, bool(terminated), info
