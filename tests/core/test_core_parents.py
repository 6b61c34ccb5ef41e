"""A model file is read only as what it is, and a student only takes parents of its own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ractd_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ractd_core.config import Recipe
from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.flat import FlatDataset
from ractd_core.files import STAGE_SCHEMA, FileError
from ractd_core.stages import load_model, make_stage
from ractd_core.tasks import DatasetName

CPU = torch.device("cpu")


def changed(path: Path, folder: Path, **about: Any) -> Path:
    """The model file with another header."""
    tensors, before = load_checkpoint(path)
    save_checkpoint(folder / path.name, tensors, before | about)
    return folder / path.name


def test_a_model_says_what_it_was_trained_on(
    models: dict[str, Path], umaze_data: FlatDataset
) -> None:
    for kind, path in models.items():
        about = load_model(path, kind).about
        assert about["dataset"] == str(umaze_data.name)
        assert about["fingerprint"] == umaze_data.fingerprint


@pytest.mark.parametrize("schema", [STAGE_SCHEMA - 1, STAGE_SCHEMA + 1, None])
def test_another_schema_version_is_refused(
    models: dict[str, Path], tmp_path: Path, schema: int | None
) -> None:
    path = changed(models["student"], tmp_path, schema=schema)
    with pytest.raises(CheckpointError, match=f"schema version {schema}, this release reads"):
        load_model(path)


@pytest.mark.parametrize(
    "about", [{"observation_dims": 5}, {"action_dims": 3}, {"network": {"widths": [16]}}]
)
def test_tensors_of_other_widths_are_refused(
    models: dict[str, Path], tmp_path: Path, about: dict[str, Any]
) -> None:
    path = changed(models["student"], tmp_path, **about)
    with pytest.raises(FileError, match="tensors do not fit") as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_parents_of_other_data_are_refused(
    models: dict[str, Path], tiny: Recipe, umaze: DatasetName
) -> None:
    other = collect_maze2d(umaze, 3000, seed=1)
    with pytest.raises(CheckpointError, match="is no teacher for this student") as caught:
        make_stage("student", tiny, other, models, CPU)
    assert str(models["teacher"]) in str(caught.value)
    assert other.fingerprint in str(caught.value)


def test_a_reward_model_of_other_data_is_refused(
    models: dict[str, Path], tiny: Recipe, umaze_data: FlatDataset, tmp_path: Path
) -> None:
    parents = models | {"reward": changed(models["reward"], tmp_path, fingerprint="f" * 64)}
    with pytest.raises(CheckpointError, match="is no reward for this student"):
        make_stage("student", tiny, umaze_data, parents, CPU)


def test_a_teacher_of_another_horizon_is_refused(
    models: dict[str, Path], tiny: Recipe, umaze_data: FlatDataset
) -> None:
    longer = tiny.model_copy(update={"window": tiny.window.model_copy(update={"horizon": 32})})
    with pytest.raises(CheckpointError, match="horizon 16, not 32"):
        make_stage("student", longer, umaze_data, models, CPU)
