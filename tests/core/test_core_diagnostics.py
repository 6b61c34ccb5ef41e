"""Diagnostics: right answers where they are known, the same ones every time, on both domains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from ractd_core.config import NoiseConfig, Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.windows import make_windows
from ractd_core.diagnostics import Diagnostics, agreement, covered, diagnose
from ractd_core.diffusion.denoiser import Denoiser, column
from ractd_core.models.value import RewardModel
from ractd_core.stages import Model, load_model, make_stage
from ractd_core.training import Trainer

CPU = torch.device("cpu")
Flat = Callable[..., FlatDataset]


def test_agreement_of_perfect_constant_and_shifted_predictions() -> None:
    realised = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    assert agreement(realised, realised) == {"r2": 1.0, "rank": pytest.approx(1), "bias": 0.0}
    constant = agreement(np.full(5, 2.0), realised)
    assert constant["rank"] is None
    assert constant["r2"] is not None
    assert constant["r2"] <= 0
    assert constant["bias"] == pytest.approx(-0.8)
    reversed_ = agreement(-realised, realised)
    assert reversed_["rank"] == pytest.approx(-1)
    same = agreement(realised, np.ones(5))
    assert (same["r2"], same["rank"]) == (None, None)


def test_rank_correlation_is_scipys_with_and_without_equal_values() -> None:
    rng = np.random.default_rng(0)
    for high in (4, 1000):
        left = rng.integers(0, high, 200).astype(float)
        right = left + rng.integers(0, high, 200).astype(float)
        assert agreement(left, right)["rank"] == pytest.approx(spearmanr(left, right).statistic)


def test_what_lies_among_samples_is_what_a_loop_says() -> None:
    samples, points = torch.randn(30, 12, 3), torch.randn(30, 3)
    expected = []
    for some, point in zip(samples.numpy(), points.numpy(), strict=True):
        third = [sorted(float(np.linalg.norm(a - b)) for b in some)[3] for a in some]
        # The lower of the two in the middle.
        radius = max(sorted(third)[5], 0.1 * 3**0.5)
        expected.append(min(float(np.linalg.norm(point - a)) for a in some) <= radius)
    assert covered(samples, points).tolist() == expected
    assert 0 < sum(expected) < 30


def test_samples_of_one_of_two_modes_cover_half_and_of_both_cover_all() -> None:
    rng = torch.Generator().manual_seed(0)

    def drawn(modes: Tensor, count: int) -> Tensor:
        which = torch.randint(len(modes), (400, count), generator=rng)
        return (modes[which] + 0.2 * torch.randn(400, count, generator=rng))[..., None]

    both = torch.tensor([-2.0, 2.0])
    points = drawn(both, 1)[:, 0]
    all_of_it = covered(drawn(both, 12), points).float().mean()
    # The samples of a perfect teacher leave out its own rarest.
    assert all_of_it > 0.8
    half = covered(drawn(both[:1], 12), points).float().mean()
    assert half == pytest.approx(0.5 * float(all_of_it), abs=0.08)
    # A stray sample covers nothing on the way to it.
    stray = torch.cat([torch.zeros(1, 11, 1), torch.ones(1, 1, 1)], dim=1)
    assert covered(stray, torch.tensor([[0.5]])).tolist() == [False]


class Score(RewardModel):
    """R is the first coordinate of each step, or a constant."""

    def __init__(self, slope: float) -> None:
        super().__init__(1, "mlp", [8], 1)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x[None, ..., 0]


class Says(nn.Module):
    """A regression that answers every conditioning alike."""

    def __init__(self, value: float, dims: int) -> None:
        super().__init__()
        self.value, self.dims = value, dims

    def forward(self, x: Tensor, t: Tensor, stop: None, cond: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


def loaded(files: dict[str, Path]) -> tuple[Model, Model, Model]:
    student, reward, teacher = (
        load_model(files[kind], kind) for kind in ("student", "reward", "teacher")
    )
    return student, reward, teacher


def discounted(data: FlatDataset, discount: float) -> NDArray[np.float64]:
    """The sums written out; a cut episode's last reward goes on for ever."""
    result = np.zeros(len(data.rewards))
    for first, end, over in zip(data.bounds, data.bounds[1:], data.terminated, strict=False):
        paid = data.rewards[first : end - 1].astype(float)
        for row in range(first, end):
            left = paid[row - first :]
            result[row] = (left * discount ** np.arange(len(left))).sum()
            if not over:
                result[row] += discount ** len(left) * paid[-1] / (1 - discount)
    return result


@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_a_reward_model_that_knows_what_follows_is_perfect_and_a_constant_one_is_not(
    slope: float, models: dict[str, Path], umaze_data: FlatDataset, tiny: Recipe, flat: Flat
) -> None:
    student, reward, teacher = loaded(models)
    played = flat([20, 7, 30], terminated=[False, True, False])
    returns = discounted(played, tiny.reward.discount)
    observations = played.observations.copy()
    observations[:, 0] = returns
    played = dataclasses.replace(played, observations=observations)
    about = reward.about | {"return_scale": [returns.min(), returns.max()]}
    judge = Model(Score(slope), Normalizers.fit(played), about)
    found = diagnose(student, judge, teacher, umaze_data, played, tiny, CPU)
    assert found["reward_pairs_own"] == 60
    if slope:
        assert found["reward_r2_own"] == pytest.approx(1, abs=1e-6)
        assert found["reward_rank_own"] == pytest.approx(1)
        assert found["reward_bias_own"] == pytest.approx(0, abs=1e-3)
    else:
        middle = (returns.min() + returns.max()) / 2
        assert found["reward_rank_own"] is None
        assert found["reward_r2_own"] is not None
        assert found["reward_r2_own"] <= 0
        assert found["reward_bias_own"] == pytest.approx(middle - returns.mean(), rel=1e-4)


def test_gain_and_saturation_of_a_student_at_the_end_of_the_data(
    models: dict[str, Path], umaze_data: FlatDataset, tiny: Recipe
) -> None:
    _, reward, teacher = loaded(models)
    made = load_model(models["regression"])
    student = dataclasses.replace(made, network=Says(3.0, 4))
    about = reward.about | {"measured": reward.about["measured"] | {"spread": 0.25}}
    judge = Model(Score(1.0), reward.normalizers, about)
    found = diagnose(student, judge, teacher, umaze_data, umaze_data, tiny, CPU)
    assert found["saturated"] == 1
    windows = make_windows(umaze_data, tiny.window, made.normalizers, CPU)
    x0, _ = windows.at(torch.arange(len(windows)))
    # 512 of the data's windows stand for all.
    assert found["gain"] == pytest.approx(float(1 - x0[..., 0].mean()) / 0.25, abs=0.3)
    assert found["saturated_data"] == pytest.approx(
        float((x0.abs() > 0.999).float().mean()), abs=0.01
    )


NOISE = NoiseConfig(init_noise="sigma_max", bins=18)
STD = 0.05


class OneMode(Denoiser):
    """E[x_0 | x_t] for x_0 ~ N(mode, 0.05²)."""

    def __init__(self, mode: float) -> None:
        super().__init__(nn.Identity(), NOISE)
        self.mode = mode

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        time = column(t, x)
        return (STD**2 * x + time**2 * self.mode) / (STD**2 + time**2)


@pytest.mark.parametrize(("mode", "high"), [(0.6, 1.0), (-0.6, 0.0)])
def test_a_teacher_of_one_mode_covers_half_of_the_data_and_all_or_none_of_the_best(
    mode: float,
    high: float,
    action_models: dict[str, Path],
    hopper_data: FlatDataset,
    tiny_actions: Recipe,
) -> None:
    student, reward, teacher = loaded(action_models)
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(12), 41)
    good = episode % 2 == 0
    acted = np.arange(12 * 41) != hopper_data.last_rows
    actions = np.where(good, 0.6, -0.6)[:, None] + STD * rng.normal(size=(12 * 41, 3))
    # The range is then [-1, 1], which normalization leaves as it is.
    actions[0], actions[1] = -1, 1
    data = dataclasses.replace(
        hopper_data,
        actions=np.where(acted[:, None], actions, 0).astype(np.float32),
        rewards=np.where(acted & good, 1.0, 0.0).astype(np.float32),
    )
    normalizers = Normalizers.fit(data)
    found = diagnose(
        dataclasses.replace(student, normalizers=normalizers),
        reward,
        Model(OneMode(mode), normalizers, teacher.about),
        data,
        data,
        tiny_actions,
        CPU,
    )
    own_high, own_all = found["coverage_high_own"], found["coverage_all_own"]
    assert own_high is not None
    assert own_all is not None
    assert min(own_high, own_all) > 0.75
    assert found["coverage_high"] == pytest.approx(high * own_high, abs=0.15)
    assert found["coverage_all"] == pytest.approx(0.5 * own_all, abs=0.1)


def test_the_same_numbers_every_time_and_nobody_elses_random_numbers(
    action_models: dict[str, Path], hopper_data: FlatDataset, tiny_actions: Recipe
) -> None:
    def once() -> Diagnostics:
        models = loaded(action_models)
        return diagnose(*models, hopper_data, hopper_data, tiny_actions, CPU)

    before = torch.get_rng_state()
    found = once()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert once() == found
    # Nothing but a second member's opinion is missing.
    assert {key for key, value in found.items() if value is None} == {
        "disagreement",
        "disagreement_data",
    }
    measured = load_model(action_models["reward"]).about["measured"]
    assert found["reward_r2_held_out"] == measured["held_out_r2"]
    # Its own data are 12 episodes of 40 steps, each with an action.
    assert found["reward_pairs_own"] == 480


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_of_advantages_ranks_are_compared_and_members_disagree(
    network: str,
    action_models: dict[str, Path],
    hopper_data: FlatDataset,
    tiny_actions: Recipe,
) -> None:
    table = tiny_actions.model_dump()
    table["reward"] |= {"target": "advantage", "members": 2, "network": network}
    recipe = Recipe.model_validate(table)
    stage, normalizers = make_stage("reward", recipe, hopper_data, {}, CPU)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    trainer.run(every=20)
    student, _, teacher = loaded(action_models)
    judge = stage.result(trainer.ema, normalizers)
    found = diagnose(student, judge, teacher, hopper_data, hopper_data, recipe, CPU)
    assert found["reward_r2_own"] is None
    assert found["reward_bias_own"] is None
    assert found["reward_rank_own"] is not None
    for key in ("disagreement", "disagreement_data"):
        value = found[key]
        assert value is not None
        assert value > 0


def test_what_is_too_short_for_a_window_costs_its_own_numbers_only(
    action_models: dict[str, Path], hopper_data: FlatDataset, tiny_actions: Recipe
) -> None:
    table = tiny_actions.model_dump()
    table["window"]["padding"] = "none"
    table["reward"]["network"] = "conv"
    recipe = Recipe.model_validate(table)
    stage, normalizers = make_stage("reward", recipe, hopper_data, {}, CPU)
    judge = stage.result(stage.network, normalizers)
    student, _, teacher = loaded(action_models)
    # Five episodes: four long ones, and a last one of two steps with the best return.
    first = hopper_data.bounds[:5]
    rows = int(first[4]) + 3
    rewards = np.zeros(rows, dtype=np.float32)
    rewards[first[4]] = 9.0
    data = dataclasses.replace(
        hopper_data,
        observations=hopper_data.observations[:rows],
        actions=hopper_data.actions[:rows],
        rewards=rewards,
        bounds=np.append(first, rows),
        terminated=np.ones(5, dtype=np.bool_),
    )
    # And played are two steps alone.
    played = dataclasses.replace(
        data,
        observations=data.observations[:3],
        actions=data.actions[:3],
        rewards=rewards[:3],
        bounds=np.array([0, 3]),
        terminated=np.ones(1, dtype=np.bool_),
    )
    found = diagnose(student, judge, teacher, data, played, recipe, CPU)
    assert found["reward_pairs_own"] == 0
    assert found["coverage_all"] is not None
    assert found["gain"] is not None
    for key in ("reward_r2_own", "reward_rank_own", "reward_bias_own"):
        assert found[key] is None
    for key in ("coverage_high", "coverage_high_own"):
        assert found[key] is None
