"""Samplers: free functions of a denoiser, a start and a grid of noise levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

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


Callback = Callable[[int, Tensor], None]


def bounded(denoise: Denoise, clamp: float | None) -> Denoise:
    """``denoise`` with its plans clamped to ±``clamp``; None leaves it as it is."""

    def clean(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        plan = denoise(x, t, cond)
        return plan if clamp is None else plan.clamp(-clamp, clamp)

    return clean


Gradient = Callable[[Tensor, Tensor], Tensor]
"""∇R of windows (batch, horizon, dims) under their conditioning, shaped as they are."""


def guided(denoise: Denoise, gradient: Gradient, strength: float, noise: NoiseConfig) -> Denoise:
    """``denoise`` of the data's density tilted to p(x)·exp(``strength``·R(x)).

    ``D + strength · v(t) · ∇R(D)`` with ``v = σ_data² t² / (σ_data² + t²)``, the variance of x_0
    given x_t, as a Gaussian of σ_data has it: for such data and a linear R this is the tilted
    density's own denoiser. Diffuser (Janner et al. 2022, algorithm 1) moves each step's mean by its
    variance times the gradient there, of a reward model trained on noisy windows. Ours has seen
    clean ones only, so its gradient is taken at the clean prediction.
    """
    data = noise.sigma_data**2

    def clean(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        plan = denoise(x, t, cond)
        variance = column(data * t**2 / (data + t**2), x)
        return plan + strength * variance * gradient(plan, cond)

    return clean


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    cond: Tensor,
    sigmas: Tensor,
    clamp: float | None = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Integrate the probability-flow ODE down ``sigmas`` (bins,): 2·(bins - 1) network calls.

    ``clamp`` bounds every denoised plan, the normalized data's range being [-1, 1]; None does not.
    ``callback(step, x)`` sees every step. Returns the plan (batch, horizon, dims).
    """
    clean = bounded(denoise, clamp)
    for index, (t, s) in enumerate(itertools.pairwise(sigmas)):
        x = heun_step(clean, x, t.expand(len(x)), s.expand(len(x)), cond)
        if callback is not None:
            callback(index, x)
    return x if clamp is None else x.clamp(-clamp, clamp)


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    cond: Tensor,
    sigmas: Tensor,
    clamp: float | None = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """As :func:`sample_heun` by Euler's method: bins - 1 network calls.

    ``x_s = D + (s/t) (x - D)`` is also DDIM's step (Song et al. 2021, equation 12 with η = 0)
    written for x_t = x_0 + t·ε; what DDIM does otherwise is its choice of noise levels.
    """
    clean = bounded(denoise, clamp)
    for index, (t, s) in enumerate(itertools.pairwise(sigmas)):
        plan = clean(x, t.expand(len(x)), cond)
        x = plan + s / t * (x - plan)
        if callback is not None:
            callback(index, x)
    return x if clamp is None else x.clamp(-clamp, clamp)


def sample_ancestral(
    denoise: Denoise,
    x: Tensor,
    cond: Tensor,
    sigmas: Tensor,
    z: Sequence[Tensor],
    clamp: float | None = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDPM's ancestral sampling down ``sigmas`` (bins,): bins - 1 network calls.

    Every step draws from q(x_s | x_t, x_0 = D) (Ho et al. 2020, equation 7), which for
    x_t = x_0 + t·ε has mean D + (s/t)² (x - D) and variance s² (1 - s²/t²); the last step takes the
    mean. ``z`` are bins - 2 standard normal tensors of ``x``'s shape (ValueError otherwise).
    """
    if len(z) != len(sigmas) - 2:
        raise ValueError(f"{len(sigmas)} levels take {len(sigmas) - 2} draws, found {len(z)}")
    clean = bounded(denoise, clamp)
    for index, (t, s) in enumerate(itertools.pairwise(sigmas)):
        plan = clean(x, t.expand(len(x)), cond)
        x = plan + (s / t) ** 2 * (x - plan)
        if index < len(z):
            x = x + s * (1 - (s / t) ** 2).sqrt() * z[index]
        if callback is not None:
            callback(index, x)
    return x if clamp is None else x.clamp(-clamp, clamp)


def sample_steps(
    student: ConsistencyTrajectory,
    x: Tensor,
    cond: Tensor,
    sigmas: Sequence[float],
    z: Sequence[Tensor],
) -> Tensor:
    """Jump to clean data from each of ``sigmas`` (calls,) in turn: as many network calls.

    Between two jumps the plan is noised again to the next, lower level (Song et al. 2023,
    algorithm 1). ``x`` is at ``sigmas[0]``, ``z`` are calls - 1 standard normal tensors of its
    shape. Plans are clamped to the normalized data's range. Raises ValueError if ``sigmas`` do not
    fall.
    """
    if any(s >= t for t, s in itertools.pairwise(sigmas)):
        raise ValueError(f"noise levels must fall from call to call, found {list(sigmas)}")

    def jump(x: Tensor, t: float) -> Tensor:
        # One level for all rows is a constant of an exported graph, and what follows from it too.
        return student.to_data(x, x.new_full((1,), t), cond).clamp(-1.0, 1.0)

    plan = jump(x, sigmas[0])
    for t, fresh in zip(sigmas[1:], z, strict=True):
        # At sigma_min itself, rounding can leave less than 0.
        added = math.sqrt(max(0.0, t**2 - student.noise.sigma_min**2))
        plan = jump(plan + added * fresh, t)
    return plan
