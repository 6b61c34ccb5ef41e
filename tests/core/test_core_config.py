"""What a configuration refuses, that it refuses everything at once, and what parts keep."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ractd_core.config import (
    CollapseConfig,
    NoiseConfig,
    OptimConfig,
    Recipe,
    RegressionConfig,
    RewardConfig,
    Sampling,
    StudentConfig,
    TeacherConfig,
    UNetConfig,
    WindowConfig,
)


def locations(error: ValidationError) -> set[str]:
    return {".".join(map(str, item["loc"])) for item in error.errors()}


@pytest.mark.parametrize(
    "value",
    [
        {"teachr": {}},
        {"teacher": {"optimizer": {}}},
        {"teacher": {"optim": {"learning_rate": 1e-3}}},
        {"window": {"Horizon": 16}},
        {"student": {"alpha": 1.0}},
        {"reward": {"optim": {"steps": 1, "batchsize": 2}}},
    ],
)
def test_unknown_keys_are_errors_wherever_they_are(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted") as caught:
        Recipe.model_validate(value)
    (path,) = locations(caught.value)
    leaf: Any = value
    for key in path.split("."):
        leaf = leaf[key]


def test_several_errors_come_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(
            {
                "window": {"horizon": 0, "stride": 2},
                "teacher": {"optim": {"steps": -1, "lr": "fast"}, "times": "uniform"},
                "reward": {"discount": 1.0},
                "surplus": 1,
            }
        )
    assert locations(caught.value) == {
        "window.horizon",
        "window.stride",
        "teacher.optim.steps",
        "teacher.optim.lr",
        "teacher.times",
        "reward.discount",
        "surplus",
    }


def test_both_networks_that_do_not_fit_the_horizon_are_reported_at_once() -> None:
    network = {"patch": 8, "widths": [8], "groups": 8}
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(
            {
                "window": {"horizon": 12},
                "teacher": {"network": network},
                "regression": {"network": network},
            }
        )
    assert "teacher" in str(caught.value)
    assert "regression" in str(caught.value)


def test_both_faults_of_a_network_are_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        UNetConfig(kernel_size=4, widths=(12,), groups=8)
    assert "kernel_size must be odd" in str(caught.value)
    assert "not multiples of groups" in str(caught.value)


@pytest.mark.parametrize("owner", [TeacherConfig, RewardConfig, StudentConfig, RegressionConfig])
def test_a_part_given_in_part_keeps_its_owners_defaults(owner: type[TeacherConfig]) -> None:
    whole = owner()
    part = owner.model_validate({"optim": {"steps": 9}})
    assert part.optim == whole.optim.model_copy(update={"steps": 9})
    assert part.model_copy(update={"optim": whole.optim}) == whole


def test_the_owners_defaults_are_kept_two_levels_down() -> None:
    recipe = Recipe.model_validate(
        {"reward": {"optim": {"steps": 9}}, "teacher": {"noise": {"bins": 10}}}
    )
    # The optimizer's own defaults are 64 and 1e-6.
    assert recipe.reward.optim.batch_size == 256
    assert recipe.reward.optim.weight_decay == 1e-3
    assert recipe.reward.optim.steps == 9
    assert recipe.teacher.noise == NoiseConfig(bins=10)
    assert recipe.teacher.optim == Recipe().teacher.optim
    assert recipe.student == Recipe().student


def test_a_recipe_survives_its_own_json() -> None:
    recipe = Recipe.model_validate(
        {"student": {"reward_states": None, "target_ema": 0.5}, "window": {"horizon": 128}}
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_configurations_do_not_change() -> None:
    window: Any = Recipe().window
    with pytest.raises(ValidationError, match="frozen"):
        window.horizon = 3


@given(
    horizon=st.integers(1, 200),
    patch=st.integers(1, 8),
    levels=st.integers(1, 3),
    stage=st.sampled_from(["teacher", "regression"]),
)
def test_the_horizon_must_divide_into_patches_halved_per_level(
    horizon: int, patch: int, levels: int, stage: str
) -> None:
    network = {"widths": [8] * levels, "patch": patch}
    loose = {"widths": [8], "patch": 1}
    other = "regression" if stage == "teacher" else "teacher"
    value = {
        "window": {"horizon": horizon},
        stage: {"network": network},
        other: {"network": loose},
    }
    multiple = patch
    for _ in range(levels - 1):
        multiple *= 2
    if horizon % multiple == 0:
        assert Recipe.model_validate(value).window.horizon == horizon
    else:
        with pytest.raises(ValidationError, match=f"{stage} network.*multiple of {multiple} "):
            Recipe.model_validate(value)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (80.0, 0.02)])
def test_noise_levels_must_be_in_order(low: float, high: float) -> None:
    with pytest.raises(ValidationError, match="must be below sigma_max"):
        NoiseConfig(sigma_min=low, sigma_max=high)


def test_a_student_needs_something_that_ties_it_to_the_data() -> None:
    with pytest.raises(ValidationError, match="both 0"):
        StudentConfig(ctm_weight=0, dsm_weight=0)
    assert StudentConfig(ctm_weight=0).dsm_weight == 1
    assert StudentConfig(dsm_weight=0).ctm_weight == 1


def test_a_pessimist_needs_members_that_can_disagree() -> None:
    with pytest.raises(ValidationError, match=r"pessimism 0\.5 .*set reward\.members to 2 or more"):
        Recipe.model_validate({"student": {"pessimism": 0.5}})
    both = {"student": {"pessimism": 0.5}, "reward": {"members": 2}}
    assert Recipe.model_validate(both).student.pessimism == 0.5


def test_a_trust_region_is_around_predictions_from_noisy_data() -> None:
    with pytest.raises(ValidationError, match=r"trust_radius 0\.1 is around .*mean of all samples"):
        StudentConfig(trust_radius=0.1, reward_at="noise")
    assert StudentConfig(trust_radius=0.1).reward_at == "dsm"


def test_convolutions_have_channels_in_groups_of_eight() -> None:
    with pytest.raises(ValidationError, match=r"widths \[12\] are not multiples of 8"):
        RewardConfig(network="conv", widths=(16, 12))
    assert RewardConfig(network="conv", widths=(16, 24)).widths == (16, 24)
    assert RewardConfig(widths=(12,)).widths == (12,)


def test_a_limit_of_collapse_that_is_null_leaves_the_others() -> None:
    collapse = StudentConfig.model_validate({"collapse": {"gain": None}}).collapse
    assert collapse.gain is None
    assert (collapse.saturation, collapse.loss) == (0.3, 10.0)


@pytest.mark.parametrize(
    ("config", "value"),
    [
        (CollapseConfig, {"saturation": 0}),
        (CollapseConfig, {"saturation": 1.0}),
        (CollapseConfig, {"gain": 0}),
        (CollapseConfig, {"loss": 1.0}),
        (CollapseConfig, {"share": 0.1}),
        (RewardConfig, {"members": 0}),
        (RewardConfig, {"advantage_steps": 0}),
        (RewardConfig, {"target": "q"}),
        (RewardConfig, {"held_out": 1.0}),
        (StudentConfig, {"trust_radius": 0}),
        (StudentConfig, {"pessimism": -1}),
        (NoiseConfig, {"sigma_max": math.inf}),
        (NoiseConfig, {"rho": math.nan}),
        (NoiseConfig, {"bins": 1}),
        (OptimConfig, {}),
        (OptimConfig, {"steps": 1, "lr": math.nan}),
        (OptimConfig, {"steps": 1, "weight_decay": math.inf}),
        (OptimConfig, {"steps": 1, "ema_decay": math.nan}),
        (OptimConfig, {"steps": 1, "ema_decay": 1.0}),
        (OptimConfig, {"steps": 1, "betas": [0.9, 1.0]}),
        (OptimConfig, {"steps": 1, "betas": [0.9]}),
        (OptimConfig, {"steps": 1, "precision": "fp16"}),
        (OptimConfig, {"steps": 1, "warmup_steps": -1}),
        (Sampling, {"calls": 0}),
        (Sampling, {"calls": -2}),
        (Sampling, {"calls": 2.5}),
        (Sampling, {"method": "ancestral"}),
        (Sampling, {"bins": 20}),
        (RewardConfig, {"discount": 0}),
        (RewardConfig, {"discount": math.nan}),
        (RewardConfig, {"widths": []}),
        (StudentConfig, {"reward_weight": -1e-4}),
        (StudentConfig, {"reward_weight": math.nan}),
        (StudentConfig, {"reward_states": 0}),
        (StudentConfig, {"solver_steps": 0}),
        (StudentConfig, {"target_ema": 1.0}),
        (StudentConfig, {"dropout": 1.0}),
        (StudentConfig, {"seed": -1}),
        (UNetConfig, {"kernel_size": 4}),
        (UNetConfig, {"widths": [12], "groups": 8}),
        (UNetConfig, {"embed_dim": 5}),
        (UNetConfig, {"embed_dim": 2}),
        (WindowConfig, {"padding": "repeat"}),
    ],
)
def test_values_without_meaning_are_refused(
    config: type[OptimConfig], value: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        config.model_validate(value)
