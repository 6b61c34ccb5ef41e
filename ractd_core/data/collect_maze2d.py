"""Collect a maze2d dataset by D4RL's recipe (``generate_maze2d_datasets.py``).

One ball is driven from target to target without ever being reset. An episode ends where the target
is reached (or the step limit passes) and a new one is drawn. Rewards are then relabelled for the
evaluation goal, on the state before the step, as D4RL does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.waypoints import WaypointController
from ractd_core.envs import Maze2d
from ractd_core.tasks import DatasetName

_PROGRESS_EVERY = 10_000
_ACTION_NOISE = 0.5


def collect_maze2d(
    name: DatasetName,
    transitions: int,
    *,
    seed: int = 0,
    noisy: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> FlatDataset:
    """Drive the ball for ``transitions`` steps (10 ms each) and cut the stream into episodes.

    ``noisy`` adds N(0, 0.5) to the actions, D4RL's ``--noisy``. ``progress`` is called with the
    number of steps done. Raises ValueError for fewer than two transitions and :class:`DataError` if
    they hold no episode of two steps.
    """
    if transitions < 2:
        raise ValueError(f"transitions must be 2 or more, found {transitions}")
    env = Maze2d(name.task)
    # A stream of its own: the environment draws its start from ``seed`` itself.
    rng = np.random.default_rng([seed, 1])
    controller = WaypointController(env, rng)
    states = np.empty((transitions + 1, 4))
    actions = np.empty((transitions, 2))
    ends: list[int] = []

    state, _ = env.reset(seed=seed)
    states[0] = state
    controller.set_target(state[:2], env.random_position(rng))
    since_target = 0
    for step in range(transitions):
        action, arrived = controller.act(state)
        if noisy:
            action = np.clip(action + _ACTION_NOISE * rng.normal(size=2), -1, 1)
        state = env.step(action)[0]
        actions[step], states[step + 1] = action, state
        since_target += 1
        if arrived or since_target > name.task.max_episode_steps:
            ends.append(step + 1)
            controller.set_target(state[:2], env.random_position(rng))
            since_target = 0
        if (step + 1) % _PROGRESS_EVERY == 0:
            progress(step + 1)
    env.close()
    if not ends or ends[-1] != transitions:
        ends.append(transitions)
    return _cut(name, states, actions, env.reward(states), np.array(ends))


def _cut(
    name: DatasetName,
    states: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    ends: np.ndarray,
) -> FlatDataset:
    """Lay the stream out episode by episode, dropping one-step ones (new target = present cell)."""
    starts = np.concatenate([[0], ends[:-1]])
    keep = (ends - starts) > 1
    starts, ends = starts[keep], ends[keep]
    if len(ends) == 0:
        raise DataError(f"{name}: {len(actions)} transitions hold no episode; ask for more")
    rows = np.concatenate([np.arange(a, b + 1) for a, b in zip(starts, ends, strict=True)])
    bounds = np.concatenate([[0], np.cumsum(ends - starts + 1)])
    final = np.zeros(len(rows), dtype=bool)
    final[bounds[1:] - 1] = True
    padded = np.concatenate([actions, np.zeros((1, 2))])
    return FlatDataset(
        name=name,
        observations=states[rows].astype(np.float32),
        actions=np.where(final[:, None], 0.0, padded[rows]).astype(np.float32),
        rewards=np.where(final, 0.0, rewards[rows]).astype(np.float32),
        bounds=bounds.astype(np.int64),
        terminated=np.zeros(len(ends), dtype=np.bool_),
    )
