"""Mish in bfloat16 on CPUs, without the exponential, logarithm and tanh that torch takes for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Mish(nn.Mish):
    """x tanh(softplus(x)) (Misra 2019): torch's own, but for bfloat16 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, entry by entry."""
        if input.device.type == "cpu" and input.dtype == torch.bfloat16:
            return _mish(input)
        return functional.mish(input)


class _Mish(torch.autograd.Function):
    """tanh(softplus(x)) = σ (1 + q) / (1 + q²) for σ = σ(x), q = 1 - σ: nothing in it cancels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        sigmoid = x.sigmoid()
        q = 1 - sigmoid
        return x * (sigmoid * (1 + q) / (1 + q * q))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        sigmoid = x.sigmoid()
        q = 1 - sigmoid
        square = q * q
        below = 1 + square
        return grad * (sigmoid * (1 + q + 4 * x * square / below) / below)


_mish: Callable[[Tensor], Tensor] = _Mish.apply
