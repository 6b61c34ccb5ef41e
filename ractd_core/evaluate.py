"""Seeded evaluation: one environment per episode seed, batched policy calls, true returns.

An episode is fixed by its seed, to the last bit, whoever plays beside it: its environment and its
noise are seeded, and its observation always has the same row, ``seed mod lanes``, in a network
call that always has all the policy's lanes as rows. (Matrix products round differently for other
shapes or rows, and a legged robot turns the last bit into another return.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from ractd_core.data.flat import FlatDataset
from ractd_core.envs import Array, D4RLEnv, make_env
from ractd_core.policy import LANES, Policy
from ractd_core.tasks import DatasetName, Task, TaskError


class Steps(NamedTuple):
    """One episode of T steps: (T + 1, obs_dim), (T, act_dim) as the environment clips, and (T,)."""

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """Episodes by seed: ``returns`` is the sum of the environment's own rewards to the first end.

    All arrays have shape (episodes,); ``terminated`` says that an episode ended by itself and not
    by the step limit. ``steps`` are there if they were recorded.
    """

    task: Task
    seeds: NDArray[np.int64]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    steps: tuple[Steps, ...] = ()

    def dataset(self) -> FlatDataset:
        """The episodes as they were played; ValueError if their steps were not recorded."""
        if not self.steps:
            raise ValueError("these episodes were not recorded; evaluate with record=True")
        # An episode's last row is its final state: no action, no reward.
        final = np.zeros((1, self.task.act_dim), dtype=np.float32)
        return FlatDataset(
            name=DatasetName("played", self.task),
            observations=np.concatenate([each.observations for each in self.steps]),
            actions=np.concatenate([rows for each in self.steps for rows in (each.actions, final)]),
            rewards=np.concatenate([np.append(each.rewards, final[0, 0]) for each in self.steps]),
            bounds=np.concatenate([[0], np.cumsum(self.lengths + 1)]),
            terminated=self.terminated,
        )

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
        """One line per episode: seed, return, score, length, terminated (0 or 1)."""
        rows = zip(
            self.seeds, self.returns, self.scores, self.lengths, self.terminated, strict=True
        )
        lines = [f"{s},{ret:.6g},{score:.6g},{n},{end:d}" for s, ret, score, n, end in rows]
        return "\n".join(["seed,return,score,length,terminated", *lines]) + "\n"


def evaluate(
    policy: Policy,
    dataset: DatasetName,
    seeds: Sequence[int],
    *,
    batch: int = LANES,
    record: bool = False,
) -> Evaluation:
    """Play exactly one episode per seed, at most ``batch`` at the same time.

    Neither ``batch`` nor the order of the seeds changes a return. Where several workers train
    together each plays a share, and all get the whole. ``record`` keeps every step. Raises
    ValueError if ``seeds`` is empty or ``batch`` below 1, and
    :class:`~ractd_core.tasks.TaskError` if policies trained on ``dataset`` cannot be scored.
    """
    if dataset.refusal is not None:
        raise TaskError(dataset.refusal)
    if not seeds:
        raise ValueError("no evaluation seeds")
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, found {batch}")
    order = np.array(seeds, dtype=np.int64)
    if not dist.is_initialized():
        return _Play(policy, dataset.task, order, batch, record).result()
    mine = np.array_split(order, dist.get_world_size())[dist.get_rank()]
    own = _Play(policy, dataset.task, mine, batch, record).result()
    shares: list[Evaluation] = [own] * dist.get_world_size()
    dist.all_gather_object(shares, own)
    columns = {
        key: np.concatenate([getattr(share, key) for share in shares])
        for key in ("seeds", "returns", "lengths", "terminated")
    }
    steps = tuple(each for share in shares for each in share.steps)
    return Evaluation(dataset.task, **columns, steps=steps)


_pool: dict[str, list[D4RLEnv]] = {}
"""Environments that nobody plays in, by task: building one costs more than an episode."""


class _Play:
    """One environment per running episode; a lane takes its next episode when one has ended."""

    def __init__(
        self, policy: Policy, task: Task, seeds: NDArray[np.int64], batch: int, record: bool
    ) -> None:
        self.policy, self.task, self.seeds, self.batch = policy, task, seeds, batch
        self.waiting: dict[int, deque[int]] = {}
        for episode, seed in enumerate(seeds):
            self.waiting.setdefault(int(seed) % policy.lanes, deque()).append(episode)
        self.running: dict[int, tuple[int, D4RLEnv]] = {}
        self.observations = np.zeros((policy.lanes, task.obs_dim))
        self.goals = np.zeros((policy.lanes, 2))
        self.returns = np.zeros(len(seeds))
        self.lengths = np.zeros(len(seeds), dtype=np.int64)
        self.terminated = np.zeros(len(seeds), dtype=np.bool_)
        self.traces = [_Trace() for _ in seeds] if record else []

    def result(self) -> Evaluation:
        """Play all episodes to their ends."""
        try:
            while self.waiting or self.running:
                self._start()
                self._step(self.policy.act(self.observations))
        finally:
            _pool.setdefault(self.task.name, []).extend(env for _, env in self.running.values())
        steps = tuple(trace.steps() for trace in self.traces)
        return Evaluation(self.task, self.seeds, self.returns, self.lengths, self.terminated, steps)

    def _start(self) -> None:
        idle = [lane for lane in self.waiting if lane not in self.running]
        lanes = idle[: self.batch - len(self.running)]
        if not lanes:
            return
        pool = _pool.setdefault(self.task.name, [])
        seeds = []
        for lane in lanes:
            episode = self.waiting[lane].popleft()
            if not self.waiting[lane]:
                del self.waiting[lane]
            env = pool.pop() if pool else make_env(self.task)
            self.running[lane] = episode, env
            seeds.append(int(self.seeds[episode]))
            self.observations[lane] = env.reset(seed=seeds[-1])[0]
            if self.traces:
                self.traces[episode].observations.append(self.observations[lane].copy())
            if env.goal is not None:
                self.goals[lane] = env.goal
        has_goal = self.running[lanes[0]][1].goal is not None
        goals = self.goals if has_goal else None
        self.policy.start(np.array(lanes), self.observations, goals, seeds)

    def _step(self, actions: Array) -> None:
        for lane, (episode, env) in list(self.running.items()):
            observation, reward, terminated, truncated, _ = env.step(actions[lane])
            self.observations[lane] = observation
            self.returns[episode] += reward
            self.lengths[episode] += 1
            if self.traces:
                self.traces[episode].add(actions[lane], reward, self.observations[lane])
            if terminated or truncated:
                self.terminated[episode] = terminated
                _pool[self.task.name].append(env)
                del self.running[lane]


class _Trace:
    """An episode as it goes."""

    def __init__(self) -> None:
        self.observations: list[Array] = []
        self.actions: list[Array] = []
        self.rewards: list[float] = []

    def add(self, action: Array, reward: float, observation: Array) -> None:
        self.actions.append(np.clip(action, -1.0, 1.0))
        self.rewards.append(reward)
        self.observations.append(observation.copy())

    def steps(self) -> Steps:
        columns = (self.observations, self.actions, self.rewards)
        return Steps(*(np.array(column, dtype=np.float32) for column in columns))
