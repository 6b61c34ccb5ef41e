"""Seeded evaluation: one environment per episode seed, batched policy calls, true returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ractd_core.envs import Maze2d, make_env
from ractd_core.policy import PlanAndTrack
from ractd_core.tasks import Task, get_task

_BATCH = 25


@dataclass(frozen=True)
class Evaluation:
    """Episodes by seed: ``returns`` is the sum of the environment's own rewards to the first end.

    All arrays have shape (episodes,).
    """

    task: Task
    seeds: NDArray[np.int64]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Normalized scores, (episodes,)."""
        return self.task.normalized_score(self.returns)

    @property
    def score(self) -> float:
        """Mean normalized score."""
        return float(self.scores.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the episodes' scores (not of the mean)."""
        return float(self.scores.std(ddof=1)) if len(self.scores) > 1 else 0.0

    def csv(self) -> str:
        """One line per episode: seed, return, score, length."""
        rows = zip(self.seeds, self.returns, self.scores, self.lengths, strict=True)
        lines = [f"{seed},{ret:.6g},{score:.6g},{length}" for seed, ret, score, length in rows]
        return "\n".join(["seed,return,score,length", *lines]) + "\n"


@cache
def _environments(task: str, count: int) -> list[Maze2d]:
    """Kept for the next evaluation in this process: building one costs more than an episode."""
    return [make_env(get_task(task)) for _ in range(count)]


def evaluate(policy: PlanAndTrack, task: Task, seeds: Sequence[int]) -> Evaluation:
    """Play exactly one episode per seed.

    An episode is fixed by its seed: start, sampling noise and dynamics. Raises ValueError if
    ``seeds`` is empty.
    """
    if not seeds:
        raise ValueError("no evaluation seeds")
    returns, lengths = [], []
    for first in range(0, len(seeds), _BATCH):
        batch = list(seeds[first : first + _BATCH])
        total, steps = _play(policy, _environments(task.name, _BATCH)[: len(batch)], batch)
        returns.append(total)
        lengths.append(steps)
    return Evaluation(task, np.array(seeds), np.concatenate(returns), np.concatenate(lengths))


def _play(
    policy: PlanAndTrack, envs: list[Maze2d], seeds: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    observations = np.stack([env.reset(seed=s)[0] for env, s in zip(envs, seeds, strict=True)])
    policy.reset(observations, np.stack([env.goal for env in envs]), seeds)
    returns = np.zeros(len(envs))
    lengths = np.zeros(len(envs), dtype=np.int64)
    running = np.ones(len(envs), dtype=bool)
    while running.any():
        actions = policy.act(observations)
        for index in np.flatnonzero(running):
            observation, reward, terminated, truncated, _ = envs[index].step(actions[index])
            observations[index] = observation
            returns[index] += reward
            lengths[index] += 1
            running[index] = not (terminated or truncated)
    return returns, lengths
