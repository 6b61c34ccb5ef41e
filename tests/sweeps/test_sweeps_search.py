"""The study and the ledger: what is suggested, what is remembered, and how both are mended."""

from __future__ import annotations

import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeps.layout import TaskContext, plan_of
from sweeps.ledger import Record
from sweeps.search import StudySearch
from sweeps.search_space import Choices, Range, contains, parameters
from sweeps.spec import SpecError
from sweeps.studies import distribution
from tests.sweeps.study import (
    TASK,
    Start,
    agreed,
    keys,
    open_search,
    run,
    score_at,
    suggest,
    trials_in,
    write_record,
)

pytestmark = pytest.mark.usefixtures("project_home")


# Suggestions


def test_the_released_values_and_given_points_come_first(start: Start) -> None:
    points = ["released", {"horizon": 160, "sigma": 1e-3}]
    search = open_search(start(first_trials=points))
    first, second, third = (suggest(search, name) for name in "abc")
    assert first["values"] == {"window.horizon": 128, "student.reward_weight": 1e-4}
    assert second["values"] == {"window.horizon": 160, "student.reward_weight": 1e-3}
    assert third["values"] not in (first["values"], second["values"])
    assert [config["number"] for config in (first, second, third)] == [0, 1, 2]


def test_the_first_points_are_not_run_again_by_the_next_driver(start: Start) -> None:
    context = start(first_trials=["default"])
    done = run(open_search(context), 1)
    again = suggest(open_search(context), "again")
    assert plan_of(again).key not in keys(done)


def test_a_suggestion_crosses_to_the_trial_as_json(start: Start) -> None:
    search = open_search(start())
    config = suggest(search, "a")
    plan = plan_of(json.loads(json.dumps(config)))
    assert plan.context == search.context
    assert plan.values == config["values"]
    for path, value in plan.values.items():
        assert contains(parameters(search.context.spec.search)[path], value)


def test_numbers_are_drawn_from_the_whole_space_and_as_the_field_has_them(start: Start) -> None:
    context = start(
        trials=30,
        search={
            "student.optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "student.solver_steps": {"low": 1, "high": 4},
            "student.reward_at": {"choices": ["dsm", "noise"]},
        },
    )
    search = open_search(context)
    drawn = [suggest(search, str(index))["values"] for index in range(30)]
    for values in drawn:
        assert set(values) == set(context.spec.search)
        for path, value in values.items():
            assert contains(parameters(context.spec.search)[path], value)
        assert isinstance(values["student.solver_steps"], int)
    assert {values["student.solver_steps"] for values in drawn} == {1, 2, 3, 4}
    assert {values["student.reward_at"] for values in drawn} == {"dsm", "noise"}
    assert min(values["student.optim.lr"] for values in drawn) < 1e-3
    assert max(values["student.optim.lr"] for values in drawn) > 1e-3


def test_a_whole_number_that_is_null_by_default_is_drawn_as_a_whole_number(start: Start) -> None:
    search = open_search(
        start(
            search={"student.reward_states": {"low": 1, "high": 10}},
            recipe={"student": {"reward_states": None}},
        )
    )
    for index in range(4):
        assert isinstance(suggest(search, str(index))["values"]["student.reward_states"], int)


@pytest.mark.parametrize("log", [False, True])
def test_a_parameter_is_the_studys_distribution(log: bool) -> None:
    real = distribution(Range(low=0.5, high=8, log=log), integer=False)
    assert real == FloatDistribution(0.5, 8, log=log)
    whole = distribution(Range(low=1, high=8, log=log), integer=True)
    assert whole == IntDistribution(1, 8, log=log)
    chosen = distribution(Choices(choices=("a", 2, None)), integer=log)
    assert chosen == CategoricalDistribution(["a", 2, None])


def test_the_same_seed_suggests_the_same(start: Start) -> None:
    drawn = [
        [config["values"] for config in run(open_search(start(name=name, seed=seed)), 6)]
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_restarted_search_does_not_repeat_its_first_suggestions(start: Start) -> None:
    context = start()
    first = run(open_search(context), 3)
    second = run(open_search(context), 3, first=3)
    assert len(set(keys(first + second))) == 6
    assert {state for _, state in trials_in(open_search(context))} == {"COMPLETE"}, "no draw wasted"


def test_a_small_space_is_searched_whole_and_then_finished(start: Start) -> None:
    space = {
        "horizon": {"choices": [128, 160, 192]},
        "student.reward_at": {"choices": ["dsm", "noise"]},
        "sigma": {"choices": [0.0, 0.1]},
    }
    search = open_search(start(trials=20, search=space))
    configs = run(search, 12)
    assert len({tuple(sorted(c["values"].items())) for c in configs}) == 12
    assert search.suggest("one more") is None
    assert search.remaining == 0
    agreed(search)
    assert open_search(search.context).suggest("again") is None


def test_trials_under_way_are_not_suggested_again(start: Start) -> None:
    search = open_search(start(search={"horizon": {"choices": [128, 160]}}))
    configs = [suggest(search, name) for name in "ab"]
    assert len(set(keys(configs))) == 2
    assert search.suggest("c") is None


def test_a_combination_that_no_recipe_allows_does_not_end_the_search(start: Start) -> None:
    """Both weights 0 is no recipe: refused with the spec, or left out of the suggestions."""
    weights = {"choices": [0.0, 1.0]}
    try:
        context = start(search={"alpha": weights, "beta": weights})
    except SpecError:
        return
    drawn = run(open_search(context), 3)
    assert all(set(config["values"].values()) != {0.0} for config in drawn)


# Records


def test_remaining_counts_the_trials_without_a_record(start: Start) -> None:
    search = open_search(start(trials=4))
    left = [search.remaining]
    for status in ("completed", "pruned", "failed"):
        config = suggest(search, status)
        left.append(search.remaining)
        write_record(config, status)
        search.on_trial_complete(status)
        left.append(search.remaining)
    assert left == [4, 4, 3, 3, 2, 2, 1]
    assert open_search(search.context).remaining == 1


def test_another_tasks_records_do_not_count(start: Start) -> None:
    both = start(tasks=[f"local/{TASK}", "local/maze2d-large-v1"])
    other = TaskContext(both.folder, both.spec, both.spec.datasets()[1], "e" * 64)
    run(open_search(other), 2)
    search = open_search(both)
    assert search.remaining == both.spec.trials
    assert trials_in(search) == []


@pytest.mark.parametrize(
    ("status", "state", "value"),
    [("completed", "COMPLETE", 12.5), ("pruned", "PRUNED", None), ("failed", "FAIL", None)],
)
def test_a_record_becomes_the_trials_state(
    start: Start, status: str, state: str, value: float | None
) -> None:
    announced: list[Record] = []
    search = StudySearch(start(), announced.append)
    config = suggest(search, "a")
    record = write_record(config, status, 12.5)
    search.on_trial_complete("a", error=status == "failed")
    assert announced == [record]
    [trial] = search.study.get_trials()
    assert trial.state.name == state
    if value is not None:
        assert trial.value == value


def test_a_trial_that_dies_without_a_word_gets_a_failed_record(start: Start) -> None:
    announced: list[Record] = []
    search = StudySearch(start(), announced.append)
    config = suggest(search, "a")
    score_at(config, 10, 1.0)
    search.on_trial_complete("a", error=True)
    [record] = announced
    assert record == search.context.folder.trials.get(plan_of(config).key)
    assert (record["status"], record["number"]) == ("failed", config["number"])
    assert record["reason"]
    assert record["selection"] is None
    assert record["steps"] == 10
    assert trials_in(search) == [(0, "FAIL")]
    assert keys([suggest(search, "b")]) != keys([config])


def test_an_error_after_the_record_does_not_change_it(start: Start) -> None:
    search = open_search(start())
    record = write_record(suggest(search, "a"), "completed", 7.0)
    search.on_trial_complete("a", error=True)
    assert list(search.context.folder.trials) == [record]
    assert trials_in(search) == [(0, "COMPLETE")]


def test_a_trial_that_ends_without_record_or_error_stays_open(start: Start) -> None:
    """The driver was interrupted: nothing is known of it, and the next one takes it up."""
    context = start()
    search = open_search(context)
    config = suggest(search, "a")
    search.on_trial_complete("a")
    assert list(context.folder.trials) == []
    assert suggest(open_search(context), "b") == config
