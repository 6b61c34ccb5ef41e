"""Stages on a task that is not a maze: windows of actions from the last observations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.windows import ActionWindows
from ractd_core.diffusion.denoiser import Denoiser
from ractd_core.draws import Draws
from ractd_core.policy import Planner
from ractd_core.stages import (
    KINDS,
    RewardStage,
    StageModule,
    StudentStage,
    TeacherStage,
    load_model,
    make_stage,
)
from ractd_core.training import Metrics, Trainer
from tests.core.parts import changed, equal, weights

CPU = torch.device("cpu")
OBSERVED, ACTED = 11, 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_trains_and_its_file_gives_it_back(
    kind: str,
    tiny_actions: Recipe,
    hopper_data: FlatDataset,
    action_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    stage, normalizers = make_stage(kind, tiny_actions, hopper_data, action_models, CPU)
    before = weights(stage.network)
    seen: list[Metrics] = []
    trainer = Trainer(stage, stage.optim, seed=stage.seed, device=CPU)
    trainer.run(every=10, callback=lambda _, metrics: seen.append(metrics))
    assert all(np.isfinite(list(metrics.values())).all() for metrics in seen)
    assert not equal(before, weights(stage.network))

    path = tmp_path / "model.safetensors"
    stage.result(trainer.ema, normalizers).save(path)
    model = load_model(path, kind)
    assert equal(weights(model.network), weights(trainer.ema))
    fitted = Normalizers.fit(hopper_data).state_dict()
    for key, value in model.normalizers.state_dict().items():
        assert torch.equal(value, fitted[key])
    about = model.about
    assert about["modelled"] == "actions"
    assert (about["observation_dims"], about["action_dims"]) == (OBSERVED, ACTED)
    assert about.get("context") == (None if kind == "reward" else 2)
    # The residual MLP reads single steps.
    assert about["horizon"] == (1 if kind == "reward" else 16)


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("kind", ["teacher", "student", "regression"])
def test_windows_of_actions_are_planned_from_as_many_observations_as_there_is_history(
    kind: str, history: int, tiny: Recipe, hopper_data: FlatDataset, tmp_path: Path
) -> None:
    recipe = changed(tiny, window={"history": history})
    files: dict[str, Path] = {}
    kinds = ("teacher", "reward", "student") if kind == "student" else (kind,)
    for part in kinds:
        stage, normalizers = make_stage(part, recipe, hopper_data, files, CPU)
        files[part] = tmp_path / part
        stage.result(stage.network, normalizers).save(files[part])
    planner = Planner.load(files[kind], CPU)
    assert (planner.context, planner.horizon, planner.dims) == (history, 16, ACTED)
    assert planner.noise(3).shape == (1, 1, 16, ACTED)
    seen, z = torch.randn(5, history, OBSERVED), torch.randn(5, 1, 16, ACTED)
    plans = planner.plan(seen, z)
    assert plans.shape == (5, 16, ACTED)
    # Every one of the observations counts.
    for ago in range(history):
        other = seen.clone()
        other[:, ago] += 1
        assert not torch.equal(planner.plan(other, z), plans)


def test_the_networks_see_windows_of_actions_and_what_conditions_them(
    tiny_actions: Recipe, hopper_data: FlatDataset
) -> None:
    stage, _ = make_stage("teacher", tiny_actions, hopper_data, {}, CPU)
    assert isinstance(stage, TeacherStage)
    assert isinstance(stage.windows, ActionWindows)
    given: list[tuple[Tensor, ...]] = []
    stage.network.network.register_forward_pre_hook(lambda _, args: given.append(args))
    stage(Draws(0, 0, 8, CPU))
    x, _, _, cond = given[0]
    assert x.shape == (8, 16, ACTED)
    assert cond.shape == (8, 2 * OBSERVED)


def test_an_untrained_student_is_its_teacher(
    tiny_actions: Recipe, hopper_data: FlatDataset, action_models: dict[str, Path]
) -> None:
    stage, _ = make_stage("student", tiny_actions, hopper_data, action_models, CPU)
    assert isinstance(stage, StudentStage)
    assert isinstance(stage.teacher, Denoiser)
    stage.eval()
    x, cond = torch.randn(4, 16, ACTED), torch.randn(4, 2 * OBSERVED)
    t = torch.tensor([80.0, 9.0, 1.0, 0.1])
    lowest = torch.full_like(t, 0.02)
    ratio = (lowest / t)[:, None, None]
    expected = ratio * x + (1 - ratio) * stage.teacher(x, t, cond)
    torch.testing.assert_close(stage.network(x, t, lowest, cond), expected)
    torch.testing.assert_close(stage.target(x, t, lowest, cond), expected)


def test_the_reward_stage_learns_returns_of_the_actions_that_were_taken(
    tiny_actions: Recipe, hopper_data: FlatDataset
) -> None:
    recipe = changed(
        tiny_actions, reward={"termination_penalty": 50.0, "truncation": "zero", "held_out": 0}
    )
    stage, normalizers = make_stage("reward", recipe, hopper_data, {}, CPU)
    assert isinstance(stage, RewardStage)
    assert len(stage.training_windows) == hopper_data.transitions
    asked: list[Tensor] = []
    stage.network["model"].register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    stage(Draws(0, 0, 64, CPU))
    [inputs] = asked
    drawn = Draws(0, 0, 64, CPU).integers(hopper_data.transitions)
    final = hopper_data.bounds[1:] - 1
    actions = np.delete(hopper_data.actions, final, axis=0)
    observations = np.delete(hopper_data.observations, final, axis=0)
    assert inputs.shape == (64, 1, ACTED + OBSERVED)
    # The action comes first, as in the released code.
    torch.testing.assert_close(
        normalizers.actions.unnormalize(inputs[:, 0, :ACTED]), torch.tensor(actions)[drawn]
    )
    torch.testing.assert_close(
        normalizers.observations.unnormalize(inputs[:, 0, ACTED:]),
        torch.tensor(observations)[drawn],
        atol=1e-5,
        rtol=1e-5,
    )
    assert inputs.abs().max() <= 1 + 1e-5

    rtg = np.delete(returns_to_go(hopper_data, 0.99, "zero", 50.0), final)
    low, high = float(rtg.min()), float(rtg.max())
    # The penalty is what makes any return negative, so it has arrived.
    assert low < -40
    assert stage.about["return_scale"] == pytest.approx([low, high])
    expected = 2 * (rtg - low) / (high - low) - 1
    np.testing.assert_allclose(np.delete(stage.returns.numpy(), final), expected, atol=1e-5)
    said = stage.network["model"](inputs)
    wanted = torch.tensor(expected[drawn])[:, None]
    torch.testing.assert_close(
        stage(Draws(0, 0, 64, CPU))[0], (said - wanted).square().mean(), atol=1e-5, rtol=1e-5
    )


def test_the_reward_model_scores_the_students_first_action_in_its_newest_state(
    tiny_actions: Recipe, hopper_data: FlatDataset, action_models: dict[str, Path]
) -> None:
    recipe = changed(tiny_actions, student={"reward_weight": 1.0})
    stage, _ = make_stage("student", recipe, hopper_data, action_models, CPU)
    assert isinstance(stage, StudentStage)
    asked: list[Tensor] = []
    stage.value.register_forward_pre_hook(lambda _, args: asked.append(args[0].detach()))
    _, info = stage(Draws(0, 3, 8, CPU))
    scored, of_data = asked
    x0, cond = stage.windows.sample(Draws(0, 3, 8, CPU))
    for each in asked:
        assert each.shape == (8, 1, ACTED + OBSERVED)
        assert torch.equal(each[:, 0, ACTED:], cond[:, OBSERVED:])
    assert scored[..., :ACTED].abs().max() <= 1
    assert torch.equal(of_data[..., :ACTED], x0[:, :1])
    assert info["reward"].item() == pytest.approx(-stage.value(scored).mean().item(), rel=1e-5)


def test_the_reward_term_moves_the_students_first_action_up_the_reward(
    tiny_actions: Recipe, hopper_data: FlatDataset, action_models: dict[str, Path]
) -> None:
    def reward_after(weight: float) -> float:
        recipe = changed(
            tiny_actions,
            student={"reward_weight": weight, "ctm_weight": 0.0, "optim": {"steps": 40}},
        )
        stage, _ = make_stage("student", recipe, hopper_data, action_models, CPU)
        trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
        last: list[float] = []
        trainer.run(every=10, callback=lambda _, metrics: last.append(metrics["reward"]))
        return -last[-1]

    assert reward_after(10.0) > reward_after(1e-9) + 0.01


def test_a_resumed_student_of_actions_equals_the_uninterrupted_one_bit_for_bit(
    tiny_actions: Recipe, hopper_data: FlatDataset, action_models: dict[str, Path], tmp_path: Path
) -> None:
    recipe = changed(tiny_actions, student={"dropout": 0.3, "target_ema": 0.9})

    def trainer(name: str) -> Trainer:
        stage: StageModule
        stage, _ = make_stage("student", recipe, hopper_data, action_models, CPU)
        path = tmp_path / name
        return Trainer(stage, stage.optim, seed=0, device=CPU, checkpoint=path, identity="run")

    whole = trainer("whole")
    whole.run(every=5)
    trainer("parts").run(every=5, callback=lambda trainer, _: trainer.step == 10)
    torch.manual_seed(999)
    second = trainer("parts")
    assert second.step == 10
    second.run(every=5)
    assert equal(weights(second.ema), weights(whole.ema))
    left, right = load_file(tmp_path / "whole"), load_file(tmp_path / "parts")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
