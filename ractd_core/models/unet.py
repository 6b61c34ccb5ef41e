"""The temporal U-Net of teacher and student: Diffusion Policy's, with patches and a stop time.

Its decoder narrows before it joins the skip connection, which saves 4 % of the weights.

Residual blocks of two 1-D convolutions over the plan's time axis, modulated by FiLM from the noise
level, the stop level (student only) and the conditioning states.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ractd_core.config import UNetConfig
from ractd_core.models.conv import Conv1d, ConvTranspose1d, GroupNorm, concatenate
from ractd_core.models.mish import Mish


def sinusoid(values: Tensor, dims: int) -> Tensor:
    """Sinusoidal embedding (batch, dims) of ``values`` (batch,), wavelengths up to 10000·2π."""
    half = dims // 2
    exponents = torch.arange(half, device=values.device) / (half - 1)
    angles = values[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ConvBlock(nn.Sequential):
    """Conv1d, GroupNorm, Mish; keeps the length."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__(
            Conv1d(inputs, outputs, config.kernel_size),
            GroupNorm(config.groups, outputs),
            Mish(),
        )


class FiLM(nn.Module):
    """Scale and bias per channel from the embeddings, applied as ``scale·h + bias``.

    The stop time enters through a linear map of its own that starts at zero, so a student that
    loads its teacher's weights begins as the teacher at every stop time.
    """

    def __init__(self, embed_dim: int, cond_dim: int, channels: int, stop_time: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim + cond_dim, 2 * channels)
        self.stop: nn.Linear | None = None
        if stop_time:
            self.stop = nn.Linear(embed_dim, 2 * channels, bias=False)
            nn.init.zeros_(self.stop.weight)

    def forward(self, h: Tensor, embedding: Tensor, stop: Tensor | None) -> Tensor:
        """Modulate ``h`` (batch, channels, length)."""
        film = self.linear(embedding)
        if self.stop is not None and stop is not None:
            film = film + self.stop(stop)
        scale, bias = film[..., None].chunk(2, dim=1)
        return torch.addcmul(bias, scale, h)


class ResidualBlock(nn.Module):
    """Convolution, FiLM, convolution, and a skip connection."""

    def __init__(
        self, inputs: int, outputs: int, cond_dim: int, config: UNetConfig, stop_time: bool,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first = ConvBlock(inputs, outputs, config)
        self.film = FiLM(config.embed_dim, cond_dim, outputs, stop_time)
        self.second = ConvBlock(outputs, outputs, config)
        self.skip = Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, embedding: Tensor, stop: Tensor | None) -> Tensor:
        """(batch, inputs, length) to (batch, outputs, length)."""
        out = self.film(self.dropout(self.first(h)), embedding, stop)
        return self.dropout(self.second(out)) + self.skip(h)


class TemporalUNet(nn.Module):
    """F(x, t, s, cond): x (batch, horizon, dims) to the same shape.

    ``t`` and ``stop`` are c_noise values (batch,), or (1,) for all rows, ``cond`` is
    (batch, cond_dim). The horizon must be a multiple of ``config.horizon_multiple``. ``stop_time``
    adds the student's stop embedding.
    """

    def __init__(
        self,
        dims: int,
        cond_dim: int,
        config: UNetConfig,
        *,
        stop_time: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch = config.patch
        embed = config.embed_dim
        self.embed_dim = embed
        self.time = nn.Sequential(
            nn.Linear(embed, 4 * embed), nn.Mish(), nn.Linear(4 * embed, embed)
        )

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, cond_dim, config, stop_time, dropout)

        def level(inputs: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList([block(inputs, outputs), block(outputs, outputs)])

        widths = config.widths
        channels = dims * config.patch
        pairs = list(zip([channels, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(level(*pair) for pair in pairs)
        self.shrink = nn.ModuleList(Conv1d(w, w, 3, stride=2) for w in widths[:-1])
        self.middle = level(widths[-1], widths[-1])
        self.grow = nn.ModuleList(
            ConvTranspose1d(wide, narrow)
            for narrow, wide in reversed(list(itertools.pairwise(widths)))
        )
        self.up = nn.ModuleList(level(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Sequential(
            ConvBlock(widths[0], widths[0], config), Conv1d(widths[0], channels, 1)
        )

    def forward(self, x: Tensor, t: Tensor, stop: Tensor | None, cond: Tensor) -> Tensor:
        """The network's raw output, in the shape of ``x``."""
        batch, horizon, dims = x.shape
        h = x.reshape(batch, horizon // self.patch, self.patch * dims).transpose(1, 2)
        # Mish acts on each entry, so FiLM's input can be activated once for all blocks.
        time = self._embed(t).expand(batch, -1)
        embedding = functional.mish(torch.cat([time, cond], dim=1))
        stop_embedding = None if stop is None else functional.mish(self._embed(stop))

        skips: list[Tensor] = []
        for index, blocks in enumerate(self.down):
            h = _through(blocks, h, embedding, stop_embedding)
            if index < len(self.shrink):
                skips.append(h)
                h = self.shrink[index](h)
        h = _through(self.middle, h, embedding, stop_embedding)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            h = concatenate([grow(h), skips.pop()])
            h = _through(blocks, h, embedding, stop_embedding)
        out: Tensor = self.head(h)
        return out.transpose(1, 2).reshape(batch, horizon, dims)

    def _embed(self, times: Tensor) -> Tensor:
        out: Tensor = self.time(sinusoid(times, self.embed_dim))
        return out


def _through(blocks: nn.Module, h: Tensor, embedding: Tensor, stop: Tensor | None) -> Tensor:
    for block in blocks.children():
        h = block(h, embedding, stop)
    return h


def load_teacher(student: nn.Module, teacher: nn.Module) -> None:
    """Warm start: the teacher's weights, with the stop time's left at zero.

    Raises ValueError if the two networks differ in anything but the stop time.
    """
    try:
        missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    except RuntimeError as error:
        raise ValueError(f"teacher and student networks differ: {error}") from error
    strange = [key for key in missing if ".film.stop." not in key] + list(unexpected)
    if strange:
        raise ValueError(f"teacher and student networks differ: {', '.join(strange[:3])}")
