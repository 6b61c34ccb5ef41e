"""What a dataset holds, and what its own behaviour scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ractd_core.data.flat import FlatDataset
from ractd_core.envs.kitchen import SUBTASKS, completed_subtasks
from ractd_core.tasks import D4RL, MINARI

_SATURATED = 0.99


def behaviour_returns(data: FlatDataset) -> tuple[NDArray[np.float64], str]:
    """What the data's own behaviour earns by the task's protocol, and what was counted.

    Shape (n,): an episode's return; for Kitchen the number of distinct target sub-tasks that are
    done at some time; for AntMaze 1 if the goal's reward was ever paid; for mazes, whose episodes
    have other lengths than an evaluation's, the reward of successive stretches of that length.
    """
    task = data.name.task
    if task.domain == "maze2d":
        steps = task.max_episode_steps
        return data.stretch_returns(steps), f"stretches of {steps} steps"
    first = data.bounds[:-1]
    if task.domain == "kitchen":
        done = completed_subtasks(data.observations, SUBTASKS[task.name])
        return np.logical_or.reduceat(done, first).sum(axis=1).astype(np.float64), "episodes"
    # Each episode's last row has reward 0, so sums over rows are sums over transitions.
    returns = np.add.reduceat(data.rewards.astype(np.float64), first)
    if task.domain == "antmaze":
        returns = (np.maximum.reduceat(data.rewards, first) > 0).astype(np.float64)
    return returns, "episodes"


@dataclass(frozen=True)
class Spread:
    """Minimum, quartiles, maximum and mean of a sample."""

    min: float
    q25: float
    median: float
    q75: float
    max: float
    mean: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """Of a sample of any shape that is not empty."""
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        low, q25, median, q75, high = map(float, quantiles)
        return cls(low, q25, median, q75, high, float(np.mean(values, dtype=np.float64)))


@dataclass(frozen=True)
class DataReport:
    """What ``ractd data check`` prints.

    ``coverage`` is the share of [-1, 1] that each action dimension spans, ``saturated`` the share
    of action values beyond 0.99 in size; ``score`` holds normalized scores of the behaviour, by
    what ``counted`` says, and is None if no stretch is long enough.
    """

    dataset: str
    fingerprint: str
    transitions: int
    episodes: int
    terminated: int
    lengths: Spread
    rewards: Spread
    returns: Spread | None
    score: Spread | None
    counted: str
    observation_range: tuple[float, float]
    action_range: tuple[float, float]
    coverage: tuple[float, ...]
    saturated: float
    origin: dict[str, Any]
    notes: tuple[str, ...]


def check(data: FlatDataset, origin: Mapping[str, Any]) -> DataReport:
    """Describe a dataset that came from ``origin``; that it is well formed was checked before."""
    name, task = data.name, data.name.task
    is_transition = np.arange(len(data.rewards)) != data.last_rows
    actions = data.actions[is_transition]
    returns, counted = behaviour_returns(data)
    low, high = actions.min(axis=0), actions.max(axis=0)
    return DataReport(
        dataset=str(name),
        fingerprint=data.fingerprint,
        transitions=data.transitions,
        episodes=data.episodes,
        terminated=int(data.terminated.sum()),
        lengths=Spread.of(np.diff(data.bounds) - 1),
        rewards=Spread.of(data.rewards[is_transition]),
        returns=Spread.of(returns) if len(returns) else None,
        score=Spread.of(task.normalized_score(returns)) if len(returns) else None,
        counted=counted,
        observation_range=(float(data.observations.min()), float(data.observations.max())),
        action_range=(float(low.min()), float(high.max())),
        coverage=tuple(float(c) for c in (high.clip(-1, 1) - low.clip(-1, 1)) / 2),
        saturated=float((np.abs(actions) > _SATURATED).mean()),
        origin=dict(origin),
        notes=tuple(_notes(data, low, high, stored=bool(origin))),
    )


def _notes(data: FlatDataset, low: NDArray[Any], high: NDArray[Any], *, stored: bool) -> list[str]:
    """What a user should know before training on this dataset."""
    name, task = data.name, data.name.task
    notes = [] if name.refusal is None else [name.refusal]
    if stored and name.source != D4RL:
        notes.append(f"not D4RL's own data: scores are reported as {name}, never as {task.name}")
    if name.source == MINARI and task.domain == "adroit" and not task.name.startswith("pen"):
        notes.append(
            "Minari's rewards were probably recorded with the wrong sign of the reaching term; "
            "scores of policies are played with D4RL's"
        )
    if not stored and task.domain == "antmaze":
        notes.append("if it is D4RL's own, policies trained on it cannot be scored here")
    constant = np.flatnonzero(high - low < 1e-6)
    if len(constant):
        notes.append(f"action dimensions {constant.tolist()} are constant")
    if task.domain == "maze2d":
        return notes
    longest = int(np.diff(data.bounds).max()) - 1
    if longest > task.max_episode_steps:
        notes.append(
            f"episodes of up to {longest} steps, longer than an evaluation's "
            f"{task.max_episode_steps}"
        )
    return notes
