"""Observation in, action out: for mazes, plan once and track the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.diffusion.samplers import initial_noise, sample_heun, sample_one_step
from ractd_core.diffusion.schedule import grid
from ractd_core.draws import generator
from ractd_core.envs import Array
from ractd_core.stages import Model, load_model


class Planner:
    """Plans of states from the first and the wanted last state.

    A teacher samples by Heun over its whole grid, a student in one step, a regression directly.
    ``calls`` is the number of network calls per plan (NFE).
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.normalizer = model.normalizer.to(device)
        self.network = model.network.to(device)
        self.horizon: int = model.about["horizon"]
        self.dims: int = model.about["dims"]
        self.device = device
        if isinstance(self.network, Denoiser):
            self._sigmas = grid(self.network.noise, device)
            self.calls = 2 * (len(self._sigmas) - 1)
        else:
            self.calls = 1

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Planner:
        """From a finished teacher's, student's or regression's model file."""
        return cls(load_model(path, "teacher", "student", "regression", device=device), device)

    @torch.inference_mode()
    def plan(self, first: Tensor, last: Tensor, z: Tensor) -> Tensor:
        """Plans (batch, horizon, dims) in data units.

        ``first`` and ``last`` are states (batch, dims) in data units; ``z`` is standard normal
        noise of the plans' shape.
        """
        cond = torch.cat([self.normalizer.normalize(first), self.normalizer.normalize(last)], dim=1)
        if isinstance(self.network, ConsistencyTrajectory):
            plan = sample_one_step(self.network, initial_noise(self.network.noise, z), cond)
        elif isinstance(self.network, Denoiser):
            start = initial_noise(self.network.noise, z)
            plan = sample_heun(self.network, start, cond, self._sigmas)
        else:
            nothing = torch.zeros_like(z)
            plan = self.network(nothing, nothing[:, 0, 0], None, cond).clamp(-1.0, 1.0)
        return self.normalizer.unnormalize(plan)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """One noise per seed, (batch, horizon, dims): a plan depends on its own seed only."""
        draws = [
            torch.randn(self.horizon, self.dims, generator=generator(seed, 0)) for seed in seeds
        ]
        return torch.stack(draws).to(self.device)


class PlanAndTrack:
    """D4RL maze2d: one open-loop plan to the goal at rest, tracked by a PD law.

    ``action = (waypoint - position) + (waypoint velocity - velocity)``, with the plan's next state
    as waypoint and, after its end, its last position at rest (Diffuser's and RACTD's controller).
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._plans = np.zeros((0, 0, 0))
        self._step = 0

    def reset(self, observations: Array, goals: Array, seeds: Sequence[int]) -> None:
        """Plan for a batch of episodes: ``observations`` (batch, 4), ``goals`` (batch, 2)."""
        device = self.planner.device
        first = torch.tensor(observations, dtype=torch.float32, device=device)
        at_rest = np.concatenate([goals, np.zeros_like(goals)], axis=1)
        last = torch.tensor(at_rest, dtype=torch.float32, device=device)
        plans = self.planner.plan(first, last, self.planner.noise(seeds))
        self._plans = plans.cpu().numpy().astype(np.float64)
        self._step = 0

    def act(self, observations: Array) -> Array:
        """Forces (batch, 2) for ``observations`` (batch, 4); the environment clips them."""
        self._step += 1
        if self._step < self._plans.shape[1]:
            waypoint, velocity = np.split(self._plans[:, self._step], 2, axis=1)
        else:
            waypoint = self._plans[:, -1, :2]
            velocity = np.zeros_like(waypoint)
        position, speed = np.split(observations, 2, axis=1)
        return (waypoint - position) + (velocity - speed)
