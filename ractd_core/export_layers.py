"""The U-Net's layers as ONNX operators that onnxruntime runs fast on a CPU.

Its own kernels for short convolutions and for softplus take most of an action's time. Here every
convolution is a matrix product with its weights on the right, which it lays out for streaming when
it loads the file; group normalization is one operator and Mish takes no softplus. All are standard
operators, for any batch size and a fixed length; what torch's exporter does with every other
function is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxscript import opset18

op: Any = opset18
"""Its types do not say that it takes Python's numbers and lists for constants."""
Value = Any
"""A tensor of the graph being made."""


def conv1d(
    input: Value, weight: Value, bias: Value, stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,), dilation: Sequence[int] = (1,), groups: int = 1,
) -> Value:  # fmt: skip
    """``torch.conv1d``, of one group."""
    kernel = np.arange(weight.shape[2]) * dilation[0]
    length = (input.shape[2] + 2 * padding[0] - kernel[-1] - 1) // stride[0] + 1
    seen = np.arange(length)[:, None] * stride[0] - padding[0] + kernel
    return _products(input, seen, op.Transpose(weight, perm=[2, 1, 0]), bias, groups)


def conv_transpose1d(
    input: Value, weight: Value, bias: Value, stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,), output_padding: Sequence[int] = (0,), groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:  # fmt: skip
    """``torch.conv_transpose1d``, of one group."""
    kernel = np.arange(weight.shape[2]) * dilation[0]
    end = (input.shape[2] - 1) * stride[0] + kernel[-1] + 1 + output_padding[0]
    places = np.arange(padding[0], end - padding[0])[:, None] - kernel
    seen = np.where(places % stride[0] == 0, places // stride[0], -1)
    return _products(input, seen, op.Transpose(weight, perm=[2, 0, 1]), bias, groups)


def _products(
    input: Value, seen: NDArray[np.int_], weight: Value, bias: Value, groups: int
) -> Value:
    """Each output step's product of the weight with the input's steps that it sees.

    ``input`` (batch, inputs, length), ``seen`` (output length, kernel), any number but a step's
    where there is none, ``weight`` (kernel, inputs, outputs), ``bias`` (outputs,). Raises
    ValueError for grouped convolutions, which no network here has: their graph would be wrong in
    silence.
    """
    if groups != 1:
        raise ValueError(f"convolutions of one group are expected, found {groups} groups")
    (_, inputs, length), (kernel, outputs) = input.shape, (seen.shape[1], bias.shape[0])
    rows = op.Pad(op.Transpose(input, perm=[0, 2, 1]), [0, 0, 0, 0, 1, 0])
    steps = np.where((seen >= 0) & (seen < length), seen, length)
    rows = op.Gather(rows, steps.ravel().tolist(), axis=1)
    rows = op.Reshape(rows, [-1, len(seen), kernel * inputs])
    found = op.Add(op.MatMul(rows, op.Reshape(weight, [kernel * inputs, outputs])), bias)
    return op.Transpose(found, perm=[0, 2, 1])


def group_norm(
    input: Value, num_groups: int, weight: Value, bias: Value, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:  # fmt: skip
    """``torch.group_norm`` with weight and bias: a layer norm of each group's channels."""
    _, channels, length = input.shape
    group = [num_groups, channels // num_groups * length]

    def at_every_step(each: Value) -> Value:
        return op.Reshape(op.Expand(op.Unsqueeze(each, [1]), [channels, length]), group)

    normal, *_ = op.LayerNormalization(
        op.Reshape(input, [-1, *group]),
        at_every_step(weight),
        at_every_step(bias),
        axis=2,
        epsilon=eps,
    )
    return op.Reshape(normal, [-1, channels, length])


def mish(input: Value) -> Value:
    """``x tanh(softplus(x))`` as ``x v / (2 - v)`` with ``v = σ(x) (2 - σ(x))``.

    From ``tanh(ln(1 + eˣ)) = (1 - q²) / (1 + q²)`` with ``q = 1 - σ``; nothing in it cancels.
    """
    sigmoid = op.Sigmoid(input)
    v = op.Mul(sigmoid, op.Sub(2.0, sigmoid))
    return op.Mul(input, op.Div(v, op.Sub(2.0, v)))


aten = torch.ops.aten
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Value]] = {
    aten.conv1d.default: conv1d,
    aten.conv_transpose1d.default: conv_transpose1d,
    aten.group_norm.default: group_norm,
    aten.mish.default: mish,
}
"""For ``torch.onnx.export``'s ``custom_translation_table``."""
