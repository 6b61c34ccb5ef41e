"""Kitchen: a Franka arm completes four sub-tasks in any order (D4RL ``kitchen_envs.py``).

Observations, noise and goals are D4RL's: Gymnasium-Robotics observes velocities too, puts a tenth
of the noise on the arm and next to none on the objects. The arm's noise also enters its control,
as there. Returns count each sub-task once; rewards in D4RL's files count, on every row, the
sub-tasks that are in their goal state, so sums of the two must not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ractd_core.envs.base import Array, D4RLEnv, make_simulator
from ractd_core.tasks import Task

_NOISE_RATIO = 0.1
_ROBOT_JOINTS = 9
_POSITIONS = 30
_COMPLETED_WITHIN = 0.3
_LAST_KETTLE_NOISE = 0.005
"""D4RL's amplitude for position 29; the simulator reads one per velocity, of which it has 29."""

ELEMENTS = {
    "bottom burner": slice(11, 13),
    "light switch": slice(17, 19),
    "slide cabinet": slice(19, 20),
    "microwave": slice(22, 23),
    "kettle": slice(23, 30),
}
"""Which of the 30 joint positions each sub-task is about."""

GOALS = {
    "bottom burner": (-0.88, -0.01),
    "light switch": (-0.69, -0.05),
    "slide cabinet": (0.37,),
    "microwave": (-0.75,),
    "kettle": (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06),
}
"""What those positions should be: radians, metres, and the kettle's x, y, z and quaternion."""

SUBTASKS = {
    "kitchen-complete-v0": ("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-partial-v0": ("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-mixed-v0": ("microwave", "kettle", "bottom burner", "light switch"),
}
"""The four sub-tasks of each task."""


def completed_subtasks(
    observations: NDArray[np.floating[Any]], subtasks: Sequence[str]
) -> NDArray[np.bool_]:
    """Which of the sub-tasks are in their goal state, bool (..., sub-tasks).

    ``observations`` are (..., 60), those of D4RL's files among them. A sub-task is complete when
    its positions are within 0.3 of its goal in Euclidean distance. Raises KeyError for a sub-task
    that is not in :data:`ELEMENTS`.
    """
    distances = [
        np.linalg.norm(observations[..., ELEMENTS[name]] - np.array(GOALS[name]), axis=-1)
        for name in subtasks
    ]
    return np.stack(distances, axis=-1) < _COMPLETED_WITHIN


class Kitchen(D4RLEnv):
    """D4RL's kitchen evaluation protocol.

    Observations (60,) are 9 noisy joint positions of the arm, 21 of the objects, and 30 goal
    positions, zero but for the four sub-tasks; actions (9,) are joint velocities in units of
    2 rad/s for 80 ms. A step pays the number of sub-tasks it completes for the first time, and
    completing the fourth terminates the episode; ``info["completed"]`` names those done so far.
    Raises ValueError for a task of another domain.
    """

    domain: ClassVar[str] = "kitchen"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.subtasks = SUBTASKS[task.name]
        self._simulator = make_simulator(
            task.env_id, robot_noise_ratio=_NOISE_RATIO, object_noise_ratio=0.0
        )
        amplitudes = self._simulator.robot_env.robot_pos_noise_amp
        self._object_noise = _NOISE_RATIO * np.append(
            amplitudes[_ROBOT_JOINTS:], _LAST_KETTLE_NOISE
        )
        self._goal_positions = np.zeros(_POSITIONS)
        for name in self.subtasks:
            self._goal_positions[ELEMENTS[name]] = GOALS[name]
        self._completed = np.zeros(len(self.subtasks), dtype=bool)

    def _start(self, seed: int | None) -> Array:
        self._completed = np.zeros(len(self.subtasks), dtype=bool)
        return self._observation(self._simulator.reset(seed=seed)[0]["observation"])

    def _advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        observation = self._observation(self._simulator.step(action)[0]["observation"])
        now = completed_subtasks(observation, self.subtasks)
        reward = float(np.sum(now & ~self._completed))
        self._completed |= now
        names = [self.subtasks[index] for index in np.flatnonzero(self._completed)]
        return observation, reward, bool(self._completed.all()), {"completed": names}

    def _observation(self, simulated: Array) -> Array:
        """D4RL's vector (60,) from the simulator's (59,), in which velocities are interleaved."""
        robot, objects = simulated[:_ROBOT_JOINTS], simulated[18:39]
        # The arm's own stream: a second one with the same seed would repeat its numbers.
        rng = self._simulator.robot_env.np_random
        noise = self._object_noise * rng.uniform(-1.0, 1.0, len(objects))
        return np.concatenate([robot, objects + noise, self._goal_positions])
