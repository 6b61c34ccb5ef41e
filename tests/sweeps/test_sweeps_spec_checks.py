"""Settings of a spec that contradict each other, each named with its path and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from ractd_core.config import Recipe
from sweeps.search_space import parameters
from sweeps.spec import dump_spec, parse_spec
from tests.sweeps.specs import parse, problems

pytestmark = pytest.mark.usefixtures("project_home")

UMAZE, HOPPER = "local/maze2d-umaze-v1", "local/hopper-medium-replay-v2"
SIGMA = {"choices": [0.0, 1e-4]}
MEMBERS = {"choices": [1, 3]}


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (
            {"alpha": {"choices": [1.0], "only_if": {"sigma": 0.0}}},
            "search.alpha.only_if.reward_weight: reward_weight is not searched",
        ),
        (
            {"sigma": {"choices": [0.0, 1.0], "only_if": {"sigma": 0.0}}},
            "search.sigma.only_if.reward_weight: a parameter cannot be conditional on itself",
        ),
        (
            {"sigma": 0.5, "alpha": {"choices": [1.0], "only_if": {"sigma": 0.5}}},
            "search.alpha.only_if.reward_weight: reward_weight is fixed at 0.5",
        ),
        (
            {"sigma": SIGMA, "alpha": {"choices": [1.0], "only_if": {"sigma": [0.0, 3.0]}}},
            "search.alpha.only_if.reward_weight: 3.0 outside search.reward_weight",
        ),
        (
            {
                "sigma": {"low": 0.0, "high": 1.0},
                "alpha": {"choices": [1.0], "only_if": {"sigma": 0.5}},
            },
            "search.alpha.only_if.reward_weight: reward_weight is drawn from real numbers",
        ),
        (
            {
                "sigma": {"choices": [0.0, 1.0], "only_if": {"alpha": 1.0}},
                "alpha": {"choices": [1.0], "only_if": {"beta": 1.0}},
                "beta": {"choices": [1.0], "only_if": {"sigma": 1.0}},
            },
            "search.ctm_weight.only_if: a circle of conditions, ctm_weight -> dsm_weight -> "
            "reward_weight -> ctm_weight",
        ),
        ({"sigma": {"low": 0.0, "high": 1.0, "step": 0.4}}, "search.sigma: high 1 must be a whole"),
        ({"beta": -1.0, "sigma": SIGMA}, "search.beta: value -1.0: Input should be greater"),
        ({"beta": 0.0, "alpha": 0.0, "sigma": SIGMA}, "search: ctm_weight and dsm_weight are both"),
        (
            {"student.solver_steps": {"low": 1.5, "high": 4}},
            "search.student.solver_steps: value 1.",
        ),
        ({"horizon": [128, 160]}, "search.horizon: Input should be a valid dictionary"),
    ],
)
def test_a_search_that_cannot_be_drawn_is_named(search: dict[str, Any], expected: str) -> None:
    [problem] = problems(UMAZE, search=search)
    assert problem.startswith(expected)


def test_a_condition_makes_values_fit_that_the_recipe_alone_refuses() -> None:
    pessimism = {"low": 0.5, "high": 1.0}
    [problem] = problems(UMAZE, search={"student.pessimism": pessimism})
    assert "set reward.members to 2 or more" in problem
    spec = parse(
        UMAZE,
        search={
            "student.pessimism": {**pessimism, "only_if": {"reward.members": 3}},
            "reward.members": MEMBERS,
        },
    )
    assert list(parameters(spec.search)) == ["reward.members", "student.pessimism"]
    assert parse_spec(dump_spec(spec), "again") == spec


def test_fixed_values_are_the_recipes_and_may_need_each_other() -> None:
    spec = parse(UMAZE, search={"student.pessimism": 1.0, "reward.members": 3, "sigma": SIGMA})
    recipe = spec.recipe_of(spec.datasets()[0])
    assert (recipe.student.pessimism, recipe.reward.members) == (1.0, 3)
    assert spec.first_points(spec.datasets()[0]) == []
    assert parse_spec(dump_spec(spec), "again") == spec
    alone = parse(UMAZE, search={"beta": 0.5})
    assert alone.planned_trials(alone.datasets()[0]) == 1


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({"beta": 1.0}, "first_trials.0.dsm_weight: search.dsm_weight is fixed at 0.5"),
        (
            {"reward.members": 1, "student.pessimism": 0.5},
            "first_trials.0.student.pessimism: not searched with reward.members 1; leave it out",
        ),
        (
            {"reward.members": 3, "student.pessimism": 3.0},
            "first_trials.0.student.pessimism: 3.0 lies outside search.student.pessimism",
        ),
    ],
)
def test_first_trials_keep_to_what_is_active(point: dict[str, Any], expected: str) -> None:
    search = {
        "reward.members": MEMBERS,
        "student.pessimism": {"low": 0.5, "high": 1.0, "only_if": {"reward.members": 3}},
        "beta": 0.5,
    }
    assert problems(UMAZE, search=search, first_trials=[point]) == [expected]
    good = [{"reward.members": 3, "student.pessimism": 0.5}, "default"]
    spec = parse(UMAZE, search=search, first_trials=good)
    assert spec.first_points(spec.datasets()[0]) == [good[0], {"reward.members": 1}]


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"sampler": {"kind": "grid"}}, "search.sigma: a grid is made of choices"),
    (
        {"sampler": {"kind": "grid", "startup_trials": 3}, "search": {"sigma": SIGMA}},
        "sampler.startup_trials: kind grid does not read it",
    ),
    (
        {"sampler": {"kind": "random", "startup_trials": 3}},
        "sampler.startup_trials: kind random does not read it",
    ),
    (
        {
            "sampler": {"kind": "gp"},
            "search": {"sigma": SIGMA, "alpha": {"choices": [1.0], "only_if": {"sigma": 0.0}}},
        },
        "search.alpha.only_if: gp draws conditional parameters at random",
    ),
    ({"objectives": ["score", "seconds"]}, "pruner.kind: median ranks trials by one objective"),
    ({"objectives": ["seconds"]}, "objectives: the winner is chosen by its score; add it"),
    ({"objectives": ["score", "score"]}, "objectives: one is named twice"),
    ({"pruner": {"kind": "asha"}}, "pruner.warmup_steps: asha first compares trials after"),
    ({"pruner": {"kind": "asha", "warmup_steps": 400}}, "pruner.warmup_steps: 400 steps, but a"),
    ({"pruner": {"reduction": 4}}, "pruner.reduction: kind median does not read it"),
    (
        {"pruner": {"kind": "diverged", "startup_trials": 3}},
        "pruner.startup_trials: kind diverged does not read it",
    ),
    ({"pruner": {"startup_trials": 6}, "trials": 6}, "pruner.startup_trials: nothing is stopped"),
    ({"selection": {"top": 5}}, "selection.top: the best 5 of 4 trials"),
    ({"selection": {"last": 5}}, "selection.last: rule last does not read it"),
    ({"first_trials": [{"sigma": s / 10} for s in range(5)]}, "first_trials: 5 points, but trials"),
    ({"evaluation": {"every": 401}}, "evaluation.every: 401 steps, but a student has 400"),
    (
        {"training_seeds": 2, "search": {"student.seed": {"choices": [0, 1]}}},
        "search.student.seed: each trial trains the 2 seeds that follow student.seed",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), CONTRADICTIONS)
def test_settings_that_contradict_are_named(changes: dict[str, Any], expected: str) -> None:
    [problem] = problems(UMAZE, **changes)
    assert problem.startswith(expected)


def test_all_contradictions_come_at_once() -> None:
    found = problems(
        UMAZE,
        sampler={"kind": "grid", "startup_trials": 3},
        objectives=["score", "seconds"],
        pruner={"kind": "asha", "startup_trials": 2},
        selection={"top": 9},
        search={
            "sigma": {"low": 0, "high": 1},
            "alpha": {"choices": [1.0], "only_if": {"beta": 1}},
        },
    )
    paths = [line.partition(":")[0] for line in found]
    assert sorted(paths) == sorted(
        [
            "search.alpha.only_if.dsm_weight",
            "sampler.startup_trials",
            "pruner.startup_trials",
            "search.sigma",
            "pruner.kind",
            "pruner.warmup_steps",
            "selection.top",
        ]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": {"kind": "grid"}, "search": {"sigma": SIGMA}},
        {
            "sampler": {"kind": "gp"},
            "objectives": ["score", "latency_ms"],
            "pruner": {"kind": "none"},
        },
        {"sampler": {"kind": "nsga2"}},
        {"pruner": {"kind": "asha", "warmup_steps": 50}},
        {"selection": {"rule": "mean-of-last", "last": 2}},
        {"trials": 1},
    ],
)
def test_settings_that_agree_pass_and_so_does_what_they_are_frozen_as(
    changes: dict[str, Any],
) -> None:
    spec = parse(UMAZE, **changes)
    assert parse_spec(dump_spec(spec), "frozen") == spec


# Fields that no trial reads

DEAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (UMAZE, {"reward.members": MEMBERS, "sigma": 0.0}, {}, "reward_weight is 0 in all trials"),
    (
        UMAZE,
        {"student.reward_at": {"choices": ["dsm", "noise"]}, "sigma": 0.0},
        {},
        "reward_weight",
    ),
    (UMAZE, {"reward.advantage_steps": {"low": 5, "high": 50}}, {}, "reward.target is never"),
    (UMAZE, {"student.solver_steps": {"low": 1, "high": 5}, "alpha": 0.0}, {}, "ctm_weight is 0"),
    (UMAZE, {"history": {"choices": [1, 2]}}, {}, "a maze's plan is conditioned on its two ends"),
    (HOPPER, {"student.reward_states": {"low": 1, "high": 9}}, {}, "of a window of actions only"),
    (
        UMAZE,
        {"student.reward_states": {"low": 1, "high": 9}},
        {"reward": {"network": "conv"}},
        "reward.network is conv",
    ),
]


@pytest.mark.parametrize(("task", "search", "recipe", "why"), DEAD)
def test_a_searched_field_that_no_trial_reads_is_named_with_what_makes_it_so(
    task: str, search: dict[str, Any], recipe: dict[str, Any], why: str
) -> None:
    [problem] = problems(task, search=search, recipe=recipe)
    assert problem.startswith(f"search.{next(iter(search))}: no trial reads it, since {why}")


def test_a_searched_collapse_is_not_watched_under_a_pruner_that_watches_nothing() -> None:
    search = {"student.collapse.gain": {"low": 0.5, "high": 3.0}}
    [problem] = problems(UMAZE, search=search, pruner={"kind": "none"})
    assert "pruner.kind is none" in problem
    parse(UMAZE, search=search)


@pytest.mark.parametrize(
    ("task", "search"),
    [
        (UMAZE, {"reward.members": MEMBERS, "sigma": SIGMA}),
        (UMAZE, {"reward.members": MEMBERS, "sigma": {"low": 0.0, "high": 1.0}}),
        (UMAZE, {"reward.members": MEMBERS, "sigma": 0.0, "teacher.reward_weight": 1e-4}),
        (
            # Where the weight is not searched it is the recipe's own, which is above 0.
            UMAZE,
            {
                "reward.members": MEMBERS,
                "sigma": {"choices": [0.0], "only_if": {"horizon": 128}},
                "horizon": {"choices": [128, 160]},
            },
        ),
        (
            HOPPER,
            {
                "reward.advantage_steps": {"low": 5, "high": 50},
                "reward.target": {"choices": ["return", "advantage"]},
            },
        ),
        (HOPPER, {"history": {"choices": [1, 2]}, "executed_actions": {"choices": [1, 2]}}),
    ],
)
def test_a_field_that_some_trial_reads_is_searched(task: str, search: dict[str, Any]) -> None:
    parse(task, search=search)


def test_the_default_recipe_has_a_reward_term() -> None:
    """What the cases above rest on."""
    assert Recipe().student.reward_weight > 0
