"""Convolutions and group normalization of (batch, channels, length), fast on CPUs too.

On a CPU the channels lie innermost in memory, so that what acts on all entries of a channel runs
along them, and torch's own layers for pictures of height 1 keep that order. Over a short time axis
oneDNN loses to plain matrix products; these also leave out what would multiply the padding, 30 % of
a kernel of 5 at length 4.
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
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, pad
        length = (x.shape[2] + 2 * pad - weight.shape[2]) // stride + 1
        return _correlate(x, weight, length, *ctx.geometry).add_(bias[:, None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _spread(grad, weight, x.shape[2], *ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(x, grad, weight.shape[2], *ctx.geometry)
            grad_bias = grad.sum((0, 2))
        return grad_x, grad_weight, grad_bias, None, None


class _ShortTranspose(torch.autograd.Function):
    """The adjoint of the convolution with the same weight: outputs and inputs change places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, pad
        length = (x.shape[2] - 1) * stride - 2 * pad + weight.shape[2]
        return _spread(x, weight, length, *ctx.geometry).add_(bias[:, None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _correlate(grad, weight, x.shape[2], *ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(grad, x, weight.shape[2], *ctx.geometry)
            grad_bias = grad.sum((0, 2))
        return grad_x, grad_weight, grad_bias, None, None


_short_conv: Callable[..., Tensor] = _ShortConv.apply
_short_transpose: Callable[..., Tensor] = _ShortTranspose.apply

# In all of them y[l] meets x[l · stride - pad + tap] through weight[:, :, tap], (of y, of x).


def _correlate(x: Tensor, weight: Tensor, length: int, stride: int, pad: int) -> Tensor:
    """Y of ``length`` from x: one product per position, over the taps that meet x."""
    (batch, inputs, last), (outputs, _, kernel) = x.shape, weight.shape
    rows = x.transpose(1, 2).flatten(1)
    laid = weight.transpose(1, 2).flatten(1)
    y = x.new_empty(batch, length, outputs)
    for position in range(length):
        start = position * stride - pad
        low, high = max(start, 0), min(start + kernel, last)
        taps = laid[:, (low - start) * inputs : (high - start) * inputs]
        torch.mm(rows[:, low * inputs : high * inputs], taps.T, out=y[:, position])
    return y.transpose(1, 2)


def _spread(y: Tensor, weight: Tensor, length: int, stride: int, pad: int) -> Tensor:
    """X of ``length`` from y: one product per position, over all y that meet it."""
    (batch, outputs, last), (_, inputs, kernel) = y.shape, weight.shape
    rows = y.transpose(1, 2).flatten(1)
    # The taps of neighbouring y, which are ``stride`` apart, one below the other.
    order = sorted(range(kernel), key=lambda tap: (tap % stride, -tap))
    laid = torch.cat([weight[:, :, tap] for tap in order])
    x = y.new_empty(batch, length, inputs)
    for position in range(length):
        low = max(-((kernel - 1 - position - pad) // stride), 0)
        high = min((position + pad) // stride + 1, last)
        first = order.index(position + pad - low * stride) * outputs
        taps = laid[first : first + (high - low) * outputs]
        torch.mm(rows[:, low * outputs : high * outputs], taps, out=x[:, position])
    return x.transpose(1, 2)


def _weight_grad(x: Tensor, y: Tensor, kernel: int, stride: int, pad: int) -> Tensor:
    """Gradient of the weight from x and y's gradient: one product per tap."""
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
