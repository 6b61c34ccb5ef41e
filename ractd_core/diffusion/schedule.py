"""Noise levels: the EDM grid and the distributions that training times are drawn from.

A time is its noise level: x_t = x_0 + t·ε (Karras et al. 2022).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ractd_core.config import NoiseConfig, Times
from ractd_core.draws import Draws

_P_MEAN, _P_STD = -1.2, 1.2
_DDPM_STEPS, _DDPM_BETAS = 1000, (1e-4, 0.02)
_MIXED_SPAN = 0.7


def warped(noise: NoiseConfig, fraction: Tensor) -> Tensor:
    """Noise level at ``fraction`` of the way from sigma_max (0) to sigma_min (1), any shape.

    ``(σ_max^{1/ρ} + fraction (σ_min^{1/ρ} - σ_max^{1/ρ}))^ρ`` (EDM, equation 5), clamped to
    [sigma_min, sigma_max] against rounding.
    """
    high, low = noise.sigma_max ** (1 / noise.rho), noise.sigma_min ** (1 / noise.rho)
    return ((high + fraction * (low - high)) ** noise.rho).clamp(noise.sigma_min, noise.sigma_max)


def grid(noise: NoiseConfig, device: torch.device | str = "cpu", bins: int | None = None) -> Tensor:
    """``bins`` noise levels (default: the configuration's), from sigma_max down to sigma_min."""
    fractions = torch.linspace(0, 1, bins or noise.bins, dtype=torch.float64, device=device)
    return warped(noise, fractions).float()


def ddpm_grid(noise: NoiseConfig, device: torch.device | str, bins: int) -> Tensor:
    """``bins`` noise levels of DDPM's chain, from sigma_max down to sigma_min.

    Evenly spaced in the timesteps of its linear schedule (Ho et al. 2020: 1,000 steps, β from 1e-4
    to 0.02), whose noise level is σ_i = √((1 - ᾱ_i) / ᾱ_i), between those whose levels are the two
    ends.
    """
    beta = torch.linspace(*_DDPM_BETAS, _DDPM_STEPS, dtype=torch.float64)
    kept = (1 - beta).cumprod(0)
    levels, steps = ((1 - kept) / kept).sqrt().log().numpy(), np.arange(_DDPM_STEPS)
    first, last = np.interp(np.log([noise.sigma_max, noise.sigma_min]), levels, steps)
    chosen = np.exp(np.interp(np.linspace(first, last, bins), steps, levels))
    chosen[0], chosen[-1] = noise.sigma_max, noise.sigma_min
    return torch.tensor(chosen, dtype=torch.float32, device=device)


def training_times(noise: NoiseConfig, times: Times, draws: Draws) -> Tensor:
    """Noise levels (rows,) to train at, clamped to [sigma_min, sigma_max].

    ``lognormal``: ln t ~ N(-1.2, 1.2²) (EDM, table 1). ``mixed`` draws a row, with probability
    ½, from the part of the warped grid above t ≈ 0.76 instead, so that high noise is seen too
    (released code).
    """
    normal, uniform = draws.normal(), draws.uniform()
    lognormal = (_P_MEAN + _P_STD * normal).exp().clamp(noise.sigma_min, noise.sigma_max)
    if times == "lognormal":
        return lognormal
    high = draws.integers(2).bool()
    return torch.where(high, warped(noise, _MIXED_SPAN * uniform), lognormal)


def karras_weight(noise: NoiseConfig, t: Tensor) -> Tensor:
    """λ(t) = (t² + σ_data²) / (t σ_data)² (EDM, table 1): unit weight on the network's output."""
    return (t**2 + noise.sigma_data**2) / (t * noise.sigma_data) ** 2
