"""Mish on CPUs, where torch's own takes an exponential, a logarithm and a tanh for every entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ractd_core.models.conv import trains


class Mish(nn.Mish):
    """x tanh(softplus(x)) (Misra 2019): torch's own, but for speed on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, length), entry by entry."""
        return _mish(input) if trains(input) else functional.mish(input)


class _Mish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _look_up(_tables()[0], x) if x.dtype == torch.bfloat16 else _value(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = _look_up(_tables()[1], x) if x.dtype == torch.bfloat16 else _slope(x)
        return slope.mul_(grad)


_mish: Callable[[Tensor], Tensor] = _Mish.apply


def _value(x: Tensor) -> Tensor:
    """Mish as x σ (1 + q) / (1 + q²) for σ = σ(x), q = 1 - σ: nothing in it cancels."""
    sigmoid = x.sigmoid()
    q = 1 - sigmoid
    below = (q * q).add_(1)
    return sigmoid.mul_(q.add_(1)).mul_(x).div_(below)


def _slope(x: Tensor) -> Tensor:
    """Its derivative, σ (1 + q + 4 x q² / (1 + q²)) / (1 + q²)."""
    sigmoid = x.sigmoid()
    q = 1 - sigmoid
    square = q * q
    below = square + 1
    return square.mul_(4).mul_(x).div_(below).add_(q).add_(1).mul_(sigmoid).div_(below)


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Value and derivative, correctly rounded, at all of bfloat16's numbers in order of their bits.

    A table of 128 KB that stays in the cache is read in less time than a formula takes.
    """
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).double()
    return _value(numbers).bfloat16(), _slope(numbers).bfloat16()


def _look_up(table: Tensor, x: Tensor) -> Tensor:
    rows = x.transpose(1, 2).contiguous()
    index = rows.view(torch.uint16).to(torch.int32).flatten()
    return table.index_select(0, index).view_as(rows).transpose(1, 2)
