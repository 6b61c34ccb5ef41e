"""Conditional and fixed entries of the search: which are active, in which order, which points."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ractd_core.config import Recipe
from sweeps.search_space import (
    Range,
    Scalar,
    SearchEntry,
    SearchPath,
    active,
    apply,
    contains,
    fixed,
    is_active,
    is_finite,
    misfit,
    parameters,
    value_at,
    whole_space,
)
from sweeps.studies import distribution
from tests.sweeps.study import Start, keys, open_search, run

PATHS = ("window.horizon", "student.reward_weight", "student.reward_at", "reward.members")
VALUES: dict[str, tuple[Scalar, ...]] = {
    "window.horizon": (128, 160, 100),  # of which one fits no network
    "student.reward_weight": (0.0, 0.1),
    "student.reward_at": ("dsm", "noise"),
    "reward.members": (1, 3),
}


def space(raw: dict[str, Any]) -> dict[str, Any]:
    return TypeAdapter(dict[SearchPath, SearchEntry]).validate_python(raw)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Choices of which each may be conditional on those before it, written in any order."""
    raw: dict[str, Any] = {}
    for index, path in enumerate(PATHS):
        others = draw(st.lists(st.sampled_from(PATHS[:index]), unique=True)) if index else []
        only_if = {
            other: draw(st.lists(st.sampled_from(VALUES[other]), min_size=1, unique=True))
            for other in others
        }
        raw[path] = {"choices": VALUES[path], "only_if": only_if}
    return space(dict(draw(st.permutations(list(raw.items())))))


def frozen(point: dict[str, Scalar]) -> frozenset[tuple[str, Scalar]]:
    return frozenset(point.items())


@settings(max_examples=60)
@given(spaces())
def test_the_whole_space_is_every_combination_less_what_is_not_active(
    search: dict[str, Any],
) -> None:
    expected = set()
    for values in itertools.product(*(VALUES[path] for path in PATHS)):
        point = dict(zip(PATHS, values, strict=True))
        # Each path after those it depends on, as they are written in PATHS.
        for path in PATHS:
            conditions = search[path].only_if
            if not all(other in point and point[other] in v for other, v in conditions.items()):
                del point[path]
        if misfit(Recipe(), point) is None:
            expected.add(frozen(point))
    found = [frozen(point) for point in whole_space(Recipe(), search)]
    assert len(found) == len(set(found))
    assert set(found) == expected


@settings(max_examples=60)
@given(spaces())
def test_parameters_come_after_what_they_depend_on_and_points_are_active_in_whole(
    search: dict[str, Any],
) -> None:
    ordered = parameters(search)
    assert ordered.keys() == search.keys()
    seen: set[str] = set()
    for path, parameter in ordered.items():
        assert parameter.only_if.keys() <= seen
        seen.add(path)
    for point in whole_space(Recipe(), search):
        assert active(search, point) == point.keys()
        everything = {path: value_at(apply(Recipe(), point), path) for path in search}
        assert active(search, everything) == point.keys(), "more values change nothing"
        assert all(is_active(ordered[path], point) == (path in point) for path in ordered)


def test_a_missing_value_makes_what_depends_on_it_inactive_and_the_set_incomplete() -> None:
    search = space(
        {"sigma": {"choices": [0, 1]}, "alpha": {"choices": [1], "only_if": {"sigma": 1}}}
    )
    assert active(search, {}) == {"student.reward_weight"}
    assert active(search, {"student.ctm_weight": 1}) == {"student.reward_weight"}


def test_parameters_that_wait_for_each_other_have_no_order() -> None:
    search = space(
        {
            "sigma": {"choices": [0, 1], "only_if": {"alpha": 1}},
            "alpha": {"choices": [0, 1], "only_if": {"reward_weight": 1}},
        }
    )
    with pytest.raises(ValueError, match=r"student\.reward_weight, student\.ctm_weight wait"):
        parameters(search)


def test_a_plain_value_is_fixed_and_is_no_parameter() -> None:
    search = space(
        {"beta": 1.5, "horizon": 128, "student.trust_radius": None} | {"sigma": {"choices": [0]}}
    )
    assert fixed(search) == {
        "student.dsm_weight": 1.5,
        "window.horizon": 128,
        "student.trust_radius": None,
    }
    assert list(parameters(search)) == ["student.reward_weight"]


def test_a_condition_may_be_one_value_or_several() -> None:
    search = space({"alpha": {"low": 0, "high": 1, "only_if": {"sigma": 0.5, "horizon": [1, 2]}}})
    conditions = search["student.ctm_weight"].only_if
    assert conditions == {"student.reward_weight": (0.5,), "window.horizon": (1, 2)}


# Steps


@given(st.integers(-50, 50), st.integers(1, 9), st.integers(1, 40), st.integers(0, 400))
def test_whole_steps_are_those_that_the_study_draws(
    low: int, step: int, count: int, tenths: int
) -> None:
    parameter = Range(low=low, high=low + step * count, step=step)
    integers = list(parameter.integers())
    assert integers == [low + step * k for k in range(count + 1)]
    dist = distribution(parameter, integer=True)
    value = low + tenths // 10
    assert contains(parameter, value) == (value in integers) == dist._contains(value)
    real = distribution(parameter, integer=False)
    assert contains(parameter, low + tenths / 10) == real._contains(low + tenths / 10)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"low": 0, "high": 1, "step": 0.3}, "whole number of steps of 0.3"),
        ({"low": 1, "high": 10, "step": 3, "log": True}, "a log range has no step"),
        ({"low": 1, "high": 10, "step": 0}, "greater than 0"),
    ],
)
def test_a_step_that_does_not_lead_from_low_to_high_is_refused(
    raw: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Range.model_validate(raw)


def test_whole_numbers_and_steps_are_finite_and_other_ranges_are_not() -> None:
    whole = space({"horizon": {"low": 128, "high": 192, "step": 32}})
    assert is_finite(Recipe(), whole)
    assert [p["window.horizon"] for p in whole_space(Recipe(), whole)] == [128, 160, 192]
    grid = {"low": 0, "high": 0.3, "step": 0.1, "only_if": {"horizon": 128}}
    both = list(whole_space(Recipe(), whole | space({"sigma": grid})))
    assert [p["student.reward_weight"] for p in both[:4]] == [0.0, 0.1, 0.2, 0.3]
    assert len(both) == 6
    some = whole | space({"sigma": {"low": 0, "high": 1, "only_if": {"horizon": 128}}})
    assert not is_finite(Recipe(), some)
    assert list(whole_space(Recipe(), some)) == []


# In a study

CONDITIONAL: dict[str, Any] = {
    "student.pessimism": {"low": 0.1, "high": 1.0, "only_if": {"reward.members": 3}},
    "reward.members": {"choices": [1, 3]},
    "beta": 0.5,
}


@pytest.mark.usefixtures("project_home")
def test_trials_have_the_values_that_are_active_in_them_and_records_have_all(start: Start) -> None:
    points = [{"reward.members": 3, "student.pessimism": 0.25}, {"reward.members": 1}]
    context = start(search=CONDITIONAL, first_trials=points)
    search = open_search(context)
    configs = run(search, 6)
    assert [config["values"] for config in configs[:2]] == points
    for config in configs:
        members = config["values"]["reward.members"]
        assert ("student.pessimism" in config["values"]) == (members == 3)
    for record in context.folder.trials:
        params = record["params"]
        assert params["dsm_weight"] == 0.5
        assert params["student.pessimism"] == 0 or params["reward.members"] == 3


@pytest.mark.usefixtures("project_home")
def test_conditional_trials_survive_a_restart_and_the_loss_of_the_study(start: Start) -> None:
    context = start(search=CONDITIONAL)
    done = run(open_search(context), 4)
    for path in (context.folder.path / "studies").glob("*"):
        path.unlink()
    search = open_search(context)
    assert [trial.params for trial in search.study.get_trials()] == [
        config["values"] for config in done
    ]
    assert not set(keys(run(search, 2, first=4))) & set(keys(done))


@pytest.mark.usefixtures("project_home")
def test_a_finite_conditional_space_is_searched_whole(start: Start) -> None:
    space = {
        "student.solver_steps": {"low": 1, "high": 3, "only_if": {"student.target_ema": [0.5]}},
        "student.target_ema": {"choices": [0.0, 0.5]},
    }
    context = start(trials=20, search=space)
    assert context.spec.planned_trials(context.dataset) == 4
    search = open_search(context)
    drawn = {frozen(config["values"]) for config in run(search, 4)}
    assert drawn == {frozen(point) for point in whole_space(context.recipe, context.spec.search)}
    assert search.remaining == 0
