"""Thin wrappers that turn a network F into the paper's functions D, g and G.

Any network called as ``F(x, t_embedding_input, stop, cond)`` can be wrapped, and any sampler of
``samplers.py`` takes the result.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ractd_core.config import NoiseConfig


class Denoise(Protocol):
    """D(x, t, cond): the clean plan expected at noise level t.

    Shapes: x (batch, horizon, dims), t (batch,), cond (batch, cond_dims); returns as x.
    """

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The denoised plan."""
        ...


def column(t: Tensor, like: Tensor) -> Tensor:
    """``t`` (batch,) shaped to multiply ``like`` (batch, ...)."""
    return t.reshape(-1, *([1] * (like.ndim - 1)))


def scalings(noise: NoiseConfig, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in) at ``t``.

    ``edm``: Karras et al. 2022, table 1. ``boundary``: Song et al. 2023, appendix C, equation 15,
    with which D(x, σ_min) = x holds exactly.
    """
    data = noise.sigma_data
    shift = noise.sigma_min if noise.preconditioning == "boundary" else 0.0
    norm = (t**2 + data**2).sqrt()
    if noise.preconditioning == "boundary":
        return data**2 / ((t - shift) ** 2 + data**2), (t - shift) * data / norm, 1 / norm
    return data**2 / norm**2, t * data / norm, 1 / norm


def time_input(t: Tensor) -> Tensor:
    """c_noise = 250 ln t: EDM's ¼ ln t on the 0-1000 scale of the sinusoidal embedding."""
    return 250.0 * t.log()


class Preconditioned(nn.Module):
    """A network F between EDM's scalings: c_skip x + c_out F(c_in x, c_noise) (EDM, equation 7)."""

    def __init__(self, network: nn.Module, noise: NoiseConfig) -> None:
        super().__init__()
        self.network = network
        self.noise = noise

    def _precondition(self, x: Tensor, t: Tensor, s: Tensor | None, cond: Tensor) -> Tensor:
        c_skip, c_out, c_in = (column(c, x) for c in scalings(self.noise, t))
        stop = None if s is None else time_input(s)
        out: Tensor = self.network(c_in * x, time_input(t), stop, cond)
        return c_skip * x + c_out * out.float()


class Denoiser(Preconditioned):
    """D(x, t): the teacher."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The clean plan expected at noise level ``t``; shapes as in :class:`Denoise`."""
        return self._precondition(x, t, None, cond)


class ConsistencyTrajectory(Preconditioned):
    """The student: jumps from any noise level t to any lower s (Kim et al. 2024, equation 7).

    ``G(x, t, s) = (s/t) x + (1 - s/t) g(x, t, s)``. G(x, t, t) = x holds by construction; "time 0"
    is σ_min.
    """

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        """The plan at noise level ``s`` (batch,) on the trajectory through x at ``t`` (batch,)."""
        ratio = column(s / t, x)
        return ratio * x + (1 - ratio) * self._precondition(x, t, s, cond)

    def to_data(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """G(x, t, σ_min): the jump to clean data."""
        clean: Tensor = self(x, t, torch.full_like(t, self.noise.sigma_min), cond)
        return clean
