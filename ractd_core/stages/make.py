"""A stage from its recipe, its data and the stages it is built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ractd_core.checkpoint import CheckpointError
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.windows import ActionWindows, PlanWindows, Windows
from ractd_core.draws import generator
from ractd_core.files import STAGE_SCHEMA
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import KINDS, load_model
from ractd_core.stages.regression import RegressionStage
from ractd_core.stages.reward import reward_stage
from ractd_core.stages.student import StudentStage
from ractd_core.stages.teacher import TeacherStage


def make_stage(
    kind: str, recipe: Recipe, data: FlatDataset, parents: dict[str, Path], device: torch.device
) -> tuple[StageModule, Normalizers]:
    """The stage ``kind`` of ``recipe`` on ``data``, ready to train, and the data's normalizers.

    Mazes are planned in states, all other tasks in actions. ``parents`` holds the model files of
    teacher and reward when ``kind`` is ``student``. Initial weights depend on the stage's seed
    alone. Raises ValueError for an unknown kind and :class:`CheckpointError` for a parent that
    cannot be used, among them one of other data or another window.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown stage {kind!r}, expected one of {', '.join(KINDS)}")
    normalizers = Normalizers.fit(data)
    config = getattr(recipe, kind)
    torch.manual_seed(generator(config.seed, 2**40).initial_seed() % 2**31)
    about: dict[str, Any] = {
        "schema": STAGE_SCHEMA,
        "kind": kind,
        "dataset": str(data.name),
        "fingerprint": data.fingerprint,
        "modelled": "states" if data.name.task.domain == "maze2d" else "actions",
        "observation_dims": int(data.observations.shape[1]),
        "action_dims": int(data.actions.shape[1]),
    }
    if kind == "reward":
        return reward_stage(recipe.reward, data, normalizers, about, device), normalizers

    windows: Windows
    if about["modelled"] == "states":
        windows = PlanWindows(data, recipe.window, normalizers.observations, device)
        about["context"] = 2
    else:
        windows = ActionWindows(data, recipe.window, normalizers, device)
        about["context"] = recipe.window.history
    about["horizon"] = recipe.window.horizon
    network = recipe.regression.network if kind == "regression" else recipe.teacher.network
    about["network"] = network.model_dump(mode="json")
    if kind == "regression":
        return RegressionStage(recipe.regression, windows, about), normalizers
    about["noise"] = recipe.teacher.noise.model_dump(mode="json")
    if kind == "teacher":
        return TeacherStage(recipe.teacher, windows, about), normalizers
    teacher = load_model(parents["teacher"], "teacher", device=device)
    reward = load_model(parents["reward"], "reward", device=device)
    _check_parent(parents["teacher"], teacher.about, about, "horizon", "context")
    _check_parent(parents["reward"], reward.about, about)
    # The warm start is a copy, so the student's noise levels are its teacher's own.
    about["noise"], about["network"] = teacher.about["noise"], teacher.about["network"]
    return StudentStage(recipe.student, windows, teacher, reward, about), normalizers


def _check_parent(path: Path, parent: dict[str, Any], child: dict[str, Any], *also: str) -> None:
    """A parent of other data was normalized otherwise: its numbers would mean something else."""
    same = ("fingerprint", "modelled", "observation_dims", "action_dims", *also)
    wrong = [f"{key} {parent[key]}, not {child[key]}" for key in same if parent[key] != child[key]]
    if wrong:
        raise CheckpointError(
            f"{path} is no {parent['kind']} for this student: it has {'; '.join(wrong)}; train one "
            f"on {child['dataset']} with the same window"
        )
