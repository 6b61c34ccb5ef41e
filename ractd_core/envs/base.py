"""The protocol every evaluation environment follows, and how its simulator is made.

Gymnasium's wrappers check spaces, count steps and warn on every call; evaluation needs none of it,
so environments step the bare simulator and count for themselves.
"""

from __future__ import annotations

import contextlib
import io
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ractd_core.tasks import Task

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    # The import prints a notice about Adroit rewards, which are corrected where they are used.
    import gymnasium_robotics

Array = NDArray[np.float64]


def make_simulator(env_id: str, **options: Any) -> Any:
    """The Gymnasium environment ``env_id`` without its wrappers; ``options`` go to its class."""
    gym.register_envs(gymnasium_robotics)
    return gym.make(env_id, **options).unwrapped


class D4RLEnv(gym.Env[Array, Array], ABC):
    """D4RL's evaluation protocol for one task; there is one subclass per domain.

    Observations are float64 (task.obs_dim,), actions (task.act_dim,) are clipped to [-1, 1], and an
    episode is truncated at ``task.max_episode_steps``. ``goal`` is the position (x, y) to reach in
    metres, (2,), where a policy is given one, and None elsewhere. Raises ValueError for a task of
    another domain.
    """

    domain: ClassVar[str]
    goal: Array | None = None

    def __init__(self, task: Task) -> None:
        if task.domain != self.domain:
            raise ValueError(f"{task.name} is a {task.domain} task, not a {self.domain} one")
        self.task = task
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (task.obs_dim,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (task.act_dim,), np.float64)
        self._simulator: Any = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode.

        ``seed`` fixes all of it, whatever was played before; without one the random streams go on.
        """
        super().reset(seed=seed)
        self._steps = 0
        return self._start(seed), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated and info after one control step."""
        observation, reward, terminated, info = self._advance(np.clip(action, -1.0, 1.0))
        self._steps += 1
        truncated = self._steps >= self.task.max_episode_steps
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Free the simulator."""
        self._simulator.close()

    @abstractmethod
    def _start(self, seed: int | None) -> Array:
        """Reset the simulator to a start of D4RL's distribution and observe it."""

    @abstractmethod
    def _advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        """Observation, reward, terminated and info after a step with an action in [-1, 1]."""
