"""What a reward model is trained on, what is kept from it, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ractd_core.checkpoint import CheckpointError
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.draws import Draws
from ractd_core.models.value import RewardModel
from ractd_core.stages import Model, RewardStage, StudentStage, load_model, make_stage
from ractd_core.tasks import DatasetName
from ractd_core.training import Metrics, Trainer
from tests.core.parts import changed

CPU = torch.device("cpu")


def reward_stage(recipe: Recipe, data: FlatDataset, **fields: object) -> RewardStage:
    stage, _ = make_stage("reward", changed(recipe, reward=fields), data, {}, CPU)
    assert isinstance(stage, RewardStage)
    return stage


def trained(recipe: Recipe, data: FlatDataset, **fields: object) -> Model:
    stage, normalizers = make_stage("reward", changed(recipe, reward=fields), data, {}, CPU)
    trainer = Trainer(stage, stage.optim, seed=stage.seed, device=CPU)
    trainer.run(every=1000)
    return stage.result(trainer.ema, normalizers)


def equal(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def network_of(model: Model) -> RewardModel:
    assert isinstance(model.network, RewardModel)
    return model.network


def note(seen: list[Metrics], trainer: Trainer, metrics: Metrics) -> None:
    seen.append(metrics)


# Held-out episodes


def held_out_rows(stage: RewardStage) -> set[int]:
    return set(stage.windows.rows(stage.held_out_windows).flatten().tolist())


@pytest.mark.parametrize("fields", [{}, {"target": "advantage"}, {"network": "conv"}])
def test_nothing_of_a_held_out_episodes_rewards_reaches_the_model(
    fields: dict[str, object], tiny_actions: Recipe, hopper_data: FlatDataset
) -> None:
    kept = held_out_rows(reward_stage(tiny_actions, hopper_data, held_out=0.25, **fields))
    rewards = hopper_data.rewards.copy()
    acted = [row for row in kept if row != hopper_data.last_rows[row]]
    rewards[acted] = 1e3
    other = replace(hopper_data, rewards=rewards)
    one, two = (trained(tiny_actions, d, held_out=0.25, **fields) for d in (hopper_data, other))
    assert equal(one.network, two.network)
    assert one.about["return_scale"] == two.about["return_scale"]
    first, second = one.about["measured"], two.about["measured"]
    assert first["r2"] == second["r2"]
    assert first["held_out_r2"] != second["held_out_r2"]
    # The same change to an episode that trains is not without effect.
    rewards = hopper_data.rewards.copy()
    rewards[next(row for row in range(400) if row not in kept)] = 1e3
    third = trained(tiny_actions, replace(hopper_data, rewards=rewards), held_out=0.25, **fields)
    assert not equal(one.network, third.network)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.05, 0), (0.1, 1), (0.5, 6), (0.999, 11)])
def test_whole_episodes_are_held_out_and_one_always_trains(
    share: float, count: int, tiny_actions: Recipe, hopper_data: FlatDataset
) -> None:
    stage = reward_stage(tiny_actions, hopper_data, held_out=share)
    apart = {row // 41 for row in held_out_rows(stage)}
    assert len(apart) == count
    assert len(stage.held_out_windows) == 40 * count
    seen = set(stage.windows.rows(stage.training_windows).flatten().tolist())
    assert {row // 41 for row in seen} == set(range(12)) - apart
    other = reward_stage(tiny_actions, hopper_data, held_out=share, seed=1)
    assert torch.equal(
        stage.held_out_windows,
        reward_stage(tiny_actions, hopper_data, held_out=share).held_out_windows,
    )
    assert count != 6 or not torch.equal(stage.held_out_windows, other.held_out_windows)


def test_an_episode_without_a_window_is_not_the_one_that_trains(
    tiny_actions: Recipe, hopper: DatasetName
) -> None:
    """Windows inside episodes of 16 actions: short ones have none, and one long one must train."""
    lengths = np.array([3] * 6 + [20, 20])
    bounds = np.concatenate([[0], np.cumsum(lengths + 1)])
    rows, rng = int(bounds[-1]), np.random.default_rng(0)
    data = FlatDataset(
        hopper,
        rng.normal(size=(rows, 11)).astype(np.float32),
        rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        rng.normal(size=rows).astype(np.float32),
        bounds,
        np.zeros(8, dtype=np.bool_),
    )
    recipe = changed(tiny_actions, window={"padding": "none"})
    for seed in range(4):
        stage = reward_stage(recipe, data, network="conv", held_out=0.9, seed=seed)
        assert len(stage.training_windows) == len(stage.held_out_windows) == 5
        stage(Draws(0, 0, 8, CPU))


# What is measured


@pytest.mark.parametrize("fields", [{}, {"network": "conv"}, {"target": "advantage"}])
def test_the_accuracy_is_one_less_the_unexplained_share_of_the_variance(
    fields: dict[str, object], tiny_actions: Recipe, hopper_data: FlatDataset, tmp_path: Path
) -> None:
    recipe = changed(tiny_actions, reward={"members": 2, "held_out": 0.25, **fields})
    stage, normalizers = make_stage("reward", recipe, hopper_data, {}, CPU)
    assert isinstance(stage, RewardStage)
    model = stage.result(stage.network, normalizers)
    measured = model.about["measured"]
    assert set(measured) == {"r2", "held_out_r2", "mean", "spread", "gradient", "disagreement"}
    assert all(isinstance(value, float) for value in measured.values())
    for key, windows in (("r2", stage.training_windows), ("held_out_r2", stage.held_out_windows)):
        # Every window of these, not a sample of them.
        x0, cond = stage.windows.at(windows)
        inputs = torch.cat([x0, cond[:, None].expand(-1, x0.shape[1], -1)], dim=2)
        said = network_of(model)(inputs).detach()[:, :, 0].numpy()
        rows = stage.windows.rows(windows)[:, 0]
        target = stage.returns[rows].numpy()
        if stage.advantages is not None:
            target = stage.advantages.target(stage.network["baseline"], rows).numpy()
        left = np.mean((said.mean(0) - target) ** 2)
        assert measured[key] == pytest.approx(1 - left / np.var(target), rel=0.1, abs=0.05)
        if key == "r2":
            assert measured["mean"] == pytest.approx(said.mean(), abs=0.05)
            # Every action, or window of actions, in every state.
            states = [state.expand(*x0.shape[:2], -1) for state in cond]
            under = torch.stack([network_of(model)(torch.cat([x0, s], dim=2)) for s in states])
            spread = under.detach()[..., 0].mean(1).std(1, correction=0).square().mean().sqrt()
            assert measured["spread"] == pytest.approx(float(spread), rel=0.1)
            apart = np.abs(said[0] - said[1]).mean() / np.sqrt(2)
            assert measured["disagreement"] == pytest.approx(apart, rel=0.1)
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model", "reward").about["measured"] == measured


def test_a_linear_models_gradient_is_its_slope(
    tiny: Recipe, tiny_actions: Recipe, umaze_data: FlatDataset, hopper_data: FlatDataset
) -> None:
    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.arange(1.0, x.shape[-1] + 1)).sum(-1)

    # Of states all entries can be changed, beside observations the three of an action.
    for recipe, data, slope in (
        (tiny, umaze_data, np.sqrt(1 + 4 + 9 + 16)),
        (tiny_actions, hopper_data, np.sqrt(1 + 4 + 9)),
    ):
        for network in ("mlp", "conv"):
            stage, normalizers = make_stage(
                "reward", changed(recipe, reward={"network": network}), data, {}, CPU
            )
            assert isinstance(stage, RewardStage)
            model = stage.network["model"]
            assert isinstance(model, RewardModel)
            model.members[0] = Linear()
            measured = stage.result(stage.network, normalizers).about["measured"]
            assert measured["gradient"] == pytest.approx(slope, rel=1e-5)


def test_targets_that_are_all_equal_leave_no_accuracy(
    tiny: Recipe, umaze_data: FlatDataset
) -> None:
    data = replace(umaze_data, rewards=np.zeros_like(umaze_data.rewards))
    measured = trained(tiny, data).about["measured"]
    assert measured["r2"] is None
    assert measured["held_out_r2"] is None
    assert measured["disagreement"] is None
    assert np.isfinite([measured[key] for key in ("mean", "spread", "gradient")]).all()


# Ensembles


def test_members_disagree_most_where_there_are_no_data(
    tiny_actions: Recipe, hopper: DatasetName
) -> None:
    """Actions of the data's lower half alone: what the upper half is worth nobody has seen."""
    data = bandit(hopper, noise=0.0, seed=0)
    actions = -np.abs(data.actions)
    actions[0] = 1
    model = trained(
        tiny_actions,
        replace(data, actions=actions),
        members=4,
        held_out=0,
        widths=[16],
        optim={"steps": 150, "batch_size": 64, "lr": 3e-3, "ema_decay": 0.9},
    )

    def disagreement(low: float, high: float) -> float:
        source = torch.Generator().manual_seed(0)
        x = 2 * torch.rand(500, 1, 3, generator=source) - 1
        x[..., 0] = torch.linspace(low, high, 500)[:, None]
        return float(network_of(model)(x).std(0).mean())

    assert disagreement(0.5, 1.0) > 2 * disagreement(-1.0, -0.5)


# Advantages


BEST = 0.3


def bandit(name: DatasetName, noise: float, seed: int) -> FlatDataset:
    """Every step pays -(a - BEST)² and what its state happens to pay, which no action changes."""
    rng = np.random.default_rng(seed)
    episodes, steps = 60, 30
    rows, bounds = episodes * (steps + 1), np.arange(episodes + 1) * (steps + 1)
    clock = np.tile(np.linspace(-1, 1, steps + 1), episodes)
    observations = np.stack([rng.uniform(-1, 1, rows), clock], axis=1)
    actions = rng.uniform(-1, 1, (rows, 1))
    rewards = -((actions[:, 0] - BEST) ** 2) + noise * observations[:, 0]
    actions[bounds[1:] - 1], rewards[bounds[1:] - 1] = 0, 0
    return FlatDataset(
        name,
        observations.astype(np.float32),
        actions.astype(np.float32),
        rewards.astype(np.float32),
        bounds,
        np.zeros(episodes, dtype=np.bool_),
    )


def slopes(model: Model) -> tuple[Tensor, Tensor]:
    """Of actions in 50 states, how far from the best one they are, and the model's slope there."""
    source = torch.Generator().manual_seed(1)
    actions = torch.linspace(-0.9, 0.9, 37).repeat(50)
    states = (2 * torch.rand(50, 2, generator=source) - 1).repeat_interleave(37, dim=0)
    x = torch.cat([actions[:, None], states], dim=1)[:, None].requires_grad_()
    [slope] = torch.autograd.grad(network_of(model).lower(x).sum(), x)
    best = model.normalizers.actions.normalize(torch.tensor([BEST]))
    return best - actions, slope[:, 0, 0]


def wrong_signs(model: Model) -> float:
    """The share of actions, 0.1 or more from the best one, that are pulled away from it."""
    distance, slope = slopes(model)
    far = distance.abs() > 0.1
    return float((slope.sign() != distance.sign())[far].float().mean())


BANDIT: dict[str, Any] = {
    "widths": [32],
    "discount": 0.99,
    "truncation": "zero",
    "optim": {"steps": 300, "batch_size": 128, "lr": 1e-2, "ema_decay": 0.98},
}


def test_advantages_pull_actions_to_the_best_one(tiny_actions: Recipe, hopper: DatasetName) -> None:
    model = trained(
        tiny_actions, bandit(hopper, 0.0, 0), target="advantage", advantage_steps=1, **BANDIT
    )
    assert wrong_signs(model) == 0
    distance, slope = slopes(model)
    both = torch.stack([distance, slope])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98
    # In units of their spread: of -(a - 0.3)² under a uniform action, sqrt(4/45 + 0.36/3).
    scale = float((slope * distance).sum() / distance.square().sum())
    assert scale == pytest.approx(2 / np.sqrt(4 / 45 + 0.12), rel=0.1)
    assert model.about["measured"]["held_out_r2"] > 0.95


def test_what_states_happen_to_pay_drowns_returns_before_advantages(
    tiny_actions: Recipe, hopper: DatasetName
) -> None:
    data = bandit(hopper, 2.0, seed=0)
    wrong = {
        target: wrong_signs(trained(tiny_actions, data, target=target, advantage_steps=1, **BANDIT))
        for target in ("return", "advantage")
    }
    assert wrong["advantage"] < 0.03
    assert wrong["advantage"] < wrong["return"] / 2


def test_states_have_no_advantage(tiny: Recipe, umaze_data: FlatDataset) -> None:
    with pytest.raises(ValueError, match=r"reward\.target advantage is of actions.*maze2d-umaze"):
        reward_stage(tiny, umaze_data, target="advantage")


def test_the_baseline_is_trained_beside_the_model_and_left_behind(
    tiny_actions: Recipe, hopper_data: FlatDataset, tmp_path: Path
) -> None:
    recipe = changed(tiny_actions, reward={"target": "advantage", "held_out": 0})
    stage, normalizers = make_stage("reward", recipe, hopper_data, {}, CPU)
    assert isinstance(stage, RewardStage)
    loss, info = stage(Draws(0, 0, 32, CPU))
    index = Draws(0, 0, 32, CPU).integers(480)
    rows = stage.windows.starts[index]
    seen = normalizers.observations.normalize(torch.tensor(hopper_data.observations))
    promised = stage.network["baseline"](seen[rows])
    rtg = returns_to_go(hopper_data, 0.99, "hold")
    low, high = rtg.min(), rtg.max()
    wanted = torch.tensor(2 * (rtg - low) / (high - low) - 1)[rows]
    torch.testing.assert_close(info["baseline"], (promised - wanted).square().mean().detach())
    torch.testing.assert_close(loss.detach(), info["loss"] + info["baseline"])
    # The advantage is a target: it does not move the baseline.
    loss.backward()
    moved = [p.grad for p in stage.network["baseline"].parameters()]
    stage.network.zero_grad()
    (stage.network["baseline"](seen[rows]) - wanted).square().mean().backward()
    for grad, parameter in zip(moved, stage.network["baseline"].parameters(), strict=True):
        assert grad is not None
        torch.testing.assert_close(grad, parameter.grad)
    stage.result(stage.network, normalizers).save(tmp_path / "model")
    assert isinstance(load_model(tmp_path / "model", "reward").network, RewardModel)


# The student under it


def pull(recipe: Recipe, data: FlatDataset, parents: dict[str, Path]) -> Tensor:
    """The gradient of the student's reward term on one window."""
    stage, _ = make_stage("student", recipe, data, parents, CPU)
    assert isinstance(stage, StudentStage)
    x0, cond = stage.windows.sample(Draws(0, 0, 8, CPU))
    x0.requires_grad_()
    [slope] = torch.autograd.grad(stage.reward_loss(x0, cond, Draws(0, 1, 8, CPU)), x0)
    return slope


@pytest.mark.parametrize("target", ["return", "advantage"])
def test_data_that_pay_ten_times_as_much_pull_alike(
    target: str,
    tiny_actions: Recipe,
    hopper_data: FlatDataset,
    action_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    recipe = changed(tiny_actions, reward={"target": target}, student={"reward_scale": "gradient"})
    pulls = []
    for factor in (1, 10):
        data = replace(hopper_data, rewards=factor * hopper_data.rewards)
        stage, normalizers = make_stage("reward", recipe, data, {}, CPU)
        trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
        trainer.run(every=20)
        path = tmp_path / f"{factor}"
        model = stage.result(trainer.ema, normalizers)
        model.about["fingerprint"] = hopper_data.fingerprint
        model.save(path)
        pulls.append(pull(recipe, hopper_data, {**action_models, "reward": path}))
    torch.testing.assert_close(
        pulls[1], pulls[0], rtol=1e-2, atol=1e-4 * float(pulls[0].abs().max())
    )


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_gradients_scale_is_one_whatever_the_models(
    network: str,
    tiny: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    recipe = changed(tiny, reward={"network": network, "held_out": 0})
    stage, normalizers = make_stage("reward", recipe, umaze_data, {}, CPU)
    model = network_of(stage.result(stage.network, normalizers))
    norms = {}
    for factor in (1.0, 50.0):
        for member in model.members:
            assert isinstance(member.out, nn.Linear)
            with torch.no_grad():
                member.out.weight.mul_(factor)
        path = tmp_path / f"{factor}"
        stage.result(stage.network, normalizers).save(path)
        for scale in ("none", "gradient"):
            scaled = changed(recipe, student={"reward_scale": scale, "reward_states": None})
            slope = pull(scaled, umaze_data, {**models, "reward": path})
            norms[factor, scale] = float(8 * slope.norm(dim=-1).mean())
    assert norms[50.0, "none"] == pytest.approx(50 * norms[1.0, "none"], rel=1e-3)
    assert norms[1.0, "gradient"] == pytest.approx(1, rel=0.25)
    assert norms[50.0, "gradient"] == pytest.approx(norms[1.0, "gradient"], rel=1e-3)


def test_joint_training_has_no_gradient_to_scale_by(tiny: Recipe, umaze_data: FlatDataset) -> None:
    recipe = changed(tiny, student={"reward_scale": "gradient"})
    with pytest.raises(ValueError, match=r"student\.reward_scale gradient needs a reward model"):
        make_stage("joint", recipe, umaze_data, {}, CPU)


def test_one_member_does_not_disagree_with_itself(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    # The recipe's reward model is an ensemble, the file at hand is not.
    recipe = changed(tiny, reward={"members": 2}, student={"pessimism": 0.5})
    with pytest.raises(ValueError, match=r"pessimism 0\.5 .*, and the reward model has 1 member"):
        make_stage("student", recipe, umaze_data, models, CPU)


@pytest.mark.parametrize("modelled", ["states", "actions"])
@pytest.mark.parametrize(
    "fields",
    [
        {"network": "conv", "widths": [8, 8]},
        {"members": 3},
        {"network": "conv", "members": 2},
    ],
)
def test_every_reward_model_serves_a_student_and_a_teacher(
    fields: dict[str, object], modelled: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    states = modelled == "states"
    data = request.getfixturevalue("umaze_data" if states else "hopper_data")
    files = request.getfixturevalue("models" if states else "action_models")
    recipe = changed(
        request.getfixturevalue("tiny" if states else "tiny_actions"),
        reward=fields,
        teacher={"reward_weight": 0.01},
        student={"pessimism": 1.0 if "members" in fields else 0.0, "trust_radius": 0.5},
    )
    path = tmp_path / "reward"
    model = trained(recipe, data)
    model.save(path)
    assert len(network_of(load_model(path, "reward")).members) == fields.get("members", 1)
    for kind in ("teacher", "student"):
        stage, _ = make_stage(kind, recipe, data, {**files, "reward": path}, CPU)
        seen: list[Metrics] = []
        trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
        trainer.run(every=10, callback=partial(note, seen))
        assert all(np.isfinite(list(metrics.values())).all() for metrics in seen)
        assert all(metrics["reward"] != 0 for metrics in seen)


def test_convolutions_serve_windows_of_the_horizon_they_were_trained_on(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    longer = changed(tiny, window={"horizon": 32}, reward={"network": "conv"})
    path = tmp_path / "reward"
    trained(longer, umaze_data).save(path)
    with pytest.raises(CheckpointError, match="is no reward for this student: it has horizon 32"):
        make_stage("student", tiny, umaze_data, {**models, "reward": path}, CPU)
