"""Paths of the recipe as a search space: names, membership, and setting one field alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ractd_core.config import Recipe
from sweeps.search_space import (
    ALIASES,
    LABELS,
    SEARCHABLE,
    Choices,
    Range,
    Scalar,
    apply,
    canonical_path,
    check_values,
    contains,
    label,
)


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


DEFAULTS = leaves(Recipe().model_dump(mode="json"))


def test_searchable_is_every_field_that_a_trial_reads() -> None:
    rows_alone = ("regression.", "policy.guidance")
    assert sorted(SEARCHABLE) == sorted(p for p in DEFAULTS if not p.startswith(rows_alone))


@pytest.mark.parametrize("path", SEARCHABLE)
def test_a_path_and_its_label_stand_for_the_same_field(path: str) -> None:
    assert canonical_path(path) == path
    assert canonical_path(label(path)) == path


def test_labels_and_aliases_agree() -> None:
    assert len({label(path) for path in SEARCHABLE}) == len(SEARCHABLE)
    assert set(LABELS) <= set(ALIASES.values())
    for alias, path in ALIASES.items():
        assert canonical_path(alias) == path


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("horizn", "horizon"),
        ("student.optim.learning_rate", "student.optim."),
        ("window", None),
        ("student.optim", None),
        ("", None),
        ("qqqqqqqq", None),
    ],
)
def test_a_name_that_nothing_reads_is_refused_with_near_names(name: str, near: str | None) -> None:
    with pytest.raises(ValueError, match="is not a field of the recipe") as caught:
        canonical_path(name)
    assert repr(name) in str(caught.value)
    if near:
        assert near in str(caught.value).partition("did you mean")[2]


@pytest.mark.parametrize("path", [path for path in DEFAULTS if path.startswith("regression.")])
def test_the_regression_row_is_not_searched(path: str) -> None:
    with pytest.raises(ValueError, match="regression row"):
        canonical_path(path)


def test_the_guidance_of_a_row_is_not_searched() -> None:
    with pytest.raises(ValueError, match="teacher-guided row; no trial reads it"):
        canonical_path("policy.guidance")


@given(st.text(max_size=12))
def test_any_other_text_is_no_path(text: str) -> None:
    assume(text not in ALIASES and text not in SEARCHABLE)
    with pytest.raises(ValueError, match=r"recipe|regression"):
        canonical_path(text)


FREE = {
    "student.reward_weight": st.floats(0, 10),
    "student.ctm_weight": st.floats(0.1, 10),
    "student.dropout": st.floats(0, 0.9),
    "student.optim.lr": st.floats(1e-6, 1),
    "student.optim.steps": st.integers(1, 10**6),
    "student.reward_states": st.none() | st.integers(1, 99),
    "student.reward_at": st.sampled_from(["dsm", "noise"]),
    "teacher.noise.bins": st.integers(2, 200),
    "teacher.seed": st.integers(0, 99),
    "reward.truncation": st.sampled_from(["zero", "hold"]),
    "window.horizon": st.integers(1, 40).map(lambda n: 16 * n),
}
values_at = st.fixed_dictionaries({}, optional=FREE)


@settings(max_examples=60)
@given(values_at)
def test_apply_sets_those_fields_and_no_other(values: dict[str, Scalar]) -> None:
    recipe = Recipe()
    after = leaves(apply(recipe, values).model_dump(mode="json"))
    assert after == {**DEFAULTS, **values}
    assert leaves(recipe.model_dump(mode="json")) == DEFAULTS


@settings(max_examples=40)
@given(values_at, values_at)
def test_applying_twice_is_applying_the_union(
    first: dict[str, Scalar], second: dict[str, Scalar]
) -> None:
    recipe = Recipe()
    assert apply(apply(recipe, first), second) == apply(recipe, {**first, **second})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("window.horizon", 100),
        ("window.horizon", 0),
        ("window.horizon", 16.5),
        ("student.optim.lr", 0),
        ("student.optim.lr", float("nan")),
        ("student.optim.steps", "many"),
        ("teacher.distance", "l1"),
        ("teacher.noise.sigma_min", 100.0),
        ("student.nothing", 1),
    ],
)
def test_a_value_that_does_not_fit_is_refused(path: str, value: Scalar) -> None:
    with pytest.raises(ValidationError):
        apply(Recipe(), {path: value})


@given(st.lists(st.sampled_from([8, 16, 24, 100, 128, 160]), min_size=1, unique=True))
@settings(max_examples=30)
def test_check_values_names_exactly_the_choices_that_do_not_fit(choices: list[int]) -> None:
    found = check_values(Recipe(), "window.horizon", Choices(choices=tuple(choices)))
    wrong = [value for value in choices if value % 16]
    assert [line.partition(":")[0] for line in found] == [f"value {value}" for value in wrong]


numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers, st.booleans())
def test_a_range_goes_up_and_a_log_range_begins_above_zero(
    low: float, high: float, log: bool
) -> None:
    if low < high and (low > 0 or not log):
        assert Range(low=low, high=high, log=log).samples(integer=False) == (low, high)
    else:
        with pytest.raises(ValidationError):
            Range(low=low, high=high, log=log)


@given(numbers, numbers, numbers)
def test_a_range_contains_what_lies_between_its_ends(a: float, b: float, value: float) -> None:
    assume(a < b)
    parameter = Range(low=a, high=b)
    assert contains(parameter, a)
    assert contains(parameter, b)
    assert contains(parameter, value) == (min(a, b, value) == a and max(a, b, value) == b)
    assert not contains(parameter, str(value))
    assert not contains(parameter, None)


scalars = st.none() | st.integers(2, 9) | st.sampled_from(["a", "b", "c"]) | st.floats(10, 20)


@given(st.lists(scalars, min_size=1, max_size=5, unique=True), scalars)
def test_choices_contain_what_they_list(choices: list[Scalar], other: Scalar) -> None:
    parameter = Choices(choices=tuple(choices))
    assert all(contains(parameter, choice) for choice in choices)
    assert contains(parameter, other) == any(other == choice for choice in choices)


def test_a_choice_stands_there_once() -> None:
    with pytest.raises(ValidationError, match="128 stands there twice; write it once"):
        Choices(choices=(128, 160, 128))
