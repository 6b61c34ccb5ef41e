"""A 1-D convolution whose weight gradient is one matrix product where that is faster.

oneDNN's weight gradient of a convolution over a short time axis, which is what the U-Net's wide
levels are, reaches a fifth of a CPU's matrix rate. Values and input gradients are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LONGEST, _NARROWEST = 8, 256
"""Longer or narrower than this, gathering the product's input costs more than it saves."""


class Conv1d(nn.Conv1d):
    """``nn.Conv1d`` of stride 1 that keeps the length."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, inputs, length) to (batch, outputs, length)."""
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        short = input.shape[2] <= _LONGEST and self.in_channels >= _NARROWEST
        if not (trains and short and input.device.type == "cpu"):
            return super().forward(input)
        assert self.bias is not None
        parts = [input, self.weight, self.bias]
        if torch.is_autocast_enabled("cpu"):
            parts = [part.to(torch.get_autocast_dtype("cpu")) for part in parts]
        return _short_conv1d(*parts)


class _ShortConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv1d(x, weight, bias, padding=weight.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (batch, inputs, length), (outputs, _, kernel) = x.shape, weight.shape
        pad = kernel // 2
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = functional.conv_transpose1d(grad, weight, padding=pad)
        # What each output saw, (batch · length, kernel · inputs): windows of the flat time axis.
        flat = functional.pad(x.transpose(1, 2), (0, 0, pad, pad)).flatten(1)
        seen = flat.unfold(1, kernel * inputs, inputs).reshape(batch * length, -1)
        rows = grad.transpose(1, 2).reshape(-1, outputs)
        grad_weight = (rows.T @ seen).view(outputs, kernel, inputs).transpose(1, 2)
        return grad_x, grad_weight, rows.sum(0)


_short_conv1d: Callable[..., Tensor] = _ShortConv1d.apply
