"""``ractd export`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ractd_core.config import NoiseConfig, UNetConfig
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.files import STAGE_SCHEMA
from ractd_core.stages import Model
from ractd_core.stages.model import build_network
from tests.sweeps.command import ractd


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained student of Hopper's shape."""
    network = UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8)
    about = {
        "schema": STAGE_SCHEMA,
        "kind": "student",
        "dataset": "local/hopper-medium-v2",
        "fingerprint": "ab" * 32,
        "modelled": "actions",
        "observation_dims": 11,
        "action_dims": 3,
        "context": 1,
        "horizon": 8,
        "network": network.model_dump(mode="json"),
        "noise": NoiseConfig().model_dump(mode="json"),
    }
    torch.manual_seed(0)
    ranges = [LimitsNormalizer(-np.ones(dims), np.ones(dims)) for dims in (11, 3)]
    Model(build_network(about), Normalizers(*ranges), about).save(tmp_path / "model")
    return tmp_path / "model"


def test_one_or_both_formats_are_written_and_told(model: Path, tmp_path: Path) -> None:
    said = ractd("export", str(model), "--out", str(tmp_path / "both"))
    for file in ("policy.onnx", "policy.pt2", "card.json"):
        assert (tmp_path / "both" / file).is_file()
        assert f"{tmp_path / 'both' / file}: " in said
    assert "noise (batch, 1, 8, 3) -> windows (batch, 8, 3)" in said
    ractd("export", str(model), "--out", str(tmp_path / "one"), "--format", "torch", "--calls", "2")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"policy.pt2", "card.json"}
    assert json.loads((tmp_path / "one/card.json").read_text())["calls"] == 2


def test_mistakes_are_one_message(model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    absent = tmp_path / "absent"
    assert f"{absent}: no such checkpoint" in ractd("export", str(absent), "--out", out, code=2)
    said = ractd("export", str(model), "--out", str(tmp_path), code=2)
    assert "not an empty folder; name another" in said
    said = ractd("export", str(model), "--out", out, "--format", "tflite", code=2)
    assert "unknown format 'tflite'" in said
    assert not Path(out).exists()
