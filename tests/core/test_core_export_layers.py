"""The ONNX form of each layer is torch's own."""

from __future__ import annotations

import itertools
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ractd_core.export import require_onnx
from ractd_core.export_layers import TRANSLATIONS

CHANNELS, LENGTH = 6, 11
SHAPES = list(itertools.product((1, 4, 5), (1, 2, 3), (0, 2), (1, 2)))
"""Kernel, stride, padding and dilation."""


class Side(nn.ModuleList):
    """Layers side by side, so that they are exported at once."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self)


def agree(layers: Sequence[nn.Module], x: Tensor, folder: Path) -> None:
    """The exported layers, at other batch sizes than they are traced with."""
    side, file = Side(layers).eval(), folder / "layers.onnx"
    torch.manual_seed(0)
    for parameter in side.parameters():
        nn.init.normal_(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            side,
            (x[:2],),
            file,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    session = require_onnx().InferenceSession(file)
    for batch in (1, 7):
        with torch.no_grad():
            expected = side(x[:batch])
        found = session.run(None, {"x": x[:batch].numpy()})
        for mine, its in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(mine), its, rtol=1e-5, atol=2e-5)


def numbers() -> Tensor:
    return torch.randn(7, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(1))


def test_convolutions(tmp_path: Path) -> None:
    agree([nn.Conv1d(CHANNELS, 5, k, s, p, d) for k, s, p, d in SHAPES], numbers(), tmp_path)


def test_transposed_convolutions(tmp_path: Path) -> None:
    # One step more at the end, where torch allows it.
    layers = [
        nn.ConvTranspose1d(CHANNELS, 5, k, s, p, int(s > 1 or d > 1), dilation=d)
        for k, s, p, d in SHAPES
    ]
    agree(layers, numbers(), tmp_path)


def test_group_norms(tmp_path: Path) -> None:
    layers = [nn.GroupNorm(groups, CHANNELS, eps=0.1) for groups in (1, 3, 6)]
    agree(layers, numbers(), tmp_path)


def test_mish_near_zero_and_far_from_it(tmp_path: Path) -> None:
    scales = torch.logspace(-6, 2, CHANNELS)[:, None]
    agree([nn.Mish()], scales * numbers(), tmp_path)


def test_grouped_convolutions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(torch.onnx.OnnxExporterError) as failure:
        agree([nn.Conv1d(CHANNELS, CHANNELS, 3, groups=2)], numbers(), tmp_path)
    why = "".join(traceback.format_exception(failure.value))
    assert "convolutions of one group are expected, found 2 groups" in why
