"""Teachers whose own training has the reward term."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ractd_core.checkpoint import CheckpointError
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.draws import Draws
from ractd_core.policy import Planner
from ractd_core.stages import (
    StudentStage,
    TeacherStage,
    load_model,
    make_stage,
    parent_kinds,
)
from ractd_core.training import Trainer
from tests.core.parts import changed, equal, weights
from tests.core.test_core_parents import changed as with_header

CPU = torch.device("cpu")


def test_only_a_rewarded_teacher_has_a_reward_model(tiny: Recipe) -> None:
    assert parent_kinds("teacher", tiny) == ()
    rewarded = changed(tiny, teacher={"reward_weight": 0.1})
    assert parent_kinds("teacher", rewarded) == ("reward",)
    for recipe in (tiny, rewarded):
        assert parent_kinds("student", recipe) == ("reward", "teacher")
        for kind in ("reward", "regression", "joint"):
            assert parent_kinds(kind, recipe) == ()


@pytest.mark.parametrize("modelled", ["states", "actions"])
def test_a_rewarded_teachers_loss_is_its_own_less_the_reward_of_its_prediction(
    modelled: str, request: pytest.FixtureRequest
) -> None:
    states = modelled == "states"
    recipe: Recipe = request.getfixturevalue("tiny" if states else "tiny_actions")
    data: FlatDataset = request.getfixturevalue("umaze_data" if states else "hopper_data")
    files: dict[str, Path] = request.getfixturevalue("models" if states else "action_models")
    rewarded = changed(recipe, teacher={"reward_weight": 0.25})
    stage, _ = make_stage("teacher", rewarded, data, files, CPU)
    plain, _ = make_stage("teacher", recipe, data, {}, CPU)
    assert isinstance(stage, TeacherStage)
    assert isinstance(plain, TeacherStage)
    assert equal(weights(stage.network), weights(plain.network))
    value = load_model(files["reward"]).network
    clean: list[tuple[Tensor, Tensor]] = []
    stage.network.register_forward_hook(lambda _, args, out: clean.append((out, args[2])))
    loss, info = stage(Draws(0, 3, 8, CPU))
    [(window, cond)] = clean
    inside = window.clamp(-1, 1)
    asked = inside if states else torch.cat([inside[:, :1], cond[:, None, -11:]], dim=2)
    [scores] = value(asked).sum(2)
    own, _ = plain(Draws(0, 3, 8, CPU))
    torch.testing.assert_close(info["reward"], -scores.mean().detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, own - 0.25 * scores.mean(), atol=1e-4, rtol=1e-4)
    loss.backward()
    assert all(parameter.grad is None for parameter in value.parameters())


def test_a_rewarded_teacher_plans_for_more_reward_and_is_a_teacher(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    value = load_model(models["reward"])
    scores = []
    for weight in (0.0, 1.0):
        recipe = changed(tiny, teacher={"reward_weight": weight})
        stage, normalizers = make_stage("teacher", recipe, umaze_data, models, CPU)
        trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
        trainer.run(every=20)
        path = tmp_path / f"{weight}.safetensors"
        stage.result(trainer.ema, normalizers).save(path)
        planner = Planner.load(path, CPU)
        z = torch.cat([planner.noise(seed) for seed in range(8)])
        ends = torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(0))
        plans = normalizers.observations.normalize(planner.plan(ends, z))
        scores.append(float(value.network(plans).mean()))
    assert scores[1] > scores[0]
    student, _ = make_stage(
        "student", tiny, umaze_data, {**models, "teacher": tmp_path / "1.0.safetensors"}, CPU
    )
    assert isinstance(student, StudentStage)


def test_a_rewarded_teacher_needs_a_reward_model_of_its_data(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    rewarded = changed(tiny, teacher={"reward_weight": 0.1})
    other = with_header(models["reward"], tmp_path, fingerprint="f" * 64)
    with pytest.raises(CheckpointError, match="is no reward for this teacher"):
        make_stage("teacher", rewarded, umaze_data, {"reward": other}, CPU)
