"""Convolutions and group normalization of (batch, channels, length), fast on CPUs too.

On a CPU the channels lie innermost in memory, so that what acts on all entries of a channel runs
along them, and torch's own layers for pictures of height 1 keep that order. Over a short time axis,
which is what the wide levels have, the other order is the faster one, and oneDNN's gradient of the
weight reaches a fifth of the matrix rate: there it is one matrix product per tap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LONGEST, _NARROWEST = 8, 256
"""Longer or narrower than this, oneDNN is as fast."""


class Conv1d(nn.Conv1d):
    """``nn.Conv1d`` with a padding of half the kernel."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, inputs, length) to (batch, outputs, length / stride, rounded up)."""
        if not trains(input):
            return super().forward(input)
        if _short(input, self.weight):
            return _short_conv(*_cast(input, self), self.stride[0], self.kernel_size[0] // 2)
        stride, padding = (1, self.stride[0]), (0, self.kernel_size[0] // 2)
        weight = self.weight.unsqueeze(2)
        return functional.conv2d(input.unsqueeze(2), weight, self.bias, stride, padding).squeeze(2)


class ConvTranspose1d(nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` that doubles the length."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(batch, inputs, length) to (batch, outputs, 2 · length)."""
        if not trains(input):
            return super().forward(input)
        if _short(input, self.weight):
            return _short_transpose(*_cast(input, self), 2, 1)
        weight = self.weight.unsqueeze(2)
        out = functional.conv_transpose2d(input.unsqueeze(2), weight, self.bias, (1, 2), (0, 1))
        return out.squeeze(2)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that keeps the order in memory."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, length) to the same shape."""
        if not trains(input):
            return super().forward(input)
        return super().forward(input.unsqueeze(2)).squeeze(2)


def concatenate(parts: list[Tensor]) -> Tensor:
    """(batch, channels, length) side by side in their channels, keeping the order in memory."""
    if not trains(parts[0]):
        return torch.cat(parts, dim=1)
    return torch.cat([part.unsqueeze(2) for part in parts], dim=1).squeeze(2)


def trains(x: Tensor) -> bool:
    """Whether layers of our own pay for ``x``: in training on a CPU.

    Plans are of few rows, for which torch's own layers begin sooner, and exported as those.
    """
    plans = torch.is_inference_mode_enabled() or torch.compiler.is_exporting()
    return x.device.type == "cpu" and not plans


def _short(x: Tensor, weight: Tensor) -> bool:
    return x.shape[2] <= _LONGEST and min(weight.shape[:2]) >= _NARROWEST


def _cast(x: Tensor, layer: nn.Conv1d | nn.ConvTranspose1d) -> tuple[Tensor, Tensor, Tensor]:
    """What autocast would do for torch's own layer."""
    assert layer.bias is not None
    if not torch.is_autocast_enabled("cpu"):
        return x, layer.weight, layer.bias
    dtype = torch.get_autocast_dtype("cpu")
    return x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype)


class _ShortConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, pad
        return functional.conv1d(x, weight, bias, stride, pad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (stride, pad), grad = ctx.geometry, grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # What the last position of a stride leaves over.
            rest = (x.shape[2] + 2 * pad - weight.shape[2]) % stride
            grad_x = functional.conv_transpose1d(grad, weight, None, stride, pad, rest)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(x, grad, weight.shape[2], stride, pad)
            grad_bias = grad.sum((0, 2))
        return grad_x, grad_weight, grad_bias, None, None


class _ShortTranspose(torch.autograd.Function):
    """The adjoint of the convolution with the same weight: outputs and inputs change places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, pad
        return functional.conv_transpose1d(x, weight, bias, stride, pad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (stride, pad), grad = ctx.geometry, grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = functional.conv1d(grad, weight, None, stride, pad)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(grad, x, weight.shape[2], stride, pad)
            grad_bias = grad.sum((0, 2))
        return grad_x, grad_weight, grad_bias, None, None


_short_conv: Callable[..., Tensor] = _ShortConv.apply
_short_transpose: Callable[..., Tensor] = _ShortTranspose.apply


def _weight_grad(x: Tensor, y: Tensor, kernel: int, stride: int, pad: int) -> Tensor:
    """Gradient of the weight from x and y's gradient: one product per tap.

    y[l] meets x[l · stride - pad + tap] through weight[:, :, tap], which is (of y, of x).
    """
    seen, told = x.transpose(1, 2), y.transpose(1, 2)
    grad = x.new_empty(kernel, y.shape[1], x.shape[1])
    for tap in range(kernel):
        low = max(-((tap - pad) // stride), 0)
        high = min((seen.shape[1] - 1 + pad - tap) // stride + 1, told.shape[1])
        if low >= high:  # This tap lies in the padding for all of them.
            grad[tap] = 0
            continue
        start = low * stride - pad + tap
        inputs = seen[:, start : start + (high - low - 1) * stride + 1 : stride]
        torch.mm(told[:, low:high].flatten(0, 1).T, inputs.flatten(0, 1), out=grad[tap])
    return grad.permute(1, 2, 0)
