"""Samplers: free functions of a denoiser, a start and a grid of noise levels."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ractd_core.config import NoiseConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoise, column


def initial_noise(noise: NoiseConfig, z: Tensor) -> Tensor:
    """The sampler's start from standard normal ``z``.

    ``unit`` starts at variance 1 although the networks are told t = σ_max, as the released code
    does: it favours the mode. ``sigma_max`` is the paper's x_T.
    """
    return z * (noise.sigma_max if noise.init_noise == "sigma_max" else 1.0)


def heun_step(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
    """One step of Heun's method from noise level t to s, both (batch,) (EDM, algorithm 1).

    Rows with s = t come back unchanged.
    """
    step = column(s - t, x)
    slope = (x - denoise(x, t, cond)) / column(t, x)
    euler = x + step * slope
    slope_there = (euler - denoise(euler, s, cond)) / column(s, x)
    return x + step * (slope + slope_there) / 2


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    cond: Tensor,
    sigmas: Tensor,
    clamp: float | None = 1.0,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Integrate the probability-flow ODE down ``sigmas`` (bins,): 2·(bins - 1) network calls.

    ``clamp`` bounds every denoised plan, the normalized data's range being [-1, 1]; None does not.
    ``callback(step, x)`` sees every step. Returns the plan (batch, horizon, dims).
    """

    def bounded(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        clean = denoise(x, t, cond)
        return clean if clamp is None else clean.clamp(-clamp, clamp)

    for index, (t, s) in enumerate(itertools.pairwise(sigmas)):
        x = heun_step(bounded, x, t.expand(len(x)), s.expand(len(x)), cond)
        if callback is not None:
            callback(index, x)
    return x if clamp is None else x.clamp(-clamp, clamp)


def sample_one_step(student: ConsistencyTrajectory, x: Tensor, cond: Tensor) -> Tensor:
    """G(x_T, T, 0), clamped to the normalized data's range: one network call."""
    t = torch.full((len(x),), student.noise.sigma_max, device=x.device)
    return student.to_data(x, t, cond).clamp(-1.0, 1.0)
