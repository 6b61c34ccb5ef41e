"""A sweep small enough to run for real in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.sweeps.study import Start, make_start

torch.set_num_threads(1)

_NETWORK = {"widths": [8, 8], "patch": 4, "groups": 4, "embed_dim": 8}

TINY: dict[str, Any] = {
    "name": "tiny",
    "tasks": ["local/maze2d-umaze-v1"],
    "data": {"transitions": 3000},
    "trials": 4,
    "search": {
        "horizon": {"choices": [16, 32]},
        "sigma": {"low": 1e-5, "high": 1e-2, "log": True},
    },
    "first_trials": [],
    "rows": ["regression", "teacher"],
    "recipe": {
        "teacher": {"optim": {"steps": 30, "batch_size": 16}, "network": _NETWORK},
        "regression": {"optim": {"steps": 20, "batch_size": 16}, "network": _NETWORK},
        "reward": {"optim": {"steps": 30, "batch_size": 16}, "widths": [8]},
        "student": {"optim": {"steps": 30, "batch_size": 16}, "reward_states": 4},
    },
    "evaluation": {"every": 10, "episodes": 3, "selection_episodes": 4, "final_episodes": 5},
    "selection": {"confirmation_episodes": 4},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    """Writes the tiny spec with changes at the top level; returns its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**TINY, **changes}))
        return path

    return write


@pytest.fixture
def project_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data, caches and storage in a folder of the test's own."""
    home = tmp_path / "home"
    monkeypatch.setenv("RACTD_HOME", str(home))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return home


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Opens a context to search in, with changes to its spec."""
    return make_start(tmp_path)
