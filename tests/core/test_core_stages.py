"""Stages: initial weights, what a model file holds, frozen parts, the target network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ractd_core.checkpoint import CheckpointError, load_checkpoint
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.normalizer import LimitsNormalizer
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws
from ractd_core.models.unet import TemporalUNet
from ractd_core.models.value import RewardModel
from ractd_core.stages import KINDS, Model, RewardStage, StudentStage, load_model, make_stage
from ractd_core.training import Trainer
from tests.core.parts import equal, weights

CPU = torch.device("cpu")


def changed(recipe: Recipe, kind: str, **fields: object) -> Recipe:
    return Recipe.model_validate(
        {**recipe.model_dump(), kind: {**getattr(recipe, kind).model_dump(), **fields}}
    )


@pytest.mark.parametrize("kind", ["teacher", "reward", "regression"])
def test_initial_weights_depend_on_the_stages_seed_alone(
    kind: str, tiny: Recipe, umaze_data: FlatDataset
) -> None:
    def initial(recipe: Recipe, noise: int) -> list[Tensor]:
        torch.manual_seed(noise)
        return weights(make_stage(kind, recipe, umaze_data, {}, CPU)[0].network)

    first = initial(tiny, 1)
    assert equal(first, initial(tiny, 2))
    steps = {"steps": 7, "batch_size": 2}
    assert equal(first, initial(changed(tiny, kind, optim=steps), 1))
    assert not equal(first, initial(changed(tiny, kind, seed=1), 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_gives_back_the_model(
    kind: str, models: dict[str, Path], umaze_data: FlatDataset
) -> None:
    model = load_model(models[kind])
    classes = {
        "teacher": Denoiser,
        "reward": RewardModel,
        "student": ConsistencyTrajectory,
        "regression": TemporalUNet,
    }
    assert type(model.network) is classes[kind]
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.about["kind"] == kind
    assert model.about["modelled"] == "states"
    assert (model.about["observation_dims"], model.about["action_dims"]) == (4, 2)
    # A plan is conditioned on two states, its first and its last.
    assert model.about.get("context") == (None if kind == "reward" else 2)
    tensors, about = load_checkpoint(models[kind])
    assert about == model.about
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, tensors[f"network.{key}"])
    acted = np.delete(umaze_data.actions, umaze_data.bounds[1:] - 1, axis=0)
    for values, normalizer in (
        (umaze_data.observations, model.normalizers.observations),
        (acted, model.normalizers.actions),
    ):
        fitted = LimitsNormalizer.fit(values)
        assert torch.equal(normalizer.low, fitted.low)
        assert torch.equal(normalizer.scale, fitted.scale)


def test_what_is_saved_is_the_trainers_average(
    tiny: Recipe, umaze_data: FlatDataset, tmp_path: Path
) -> None:
    stage, normalizers = make_stage("regression", tiny, umaze_data, {}, CPU)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    trainer.run(every=20)
    assert not equal(weights(trainer.ema), weights(trainer.network))
    stage.result(trainer.ema, normalizers).save(tmp_path / "model")
    assert equal(weights(load_model(tmp_path / "model").network), weights(trainer.ema))


def test_a_model_of_another_kind_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="holds a reward model, expected teacher or student"):
        load_model(models["reward"], "teacher", "student")
    assert load_model(models["reward"], "teacher", "reward").about["kind"] == "reward"


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_truncated_model_is_refused_by_name(
    models: dict[str, Path], tmp_path: Path, part: float
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(models["teacher"].read_bytes())
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or damaged"):
        load_model(path, "teacher")


def test_unknown_stages_are_refused(tiny: Recipe, umaze_data: FlatDataset) -> None:
    with pytest.raises(ValueError, match=r"unknown stage 'critic'.*teacher, reward, student"):
        make_stage("critic", tiny, umaze_data, {}, CPU)


def test_a_student_needs_a_teacher_for_a_teacher(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    swapped = {"teacher": models["reward"], "reward": models["teacher"]}
    with pytest.raises(CheckpointError, match="holds a reward model, expected teacher"):
        make_stage("student", tiny, umaze_data, swapped, CPU)
    missing = {"teacher": tmp_path / "none", "reward": models["reward"]}
    with pytest.raises(CheckpointError, match="none: no such checkpoint"):
        make_stage("student", tiny, umaze_data, missing, CPU)


def test_the_students_noise_and_network_are_its_teachers(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    other = changed(tiny, "teacher", noise={"bins": 7}, network={"widths": [16], "patch": 2})
    stage, _ = make_stage("student", other, umaze_data, models, CPU)
    assert isinstance(stage, StudentStage)
    assert stage.network.noise == tiny.teacher.noise
    assert stage.about["network"]["patch"] == 4
    x, cond, t = torch.randn(3, 16, 4), torch.randn(3, 8), torch.tensor([80.0, 1.0, 0.1])
    assert isinstance(stage.teacher, Denoiser)
    stage.eval()
    lowest = torch.full_like(t, 0.02)
    ratio = (lowest / t)[:, None, None]
    expected = ratio * x + (1 - ratio) * stage.teacher(x, t, cond)
    torch.testing.assert_close(stage.network(x, t, lowest, cond), expected)
    torch.testing.assert_close(stage.target(x, t, lowest, cond), expected)


def test_frozen_parts_stay_in_eval_mode_and_unchanged(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    recipe = changed(tiny, "student", dropout=0.3, target_ema=0.5)
    stage, _ = make_stage("student", recipe, umaze_data, models, CPU)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    assert isinstance(stage, StudentStage)
    frozen = (stage.target, stage.teacher, stage.value)

    def check(*_: object) -> None:
        assert stage.network.training
        for part in frozen:
            assert not any(module.training for module in part.modules())
            assert all(parameter.grad is None for parameter in part.parameters())

    stage.train()
    check()
    before = [weights(stage.teacher), weights(stage.value)]
    student_before = weights(stage.network)
    trainer.run(every=1, callback=check)
    assert equal(before[0], weights(stage.teacher))
    assert equal(before[1], weights(stage.value))
    assert not equal(student_before, weights(stage.network))
    assert not equal(weights(stage.target), weights(stage.network))
    stage.eval()
    assert not any(module.training for module in stage.modules())


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9])
def test_the_target_moves_towards_the_student(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], decay: float
) -> None:
    recipe = changed(tiny, "student", target_ema=decay)
    stage, _ = make_stage("student", recipe, umaze_data, models, CPU)
    assert isinstance(stage, StudentStage)
    old = weights(stage.target)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.add_(torch.randn_like(parameter))
    stage.after_step()
    for target, before, network in zip(
        weights(stage.target), old, weights(stage.network), strict=True
    ):
        torch.testing.assert_close(target, decay * before + (1 - decay) * network)
    if decay == 0:
        assert equal(weights(stage.target), weights(stage.network))


def test_the_reward_stage_learns_normalized_returns_of_normalized_states(
    tiny: Recipe, umaze_data: FlatDataset
) -> None:
    stage, normalizers = make_stage(
        "reward", changed(tiny, "reward", held_out=0), umaze_data, {}, CPU
    )
    assert isinstance(stage, RewardStage)
    asked: list[Tensor] = []
    stage.network["model"].register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    loss, _ = stage(Draws(0, 0, 64, CPU))
    [inputs] = asked
    # Every state counts, the final ones too.
    drawn = Draws(0, 0, 64, CPU).integers(len(umaze_data.observations))
    config = tiny.reward
    rtg = returns_to_go(umaze_data, config.discount, config.truncation).astype(np.float64)
    low, high = rtg.min(), rtg.max()
    assert stage.about["return_scale"] == pytest.approx([low, high])
    expected = 2 * (rtg - low) / (high - low) - 1
    np.testing.assert_allclose(stage.returns.numpy(), expected, atol=1e-5)
    assert inputs.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(
        normalizers.observations.unnormalize(inputs[:, 0]),
        torch.tensor(umaze_data.observations)[drawn],
        atol=1e-5,
        rtol=1e-5,
    )
    wanted = torch.tensor(expected[drawn], dtype=torch.float32)[:, None]
    said = stage.network["model"](inputs)
    torch.testing.assert_close(loss, (said - wanted).square().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stages_loss_depends_on_its_draws_alone(
    kind: str, tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    stage, _ = make_stage(kind, tiny, umaze_data, models, CPU)
    losses = []
    for step, noise in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(noise)
        losses.append(stage(Draws(0, step, 32, CPU))[0].item())
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_the_mean_over_workers_is_the_loss_of_the_batch(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    recipe = changed(tiny, "student", reward_weight=0.1)
    stage, _ = make_stage("student", recipe, umaze_data, models, CPU)
    whole = stage(Draws(0, 5, 16, CPU))[0].item()
    shares = [stage(Draws(0, 5, 16, CPU, rank=r, workers=4))[0].item() for r in range(4)]
    assert np.mean(shares) == pytest.approx(whole, rel=1e-4)
    assert len(set(shares)) == 4


def test_models_are_the_same_on_every_save(models: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(models["student"])
    model.save(tmp_path / "one")
    Model(model.network, model.normalizers, model.about).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
