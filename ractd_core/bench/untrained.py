"""Networks and data of a task's shape with made-up numbers: speed does not depend on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.stages import make_stage
from ractd_core.tasks import DatasetName, Task

_EPISODES, _STEPS = 20, 200


def untrained_data(task: Task) -> FlatDataset:
    """Twenty episodes of 200 steps of random numbers in the task's shape."""
    rng = np.random.default_rng(0)
    rows = _EPISODES * (_STEPS + 1)
    return FlatDataset(
        name=DatasetName("untrained", task),
        observations=rng.normal(size=(rows, task.obs_dim)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        bounds=np.arange(_EPISODES + 1) * (_STEPS + 1),
        terminated=np.zeros(_EPISODES, dtype=np.bool_),
    )


def untrained_models(recipe: Recipe, data: FlatDataset, folder: Path) -> dict[str, Path]:
    """Files of a teacher, a reward model and a student with their initial weights."""
    files: dict[str, Path] = {}
    for kind in ("teacher", "reward", "student"):
        stage, normalizers = make_stage(kind, recipe, data, files, torch.device("cpu"))
        files[kind] = folder / f"{kind}.safetensors"
        stage.result(stage.network, normalizers).save(files[kind])
    return files
