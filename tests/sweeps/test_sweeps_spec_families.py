"""A family's recipe for each task of a sweep, and what the sweep changes in all of them."""

from __future__ import annotations

from typing import get_args

import pytest

from ractd_core.recipes import Family, recipe_for
from ractd_core.tasks import get_task, parse_dataset_name
from sweeps.search_space import apply
from sweeps.spec import dump_spec, parse_spec
from tests.sweeps.specs import parse, problems

pytestmark = pytest.mark.usefixtures("project_home")

UMAZE, LARGE = "local/maze2d-umaze-v1", "local/maze2d-large-v1"
HOPPER, CHEETAH = "d4rl/hopper-medium-v2", "d4rl/halfcheetah-medium-replay-v2"


@pytest.mark.parametrize("family", get_args(Family))
def test_every_task_has_its_familys_recipe_with_the_sweeps_changes(family: Family) -> None:
    changes = {"student": {"optim": {"steps": 9}, "reward_states": None}}
    spec = parse(UMAZE, LARGE, HOPPER, family=family, recipe=changes)
    for name in spec.datasets():
        own = recipe_for(name.task, family)
        expected = apply(own, {"student.optim.steps": 9, "student.reward_states": None})
        assert spec.recipe_of(name) == expected
    assert len({spec.recipe_of(name).window.horizon for name in spec.datasets()}) == 3


def test_the_small_family_is_the_default() -> None:
    spec = parse(UMAZE, HOPPER)
    assert spec == parse(UMAZE, HOPPER, family="small", recipe={})
    assert spec != parse(UMAZE, HOPPER, family="released")


def test_a_frozen_spec_keeps_the_family_and_the_changes_as_they_were_given() -> None:
    changes = {"student": {"optim": {"lr": 3e-4}}, "teacher": {"network": {"widths": [64, 64]}}}
    spec = parse(UMAZE, HOPPER, family="released", recipe=changes)
    again = parse_spec(dump_spec(spec), "spec.yaml")
    assert again == spec
    assert again.recipe == changes
    assert again.family == "released"


# Checks against every task


def test_a_horizon_that_does_not_fit_one_tasks_network_names_that_task() -> None:
    """24 are six patches of Hopper's network, but no whole number of the mazes' pairs of 8."""
    [problem] = problems(UMAZE, HOPPER, recipe={"window": {"horizon": 24}})
    assert problem.startswith("recipe: horizon 24 does not fit the teacher network")
    assert problem.endswith("(for maze2d-umaze-v1)")
    parse(HOPPER, recipe={"window": {"horizon": 24}})


def test_a_searched_horizon_is_checked_against_every_tasks_network() -> None:
    horizons = {"horizon": {"choices": [32, 24]}}
    [problem] = problems(UMAZE, HOPPER, LARGE, search=horizons)
    assert problem.startswith("search.horizon: value 24: horizon 24 does not fit the teacher")
    assert problem.endswith("(for maze2d-umaze-v1, maze2d-large-v1)")


def test_what_is_wrong_for_all_tasks_is_said_once_and_names_none() -> None:
    changes = {"student": {"optm": {}, "dropout": 1.5}, "techer": {}}
    found = problems(UMAZE, HOPPER, CHEETAH, recipe=changes)
    assert found == [
        "recipe.student.dropout: Input should be less than 1 (found 1.5)",
        "recipe.student.optm: unknown key; did you mean optim, dropout?",
        "recipe.techer: unknown key; did you mean teacher?",
    ]


def test_a_wrong_override_hides_no_mistake_of_another_part() -> None:
    found = problems(
        UMAZE,
        HOPPER,
        recipe={"student": {"optm": {}}, "teacher": {"optim": {"batch_size": 9}}},
        resources={"teacher": {"workers": 10}},
        search={"horizon": {"choices": [12]}},
    )
    assert [line.partition(":")[0] for line in found] == [
        "recipe.student.optm",
        "search.horizon",
        "resources.teacher.workers",
        "search.horizon",
    ]


def test_mistakes_of_the_recipe_are_told_where_no_task_is_known() -> None:
    found = problems("local/maze2d-umase-v1", recipe={"student": {"optm": {}}})
    assert [line.partition(":")[0] for line in found] == ["tasks.0", "recipe.student.optm"]


def test_a_family_that_is_none_hides_no_other_mistake() -> None:
    found = problems(UMAZE, family="papper", recipe={"student": {"optm": {}}})
    assert [line.partition(":")[0] for line in found] == ["family", "recipe.student.optm"]


def test_workers_share_each_tasks_own_batch() -> None:
    """Released students have batches of 1400 for the umaze and of 4800 for Hopper."""
    workers = {"student": {"workers": [1, 1401]}}
    [problem] = problems(UMAZE, HOPPER, family="released", resources=workers)
    assert problem == (
        "resources.student.workers: 1401 workers, but batch_size 1400 has a row for 1400 of them; "
        "write that or less (for maze2d-umaze-v1)"
    )


@pytest.mark.parametrize("point", ["default", "released"])
def test_a_first_trial_outside_the_search_names_value_and_task(point: str) -> None:
    """The released weight is 1 for Hopper's medium data and 0.4 for Walker2d's."""
    [problem] = problems(
        HOPPER,
        "d4rl/walker2d-medium-v2",
        family="released",
        search={"sigma": {"low": 0.0, "high": 0.5}},
        first_trials=[point],
    )
    assert problem == (
        f"first_trials.0.reward_weight: 1.0 ({point}) lies outside search.reward_weight "
        "(for hopper-medium-v2)"
    )


# What follows from each task's own recipe


def test_first_trials_are_each_tasks_own() -> None:
    spec = parse(UMAZE, HOPPER, CHEETAH, first_trials=["released"])
    weights = [spec.first_points(name)[0]["student.reward_weight"] for name in spec.datasets()]
    assert weights == [1e-4, 1.0, 1.0]


def test_a_space_is_as_large_as_the_tasks_own_recipe_allows() -> None:
    """Hopper's windows of 24 actions are six patches of 4 and three of 8, which do not halve."""
    search = {
        "horizon": {"choices": [16, 24]},
        "teacher.network.patch": {"choices": [4, 8]},
    }
    spec = parse(HOPPER, trials=100, search=search)
    assert spec.planned_trials(parse_dataset_name(HOPPER)) == 3
    assert parse(HOPPER, trials=2, search=search).planned_trials(spec.datasets()[0]) == 2


def test_a_printed_recipe_can_be_a_specs_own() -> None:
    """Copied whole, a family's recipe of one task gives that recipe to any family's sweep."""
    released = recipe_for(get_task("hopper-medium-v2"), "released")
    spec = parse(HOPPER, recipe=released.model_dump(mode="json"))
    assert spec.recipe_of(parse_dataset_name(HOPPER)) == released
