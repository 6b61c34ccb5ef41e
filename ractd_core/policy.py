"""Observation in, action out: for mazes plan once and track the plan, elsewhere replan as it goes.

A policy acts for a fixed number of *lanes* at once, one episode each. It is told which lanes start
an episode, and with which seed; what it does in a lane depends on that lane's observations and
seed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ractd_core.config import NoiseConfig, Sampling
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoise, Denoiser
from ractd_core.diffusion.samplers import (
    guided,
    initial_noise,
    sample_ancestral,
    sample_euler,
    sample_heun,
    sample_steps,
)
from ractd_core.diffusion.schedule import ddpm_grid, grid
from ractd_core.draws import generator
from ractd_core.envs import Array
from ractd_core.stages import Model, differences, load_model, reward_gradient, window_dims

Lanes = NDArray[np.int64]
LANES = 32
"""Episodes that an evaluation plays at once."""
_NOISE_BLOCK = 64


class Policy(Protocol):
    """What an evaluation plays, in ``lanes`` episodes at once."""

    lanes: int

    def start(
        self, lanes: Lanes, observations: Array, goals: Array | None, seeds: Sequence[int]
    ) -> None:
        """Begin an episode in each of ``lanes`` (k,), with the seeds (k,) of their noise.

        ``observations`` (lanes, obs_dim) are of all lanes; ``goals`` (lanes, 2) are the mazes'.
        """

    def act(self, observations: Array) -> Array:
        """Actions (lanes, act_dim) for the observations (lanes, obs_dim) of all lanes."""


class Planner:
    """Windows of states or actions from the observations that condition them.

    ``calls`` is the number of network calls per window (NFE), ``gradients`` that of a reward
    model's gradients beside them, ``context`` the number of observations that condition a window. A
    regression has no noise and takes one call. ``reward`` guides a teacher, as strongly as
    ``sampling`` says. Raises ValueError for a ``sampling`` that the model cannot do, or not without
    a ``reward``, and for a ``reward`` of other data.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        sampling: Sampling | None = None,
        reward: Model | None = None,
    ) -> None:
        self.normalizers = model.normalizers.to(device)
        self.network = model.network.to(device)
        self.modelled: str = model.about["modelled"]
        self.horizon: int = model.about["horizon"]
        self.context: int = model.about["context"]
        self.observation_dims: int = model.about["observation_dims"]
        self.dims = window_dims(model.about)
        self.device = device
        self.output = getattr(self.normalizers, _NORMALIZER[self.modelled])
        self.sampling = sampling or Sampling()
        self.calls = self.sampling.calls or 1
        self.gradients = 0
        if isinstance(self.network, Denoiser):
            self._teach(self.network.noise)
        elif isinstance(self.network, ConsistencyTrajectory):
            self._levels = grid(self.network.noise, bins=self.calls + 1)[:-1].tolist()
        elif self.calls > 1:
            raise ValueError(f"a regression takes one call, found calls {self.calls}")
        stochastic = self.sampling.method == "ddpm" or not isinstance(self.network, Denoiser)
        self.draws = self.calls if stochastic else 1
        self._denoise: Denoise | nn.Module = self.network
        if reward is not None or self.sampling.guidance:
            self._denoise = self._guided(model, reward)
            self.gradients = self.calls

    def _teach(self, noise: NoiseConfig) -> None:
        method, calls = self.sampling.method, self.sampling.calls
        per_step = 2 if method == "heun" else 1
        if calls is not None and calls % per_step:
            raise ValueError(f"{method} takes {per_step} calls per step, found calls {calls}")
        bins = noise.bins if calls is None else calls // per_step + 1
        levels = ddpm_grid if method in ("ddim", "ddpm") else grid
        self._sigmas = levels(noise, self.device, bins)
        self.calls = per_step * (bins - 1)

    def _guided(self, model: Model, reward: Model | None) -> Denoise:
        strength = self.sampling.guidance
        if not isinstance(self.network, Denoiser):
            raise ValueError(f"a {model.about['kind']} is not guided: only a teacher is")
        if reward is None or not strength:
            raise ValueError(
                f"guidance {strength:g} {'with' if reward else 'without'} a reward model: a guided "
                "teacher takes a reward model and a guidance above 0"
            )
        wrong = differences(reward.about, model.about)
        own, its = (each.normalizers.to(self.device).state_dict() for each in (model, reward))
        if not wrong and not all(torch.equal(own[key], its[key]) for key in own):
            wrong = "other normalizers"
        if wrong:
            raise ValueError(f"the reward model is of other data than the teacher: it has {wrong}")
        value = reward.network.to(self.device)
        gradient = reward_gradient(reward.about, value)
        return guided(self.network, gradient, strength, self.network.noise)

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device,
        sampling: Sampling | None = None,
        reward: Path | None = None,
    ) -> Planner:
        """From the files of a finished teacher, student or regression, and of a reward model."""
        model = load_model(path, "teacher", "student", "regression", device=device)
        guide = None if reward is None else load_model(reward, "reward", device=device)
        return cls(model, device, sampling, guide)

    @torch.inference_mode()
    def plan(self, observations: Tensor, z: Tensor) -> Tensor:
        """Windows (batch, horizon, dims) in data units.

        ``observations`` (batch, context, obs_dim) in data units: a plan's first and last state, or
        the last ones before an action, oldest first. ``z`` (batch, draws, horizon, dims) is
        standard normal: the sampler's start and what it adds on the way.
        """
        return self.windows(observations, z)

    def windows(self, observations: Tensor, z: Tensor) -> Tensor:
        """As :meth:`plan`, in the caller's mode: what a graph is traced from."""
        cond = self.normalizers.observations.normalize(observations).flatten(1)
        first, *later = z.unbind(1)
        network, denoise, method = self.network, self._denoise, self.sampling.method
        if isinstance(network, ConsistencyTrajectory):
            start = initial_noise(network.noise, first)
            x = sample_steps(network, start, cond, self._levels, later)
        elif isinstance(network, Denoiser):
            start = initial_noise(network.noise, first)
            if method == "ddpm":
                x = sample_ancestral(denoise, start, cond, self._sigmas, later)
            else:
                sample = sample_heun if method == "heun" else sample_euler
                x = sample(denoise, start, cond, self._sigmas)
        else:
            nothing = torch.zeros_like(first)
            x = network(nothing, nothing.new_zeros(1), None, cond).clamp(-1.0, 1.0)
        return self.output.unnormalize(x)

    def noise(self, seed: int, first: int = 0, count: int = 1) -> Tensor:
        """Noise (count, draws, horizon, dims) of an episode's windows numbered from ``first``.

        It depends on the arguments alone. ``first`` is a multiple of ``count``.
        """
        shape = (count, self.draws, self.horizon, self.dims)
        return torch.randn(shape, generator=generator(seed, first // count))


_NORMALIZER = {"states": "observations", "actions": "actions"}


def make_policy(planner: Planner, lanes: int = LANES, executed_actions: int = 1) -> Policy:
    """The domain's controller around ``planner``: track plans of states, execute actions.

    ``executed_actions`` of each window of actions are executed. Raises ValueError if there are not
    as many, or if states are planned: that plan is executed whole.
    """
    if planner.modelled == "actions":
        return RecedingHorizon(planner, lanes, executed_actions)
    if executed_actions > 1:
        raise ValueError(
            f"a plan of states is made once and executed whole, found executed_actions "
            f"{executed_actions}"
        )
    return PlanAndTrack(planner, lanes)


class PlanAndTrack:
    """D4RL maze2d: one open-loop plan to the goal at rest, tracked by a PD law.

    ``action = (waypoint - position) + (waypoint velocity - velocity)``, with the plan's next state
    as waypoint and, after its end, its last position at rest (Diffuser's and RACTD's controller).
    """

    def __init__(self, planner: Planner, lanes: int = LANES) -> None:
        self.planner, self.lanes = planner, lanes
        self._noise = torch.zeros(lanes, planner.draws, planner.horizon, planner.dims)
        self._plans = np.zeros((lanes, planner.horizon, planner.dims))
        self._step = np.zeros(lanes, dtype=np.int64)

    def start(
        self, lanes: Lanes, observations: Array, goals: Array | None, seeds: Sequence[int]
    ) -> None:
        """Plan for the lanes that start. ValueError without goals."""
        if goals is None:
            raise ValueError("plans are made to a goal, and this environment has none")
        self._noise[lanes] = torch.cat([self.planner.noise(seed) for seed in seeds])
        at_rest = np.concatenate([goals, np.zeros_like(goals)], axis=1)
        ends = torch.tensor(np.stack([observations, at_rest], axis=1), dtype=torch.float32)
        device = self.planner.device
        plans = self.planner.plan(ends.to(device), self._noise.to(device))
        self._plans[lanes] = plans.cpu().numpy()[lanes]
        self._step[lanes] = 0

    def act(self, observations: Array) -> Array:
        """Forces (lanes, 2) for ``observations`` (lanes, 4); the environment clips them."""
        self._step += 1
        horizon = self.planner.horizon
        now = np.minimum(self._step, horizon - 1)
        waypoint, velocity = np.split(self._plans[np.arange(self.lanes), now], 2, axis=1)
        velocity = np.where((self._step < horizon)[:, None], velocity, 0.0)
        position, speed = np.split(observations, 2, axis=1)
        return (waypoint - position) + (velocity - speed)


class RecedingHorizon:
    """Plan a window of actions, execute its first ``executed`` ones, and plan again.

    Every lane counts its own steps, so its episode replans at the same steps whoever else plays.
    Raises ValueError if windows do not have that many actions.
    """

    def __init__(self, planner: Planner, lanes: int = LANES, executed: int = 1) -> None:
        if not 1 <= executed <= planner.horizon:
            raise ValueError(
                f"1 to {planner.horizon} actions of a window can be executed, found {executed}"
            )
        self.planner, self.lanes, self.executed = planner, lanes, executed
        self._past = torch.zeros(lanes, planner.context, planner.observation_dims)
        self._block = max(1, _NOISE_BLOCK // planner.draws)
        self._noise = torch.zeros(lanes, self._block, planner.draws, planner.horizon, planner.dims)
        self._windows = torch.zeros(lanes, planner.horizon, planner.dims)
        self._seeds = np.zeros(lanes, dtype=np.int64)
        self._step = np.zeros(lanes, dtype=np.int64)
        self._fresh = np.zeros(lanes, dtype=bool)

    def start(
        self, lanes: Lanes, observations: Array, goals: Array | None, seeds: Sequence[int]
    ) -> None:
        """Forget what the lanes have seen; before its start an episode repeats its first state."""
        self._seeds[lanes] = seeds
        self._step[lanes] = 0
        self._fresh[lanes] = True

    def act(self, observations: Array) -> Array:
        """Actions (lanes, act_dim) for ``observations`` (lanes, obs_dim)."""
        seen = torch.tensor(observations, dtype=torch.float32)
        self._past = torch.cat([self._past[:, 1:], seen[:, None]], dim=1)
        self._past[self._fresh] = seen[self._fresh][:, None].expand(-1, self.planner.context, -1)
        self._fresh[:] = False
        number, position = np.divmod(self._step, self.executed)
        if (position == 0).any():
            self._replan(position == 0, number)
        self._step += 1
        every = torch.arange(self.lanes)
        return self._windows[every, torch.tensor(position)].numpy().astype(np.float64)

    def _replan(self, due: NDArray[np.bool_], number: Lanes) -> None:
        """New windows for the lanes that are ``due``; theirs are numbered ``number`` (lanes,)."""
        planner = self.planner
        for lane in np.flatnonzero(due & (number % self._block == 0)):
            self._noise[lane] = planner.noise(
                int(self._seeds[lane]), int(number[lane]), self._block
            )
        z = self._noise[torch.arange(self.lanes), torch.tensor(number % self._block)]
        # All lanes are rows of every call, due or not: rows round differently in other shapes.
        windows = planner.plan(self._past.to(planner.device), z.to(planner.device)).cpu()
        self._windows[due] = windows[due]
