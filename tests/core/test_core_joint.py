"""Teacher, reward model and student trained at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.diffusion.denoiser import ConsistencyTrajectory
from ractd_core.draws import Draws
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import (
    JointStage,
    RewardStage,
    StudentStage,
    TeacherStage,
    load_model,
    make_stage,
)
from ractd_core.tasks import DatasetName
from ractd_core.training import Trainer
from tests.core.parts import changed, equal, weights

CPU = torch.device("cpu")


FEW: dict[str, dict[str, object]] = {
    "teacher": {"optim": {"steps": 3}},
    "student": {"optim": {"steps": 3, "batch_size": 8}},
}


def joint(recipe: Recipe, data: FlatDataset) -> JointStage:
    stage, _ = make_stage("joint", recipe, data, {}, CPU)
    assert isinstance(stage, JointStage)
    return stage


def networks_of(stage: JointStage) -> dict[str, nn.Module]:
    return {
        "teacher": stage.teacher.network,
        "reward": stage.reward.network,
        "student": stage.student.network,
    }


def test_its_first_loss_is_the_sum_of_the_three_stages(
    tiny: Recipe, umaze_data: FlatDataset
) -> None:
    stage = joint(changed(tiny, student={"reward_weight": 0.1}), umaze_data)
    parts = (stage.teacher, stage.reward, stage.student)
    kinds = (TeacherStage, RewardStage, StudentStage)
    assert tuple(map(type, parts)) == kinds
    loss, info = stage(Draws(0, 0, 8, CPU))
    # Each goes on drawing from the step's numbers where the one before has ended.
    draws = Draws(0, 0, 8, CPU)
    alone = [part(draws)[0] for part in parts]
    torch.testing.assert_close(loss, torch.stack(alone).sum())
    found = [info[f"{name}_loss"] for name in ("teacher", "value", "student")]
    torch.testing.assert_close(torch.stack(found), torch.stack(alone).detach())
    assert {"ctm", "dsm", "reward"} <= info.keys()
    assert info["loss"] == loss.detach()


def test_each_network_is_moved_by_its_own_loss_alone(tiny: Recipe, umaze_data: FlatDataset) -> None:
    stage = joint(changed(tiny, student={"reward_weight": 0.1}), umaze_data)
    networks = networks_of(stage)
    for name, part in (
        ("teacher", stage.teacher),
        ("reward", stage.reward),
        ("student", stage.student),
    ):
        stage.network.zero_grad(set_to_none=True)
        part(Draws(0, 0, 8, CPU))[0].backward()
        for other, network in networks.items():
            moved = any(parameter.grad is not None for parameter in network.parameters())
            assert moved == (other == name), (name, other)
    trained = {id(parameter) for parameter in stage.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in stage.network.parameters()}


@pytest.mark.parametrize("reward_weight", [0.0, 0.1])
def test_the_student_learns_from_the_teacher_and_the_reward_model_of_now(
    reward_weight: float, tiny: Recipe, umaze_data: FlatDataset
) -> None:
    recipe = changed(
        tiny,
        teacher={**FEW["teacher"], "reward_weight": reward_weight, "dropout": 0.2},
        student={**FEW["student"], "dropout": 0.2, "target_ema": 0.5},
    )
    stage = joint(recipe, umaze_data)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    before = {name: weights(network) for name, network in networks_of(stage).items()}

    def check(*_: object) -> None:
        copies = {"teacher": stage.student.teacher, "reward": stage.student.value}
        for name, copied in copies.items():
            assert equal(weights(copied), weights(networks_of(stage)[name])), name
        for frozen in (*copies.values(), stage.student.target):
            assert not any(module.training for module in frozen.modules())
            assert not any(parameter.requires_grad for parameter in frozen.parameters())
            assert all(parameter.grad is None for parameter in frozen.parameters())

    stage.train()
    check()
    trainer.run(every=3, callback=check)
    for name, network in networks_of(stage).items():
        assert not equal(before[name], weights(network)), name
    assert not equal(weights(stage.student.target), weights(stage.student.network))


def test_it_takes_as_many_steps_as_teacher_and_student_one_after_the_other(
    tiny: Recipe, umaze_data: FlatDataset
) -> None:
    recipe = changed(
        tiny,
        teacher={"optim": {"steps": 7, "lr": 1.0}},
        student={"optim": {"steps": 5, "batch_size": 4, "lr": 0.25}, "seed": 9},
    )
    stage = joint(recipe, umaze_data)
    assert (stage.optim.steps, stage.optim.batch_size, stage.optim.lr) == (12, 4, 0.25)
    assert stage.seed == 9


def test_initial_weights_depend_on_the_students_seed_alone(
    tiny: Recipe, umaze_data: FlatDataset
) -> None:
    first = weights(joint(tiny, umaze_data).network)
    torch.manual_seed(5)
    assert equal(first, weights(joint(changed(tiny, teacher={"seed": 3}), umaze_data).network))
    other = weights(joint(changed(tiny, student={"seed": 3}), umaze_data).network)
    assert not equal(first, other)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tiny: Recipe, umaze_data: FlatDataset, tmp_path: Path
) -> None:
    recipe = changed(
        tiny,
        teacher={"optim": {"steps": 6}, "dropout": 0.1},
        student={"optim": {"steps": 6, "batch_size": 8}, "target_ema": 0.5, "dropout": 0.1},
    )

    def train(checkpoint: Path, until: int) -> None:
        stage = joint(recipe, umaze_data)
        trainer = Trainer(stage, stage.optim, seed=1, device=CPU, checkpoint=checkpoint)
        trainer.run(every=4, callback=lambda trainer, _: trainer.step >= until)

    train(tmp_path / "whole", 12)
    for until in (4, 8, 12):
        train(tmp_path / "parts", until)
    whole, parts = load_file(tmp_path / "whole"), load_file(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for part in ("memory.teacher.", "memory.reward.", "memory.student.target."):
        assert any(key.startswith(part) for key in whole)
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


def test_what_comes_out_is_a_student_that_says_how_it_was_trained(
    tiny: Recipe, umaze: DatasetName, umaze_data: FlatDataset, tmp_path: Path
) -> None:
    stage, normalizers = make_stage("joint", changed(tiny, **FEW), umaze_data, {}, CPU)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    trainer.run(every=6)
    path = tmp_path / "model.safetensors"
    stage.result(trainer.ema, normalizers).save(path)
    model = load_model(path, "student")
    assert isinstance(model.network, ConsistencyTrajectory)
    assert isinstance(trainer.ema, nn.ModuleDict)
    assert equal(weights(model.network), weights(trainer.ema["student"]))
    assert (model.about["kind"], model.about["trained"]) == ("student", "jointly")
    result = evaluate(make_policy(Planner.load(path, CPU)), umaze, [0])
    assert len(result.returns) == 1


def test_windows_of_actions_are_learnt_jointly_too(
    tiny_actions: Recipe, hopper_data: FlatDataset
) -> None:
    recipe = changed(tiny_actions, **FEW)
    stage, normalizers = make_stage("joint", recipe, hopper_data, {}, CPU)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    trainer.run(every=6)
    planner = Planner(stage.result(trainer.ema, normalizers), CPU)
    seen = torch.zeros(2, planner.context, planner.observation_dims)
    z = torch.cat([planner.noise(seed) for seed in (0, 1)])
    assert planner.plan(seen, z).shape == (2, 16, 3)
