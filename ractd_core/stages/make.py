"""A stage from its recipe, its data and the stages it is built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ractd_core.checkpoint import CheckpointError
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.windows import make_windows
from ractd_core.draws import generator
from ractd_core.files import STAGE_SCHEMA
from ractd_core.stages.base import StageModule
from ractd_core.stages.joint import JointStage
from ractd_core.stages.model import KINDS, Model, differences, load_model
from ractd_core.stages.regression import RegressionStage
from ractd_core.stages.reward import RewardStage
from ractd_core.stages.student import StudentStage
from ractd_core.stages.teacher import TeacherStage

STAGES = (*KINDS, "joint")
"""What can be trained; ``joint`` comes out as a student."""


def parent_kinds(kind: str, recipe: Recipe) -> tuple[str, ...]:
    """The stages that ``kind`` is built from, in the order in which they can be built."""
    if kind == "student":
        return ("reward", "teacher")
    return ("reward",) if kind == "teacher" and recipe.teacher.reward_weight else ()


def make_stage(
    kind: str, recipe: Recipe, data: FlatDataset, parents: dict[str, Path], device: torch.device
) -> tuple[StageModule, Normalizers]:
    """The stage ``kind`` of ``recipe`` on ``data``, ready to train, and the data's normalizers.

    Mazes are planned in states, all other tasks in actions. ``parents`` holds the model files of
    :func:`parent_kinds`. Initial weights depend on the stage's seed alone, those of ``joint`` on
    the student's. Raises ValueError for an unknown kind and :class:`CheckpointError` for a parent
    that cannot be used, among them one of other data or another window.
    """
    if kind not in STAGES:
        raise ValueError(f"unknown stage {kind!r}, expected one of {', '.join(STAGES)}")
    normalizers = Normalizers.fit(data)
    result = "student" if kind == "joint" else kind
    seed = getattr(recipe, result).seed
    torch.manual_seed(generator(seed, 2**40).initial_seed() % 2**31)
    about: dict[str, Any] = {
        "schema": STAGE_SCHEMA,
        "kind": result,
        "dataset": str(data.name),
        "fingerprint": data.fingerprint,
        "modelled": "states" if data.name.task.domain == "maze2d" else "actions",
        "observation_dims": int(data.observations.shape[1]),
        "action_dims": int(data.actions.shape[1]),
    }
    if kind == "reward":
        stage = RewardStage(recipe.reward, recipe.window, data, normalizers, about, device)
        return stage, normalizers

    windows = make_windows(data, recipe.window, normalizers, device)
    about["context"] = 2 if about["modelled"] == "states" else recipe.window.history
    about["horizon"] = recipe.window.horizon
    network = recipe.regression.network if kind == "regression" else recipe.teacher.network
    about["network"] = network.model_dump(mode="json")
    if kind == "regression":
        return RegressionStage(recipe.regression, windows, about), normalizers
    about["noise"] = recipe.teacher.noise.model_dump(mode="json")
    if kind == "joint":
        return JointStage(recipe, data, windows, normalizers, about, device), normalizers
    if kind == "teacher":
        value = None
        if parent_kinds(kind, recipe):
            value = _parent(parents, "reward", about, device).network
        return TeacherStage(recipe.teacher, windows, about, value), normalizers
    teacher = _parent(parents, "teacher", about, device, "horizon", "context")
    reward = _parent(parents, "reward", about, device)
    # The warm start is a copy, so the student's noise levels are its teacher's own.
    about["noise"], about["network"] = teacher.about["noise"], teacher.about["network"]
    return StudentStage(recipe.student, windows, teacher, reward, about), normalizers


def _parent(
    parents: dict[str, Path], kind: str, child: dict[str, Any], device: torch.device, *also: str
) -> Model:
    path = parents[kind]
    model = load_model(path, kind, device=device)
    wrong = differences(model.about, child, *also)
    if wrong:
        raise CheckpointError(
            f"{path} is no {kind} for this {child['kind']}: it has {wrong}; train one on "
            f"{child['dataset']} with the same window"
        )
    return model
