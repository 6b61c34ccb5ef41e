"""SAC on Gym-MuJoCo, the trainer of D4RL's behaviour policies.

D4RL's was rlkit's, which alternates stretches of playing with as many updates; so does this one,
episode by episode, with the networks and updates of Stable-Baselines3. Every random number comes
from (seed, step), so between episodes the networks, the optimizers and the episodes played are the
whole state: a learner given them goes on exactly as the one they were taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ractd_core.checkpoint import under_prefix, with_prefix
from ractd_core.data.flat import DataError, FlatDataset, Floats
from ractd_core.envs import D4RLEnv, make_env
from ractd_core.tasks import DatasetName

_WEIGHTS, _TRAINING, _EVALUATION = range(3)

Act = Callable[[Floats], Floats]
"""Observation, (obs_dim,), to action in [-1, 1], (act_dim,)."""
Progress = Callable[[str], None]

_REPORT_EVERY = 100_000


@dataclass(frozen=True)
class SacSettings:
    """SAC as D4RL trained it; all steps are environment steps.

    An evaluation is ``evaluation_episodes`` deterministic episodes, at the first episode end at or
    after every multiple of ``evaluate_every``. ``medium_score`` is the normalized score that makes
    a policy D4RL's "medium", a third of the expert's.
    """

    evaluate_every: int = 2500
    evaluation_episodes: int = 5
    warm_up: int = 1000
    medium_score: float = 100 / 3
    widths: tuple[int, ...] = (256, 256)
    batch_size: int = 256


def seeded(*key: int) -> np.random.Generator:
    """A generator that ``key`` alone determines; torch's global CPU one is set by it as well.

    The actor samples from the global one; callers wrap their use in ``torch.random.fork_rng``.
    """
    rng = np.random.default_rng(key)
    # Not torch.manual_seed, which would set the generators of GPUs too.
    torch.default_generator.manual_seed(int(rng.integers(2**32)))
    return rng


def uniform(act_dim: int, rng: np.random.Generator) -> Act:
    """Actions uniform in [-1, 1] whatever the observation, D4RL's ``action_space.sample()``."""
    return lambda observation: rng.uniform(-1, 1, act_dim).astype(np.float32)


def actor_policy(actor: Any, *, deterministic: bool = False) -> Act:
    """A SAC actor's mode, or samples by torch's global generator."""

    def act(observation: Floats) -> Floats:
        with torch.no_grad():
            actions: Tensor = actor(torch.from_numpy(observation)[None], deterministic)
        return actions[0].numpy()

    return act


def play(name: DatasetName, env: D4RLEnv, act: Act, seed: int) -> FlatDataset:
    """Play one episode from the start that ``seed`` gives; the last row has no action or reward.

    An end in the very step of the time limit is a time-out, as in D4RL.
    """
    observations = [env.reset(seed=seed)[0].astype(np.float32)]
    actions: list[Floats] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(act(observations[-1]))
        observation, reward, terminated, truncated, _ = env.step(actions[-1].astype(np.float64))
        observations.append(observation.astype(np.float32))
        rewards.append(reward)
    return FlatDataset(
        name=name,
        observations=np.stack(observations),
        actions=np.stack([*actions, np.zeros_like(actions[0])]),
        rewards=np.array([*rewards, 0.0], dtype=np.float32),
        bounds=np.array([0, len(observations)]),
        terminated=np.array([terminated and not truncated]),
    )


def join(name: DatasetName, parts: Sequence[FlatDataset]) -> FlatDataset:
    """The episodes of all ``parts``, in order, as one dataset called ``name``."""
    rows = np.cumsum([0, *(len(part.rewards) for part in parts)])
    bounds = [part.bounds[1:] + first for part, first in zip(parts, rows[:-1], strict=True)]
    return FlatDataset(
        name=name,
        observations=np.concatenate([part.observations for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        bounds=np.concatenate([[0], *bounds]).astype(np.int64),
        terminated=np.concatenate([part.terminated for part in parts]),
    )


def rollouts(
    name: DatasetName, transitions: int, actor: Any, key: tuple[int, ...], progress: Progress
) -> FlatDataset:
    """Whole episodes, as many as fit into ``transitions``, but one at least.

    A SAC ``actor`` samples the actions; without one they are uniform. ``key`` seeds everything.
    """
    env = make_env(name.task)
    episodes: list[FlatDataset] = []
    done = 0
    with torch.random.fork_rng(devices=[]):
        while done < transitions:
            rng = seeded(*key, len(episodes))
            act = actor_policy(actor) if actor else uniform(name.task.act_dim, rng)
            episode = play(name, env, act, int(rng.integers(2**31)))
            before, done = done, done + episode.transitions
            if done <= transitions or not episodes:
                episodes.append(episode)
            if before // _REPORT_EVERY != done // _REPORT_EVERY:
                progress(f"{name}: {min(done, transitions):,} of {transitions:,} transitions")
    env.close()
    return join(name, episodes)


def new_sac(name: DatasetName, env: D4RLEnv, seed: int, settings: SacSettings) -> Any:
    """Stable-Baselines3's SAC for the CPU, with initial weights from ``seed``.

    Raises :class:`DataError` if Stable-Baselines3 is not installed.
    """
    try:
        from stable_baselines3 import SAC
        from stable_baselines3.common.logger import Logger
    except ImportError as error:
        raise DataError(
            f"generating {name} needs the extra 'generate': pip install 'ractd[generate]'"
        ) from error
    seeded(seed, _WEIGHTS)
    sac = SAC(
        "MlpPolicy",
        env,
        learning_rate=3e-4,
        gamma=0.99,
        tau=0.005,
        ent_coef="auto",
        policy_kwargs={"net_arch": list(settings.widths)},
        buffer_size=1,  # the learner puts its own in place
        device="cpu",
    )
    sac.set_logger(Logger(folder=None, output_formats=[]))
    return sac


class Replay:
    """All transitions so far, drawn from with ``rng``; replaces Stable-Baselines3's buffer.

    That one samples by NumPy's global generator, whose state is not this program's to change.
    """

    def __init__(self, obs_dim: int, act_dim: int, capacity: int) -> None:
        self.size = 0
        self.rng = np.random.default_rng()
        dims = {"observations": obs_dim, "next_observations": obs_dim, "actions": act_dim}
        self._columns = {
            key: np.zeros((capacity, dim), dtype=np.float32)
            for key, dim in {**dims, "rewards": 1, "dones": 1}.items()
        }

    def extend(self, data: FlatDataset) -> None:
        """Append all transitions; only a terminated episode's last one is "done"."""
        rows = np.delete(np.arange(len(data.rewards)), data.bounds[1:] - 1)
        dones = np.zeros(len(data.rewards), dtype=np.float32)
        dones[data.bounds[1:] - 2] = data.terminated
        new = slice(self.size, self.size + len(rows))
        self._columns["observations"][new] = data.observations[rows]
        self._columns["next_observations"][new] = data.observations[rows + 1]
        self._columns["actions"][new] = data.actions[rows]
        self._columns["rewards"][new, 0] = data.rewards[rows]
        self._columns["dones"][new, 0] = dones[rows]
        self.size = new.stop

    def sample(self, batch_size: int, env: None = None) -> Any:
        """Transitions as Stable-Baselines3's updates ask for them, each (batch_size, dimension)."""
        from stable_baselines3.common.type_aliases import ReplayBufferSamples

        chosen = self.rng.integers(self.size, size=batch_size)
        columns = {key: torch.from_numpy(values[chosen]) for key, values in self._columns.items()}
        return ReplayBufferSamples(**columns)


class Learner:
    """SAC in training: room for ``capacity`` transitions. Raises as :func:`new_sac`.

    ``advance`` changes torch's global CPU generator; see :func:`seeded`.
    """

    def __init__(
        self, name: DatasetName, seed: int, settings: SacSettings, *, capacity: int
    ) -> None:
        self._name, self._seed, self._settings = name, seed, settings
        self._env = make_env(name.task)
        self._sac = new_sac(name, self._env, seed, settings)
        self._replay = Replay(name.task.obs_dim, name.task.act_dim, capacity)
        self._sac.replay_buffer = self._replay

    @property
    def step(self) -> int:
        """Environment steps done."""
        return self._replay.size

    def advance(self) -> FlatDataset:
        """Play and learn up to the next evaluation; returns the episodes played."""
        settings = self._settings
        due = (self.step // settings.evaluate_every + 1) * settings.evaluate_every
        episodes = []
        while self.step < due:
            rng = self._replay.rng = seeded(self._seed, _TRAINING, self.step)
            warming_up = self.step < settings.warm_up
            act = uniform(self._name.task.act_dim, rng)
            if not warming_up:
                act = actor_policy(self._sac.actor)
            episode = play(self._name, self._env, act, int(rng.integers(2**31)))
            episodes.append(episode)
            self._replay.extend(episode)
            if not warming_up:
                self._sac.train(gradient_steps=episode.transitions, batch_size=settings.batch_size)
        return join(self._name, episodes)

    def score(self) -> float:
        """Mean normalized score; the starts are the same every time, so only policies differ."""
        rng = seeded(self._seed, _EVALUATION)
        act = actor_policy(self._sac.actor, deterministic=True)
        returns = [
            play(self._name, self._env, act, int(seed)).rewards.sum(dtype=np.float64)
            for seed in rng.integers(2**31, size=self._settings.evaluation_episodes)
        ]
        return float(self._name.task.normalized_score(returns).mean())

    def actor_weights(self) -> dict[str, Tensor]:
        """The actor's parameters, for :func:`new_sac`'s ``actor``."""
        weights: dict[str, Tensor] = self._sac.actor.state_dict()
        return weights

    def tensors(self) -> dict[str, Tensor]:
        """Networks and optimizers; with the episodes played, all that ``restore`` needs."""
        tensors = with_prefix("policy", self._sac.policy.state_dict())
        tensors["log_ent_coef"] = self._sac.log_ent_coef
        for name, optimizer in self._optimizers().items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= with_prefix(f"{name}.{index}", state)
        return tensors

    def restore(self, tensors: dict[str, Tensor], episodes: FlatDataset) -> None:
        """Go on from where another learner's ``tensors`` and all its ``episodes`` were taken."""
        self._sac.policy.load_state_dict(under_prefix("policy", tensors))
        self._sac.log_ent_coef.data.copy_(tensors["log_ent_coef"])
        for name, optimizer in self._optimizers().items():
            whole = optimizer.state_dict()
            indices = [index for group in whole["param_groups"] for index in group["params"]]
            states = {index: under_prefix(f"{name}.{index}", tensors) for index in indices}
            # Before the first update there are none.
            whole["state"] = {index: state for index, state in states.items() if state}
            optimizer.load_state_dict(whole)
        self._replay.extend(episodes)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "actor_optimizer": self._sac.actor.optimizer,
            "critic_optimizer": self._sac.critic.optimizer,
            "entropy_optimizer": self._sac.ent_coef_optimizer,
        }
