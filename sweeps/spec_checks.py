"""Checks across the keys of a spec, on whatever parts are valid: all mistakes come at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from ractd_core.config import Positive, Recipe
from ractd_core.recipes import Family, override, recipe_for
from ractd_core.tasks import Task, expand_datasets
from sweeps.dead_settings import dead_settings, may_be
from sweeps.rows import Row, check_rows, parse_row
from sweeps.search_space import (
    Parameter,
    Range,
    Scalar,
    SearchEntry,
    SearchPath,
    active,
    apply,
    check_values,
    contains,
    fixed,
    is_integer,
    label,
    misfit,
    parameters,
    value_at,
)
from sweeps.spec_parts import (
    Dataset,
    EvaluationSpec,
    Point,
    PointName,
    PrunerSpec,
    Resources,
)
from sweeps.study_checks import part, study_checks
from sweeps.validation import entry, problems_of, salvage, table, together

Searched = dict[str, tuple[str, Any]]
"""What is valid of the search: by the names in the file, canonical paths and what stands there."""


def cross_checks(raw: dict[str, Any]) -> list[str]:
    """What is wrong with a file beyond single keys, a line each."""
    searched: Searched = {}
    named: set[str] = set()
    problems = []
    for name, value in table(raw, "search", {}).items():
        path = entry(SearchPath, name)
        if path in named:
            problems.append(f"search.{name}: {label(path)} is searched twice")
        named |= {path} - {None}
        checked = _entry(value)
        if path is not None and checked is not _INVALID:
            searched[name] = (path, checked)
    wrong = _check_conditions(searched, named)
    problems += wrong
    if wrong:
        searched = {name: (path, _unconditional(each)) for name, (path, each) in searched.items()}
    problems += study_checks(raw, searched)
    known = filter(lambda text: entry(Dataset, text), table(raw, "tasks", []))
    datasets = [name for text in known for name in expand_datasets(text)]
    rows = table(raw, "rows", [])
    if all(entry(Row, row) for row in rows):
        problems += check_rows(rows, datasets)
    tasks = {name.task.name: name.task for name in datasets}
    if not tasks:
        # Without a task that is known, what is wrong for every task is still told.
        return [*problems, *_overridden(Recipe(), raw)[1]]
    found = {name: _task_checks(raw, task, searched, named) for name, task in tasks.items()}
    return [*problems, *together(found)]


def named_point(
    name: PointName, recipe: Recipe, task: Task, search: Mapping[str, Any]
) -> dict[str, Scalar]:
    """What the recipe that ``name`` stands for has at the searched paths that are active there.

    ``recipe`` is the sweep's own.
    """
    source = recipe if name == "default" else recipe_for(task, name)
    values = {path: value_at(source, path) for path in parameters(search)}
    return {path: values[path] for path in values.keys() & active(search, values)}


_INVALID = object()


def _entry(value: Any) -> Any:
    """What stands at a path of the search, or ``_INVALID``: null is a value like others."""
    if value is None:
        return None
    checked = entry(SearchEntry, value)
    return _INVALID if checked is None else checked


def _unconditional(each: Any) -> Any:
    return each.model_copy(update={"only_if": {}}) if isinstance(each, Parameter) else each


def _check_conditions(searched: Searched, named: set[str]) -> list[str]:
    """Conditions on what has one value only, on values that are never drawn, and in circles."""
    search = dict(searched.values())
    problems = []
    for name, (path, parameter) in searched.items():
        conditions = parameter.only_if if isinstance(parameter, Parameter) else {}
        for other, allowed in conditions.items():
            why = _misplaced(path, other, allowed, search, named)
            if why:
                problems.append(f"search.{name}.only_if.{label(other)}: {why}")
    for circle in _circles(search):
        names = " -> ".join(map(label, (*circle, circle[0])))
        problems.append(f"search.{label(circle[0])}.only_if: a circle of conditions, {names}")
    return problems


def _misplaced(
    path: str, other: str, allowed: tuple[Scalar, ...], search: dict[str, Any], named: set[str]
) -> str | None:
    """Why ``path`` cannot be conditional on the ``allowed`` values of ``other``."""
    if other == path:
        return "a parameter cannot be conditional on itself"
    if other not in named:
        return f"{label(other)} is not searched; search it, or leave out the condition"
    if other not in search:
        return None  # told by itself
    parameter = search[other]
    if not isinstance(parameter, Parameter):
        return f"{label(other)} is fixed at {parameter!r}; give it choices, or leave this out"
    if isinstance(parameter, Range) and not is_integer(Recipe(), other):
        return f"{label(other)} is drawn from real numbers, never the same twice; give it choices"
    never = [value for value in allowed if not contains(parameter, value)]
    return f"{', '.join(map(repr, never))} outside search.{label(other)}" if never else None


def _circles(search: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Parameters that wait for each other, each circle once; one alone is told otherwise."""
    seen: set[str] = set()
    for start in search:
        walk: list[str] = []
        at: str | None = start
        while at is not None and at not in walk and at not in seen:
            walk.append(at)
            conditions = getattr(search.get(at), "only_if", {})
            at = next((other for other in conditions if other in search), None)
        if at in walk and walk[-1] != at:
            yield tuple(walk[walk.index(at) :])
        seen |= set(walk)


def _overridden(base: Recipe, raw: dict[str, Any]) -> tuple[Recipe, list[str]]:
    """``base`` with what is valid of the file's ``recipe``, and what is not."""
    overrides = entry(dict[str, Any], raw.get("recipe", {})) or {}
    try:
        return override(base, overrides), []
    except ValidationError as error:
        return salvage(partial(override, base), overrides), problems_of(error, Recipe, "recipe")


def _task_checks(
    raw: dict[str, Any], task: Task, searched: dict[str, tuple[str, Parameter]], named: set[str]
) -> list[str]:
    """What does not fit the recipe of one task.

    ``searched`` is the valid part of the search by the names in the file, ``named`` are the paths
    of all of it.
    """
    family: Family = entry(Family, raw.get("family")) or "small"
    recipe, problems = _overridden(recipe_for(task, family), raw)
    recipe, wrong = _with_fixed(recipe, searched)
    problems += wrong
    names = {path: name for name, (path, _) in searched.items()}
    search = parameters(dict(searched.values()))
    for path in search:
        problems += [f"search.{names[path]}: {why}" for why in _misfits(recipe, path, search)]
    for index, raw_point in enumerate(table(raw, "first_trials", ["default"])):
        where = f"first_trials.{index}"
        point = entry(Point, raw_point)
        if point is not None:
            problems += _check_point(recipe, dict(searched.values()), named, where, task, point)
    problems += _check_policy(recipe, search, table(raw, "rows", []), task)
    problems += _check_reward(recipe, search, table(raw, "rows", []), task)
    problems += _check_steps(recipe, search, raw)
    dead = dead_settings(recipe, search, task, part(raw, PrunerSpec, "pruner"))
    problems += [
        f"search.{names[path]}: no trial reads it, since {why}; change that, or take it out"
        for path, why in dead.items()
    ]
    workers = salvage(Resources.model_validate, raw.get("resources"))
    for stage in ("teacher", "reward", "student"):
        count = getattr(workers, stage).most
        batch = getattr(recipe, stage).optim.batch_size
        if batch < count:
            problems.append(
                f"resources.{stage}.workers: {count} workers, but batch_size {batch} has a row for "
                f"{batch} of them; write that or less"
            )
    return problems


def _with_fixed(recipe: Recipe, searched: Searched) -> tuple[Recipe, list[str]]:
    """``recipe`` with the values that the search fixes, and those that do not fit."""
    values = fixed(dict(searched.values()))
    why = misfit(recipe, values)
    if why is None:
        return apply(recipe, values), []
    names = {path: name for name, (path, _) in searched.items()}
    alone = {path: misfit(recipe, {path: value}) for path, value in values.items()}
    wrong = [f"search.{names[p]}: value {values[p]!r}: {each}" for p, each in alone.items() if each]
    return recipe, wrong or [f"search: {why}"]


def _misfits(recipe: Recipe, path: str, search: dict[str, Parameter]) -> list[str]:
    """Why values of a parameter do not fit, where its conditions hold."""
    conditions: dict[str, tuple[Scalar, ...]] = {}
    waiting = [path]
    while waiting:
        own = search[waiting.pop()].only_if
        waiting += [other for other in own if other in search and other not in conditions]
        conditions |= own
    found = []
    for values in itertools.product(*conditions.values()):
        under = dict(zip(conditions, values, strict=True))
        if misfit(recipe, under) is None:
            found.append(check_values(apply(recipe, under), path, search[path]))
    # One way in which the parameter is searched is enough: the search leaves out the others.
    return min(found, key=len, default=[])


def _check_steps(recipe: Recipe, search: dict[str, Parameter], raw: dict[str, Any]) -> list[str]:
    """Numbers of student steps that no training reaches."""
    steps = search.get("student.optim.steps")
    drawn = steps.samples(integer=True) if steps else (recipe.student.optim.steps,)
    most = max((each for each in drawn if isinstance(each, int)), default=0)
    every = part(raw, EvaluationSpec, "evaluation").every
    pruner = part(raw, PrunerSpec, "pruner")
    problems = []
    if every > most and every != EvaluationSpec().every:
        problems.append(
            f"evaluation.every: {every} steps, but a student has {most}; write that or less"
        )
    seeds = entry(Positive, raw.get("training_seeds", 1)) or 1
    if pruner.warmup_steps is not None and pruner.warmup_steps >= most * seeds:
        problems.append(
            f"pruner.warmup_steps: {pruner.warmup_steps} steps, but a trial has {most * seeds}, so "
            "that none is ever stopped; write less, or kind: diverged"
        )
    return problems


def _check_policy(
    recipe: Recipe, search: dict[str, Parameter], rows: list[Any], task: Task
) -> list[str]:
    """Ways to act that the task or a row does not have."""
    problems = []
    path = "policy.executed_actions"
    if task.domain == "maze2d" and (path in search or recipe.policy.executed_actions > 1):
        problems.append(
            f"{_where(search, path)}: a maze's plan is one of states, and is executed whole"
        )
    if recipe.policy.guidance == 0:
        problems += [
            f"rows.{index}: {row!r} is not guided, recipe.policy.guidance being 0"
            for index, row in enumerate(rows)
            if entry(Row, row) and parse_row(row)[0] == "teacher-guided"
        ]
    return problems


def _check_reward(
    recipe: Recipe, search: dict[str, Parameter], rows: list[Any], task: Task
) -> list[str]:
    """Ways to learn from a reward that the task or a row does not have."""
    problems = []
    path = "reward.target"
    if task.domain == "maze2d" and may_be(recipe, search, path, "advantage"):
        problems.append(
            f"{_where(search, path)}: advantage is of actions, a maze's plan is one of states: "
            "write return"
        )
    methods = {
        index: parse_row(row)[0] for index, row in enumerate(rows) if entry(Row, row) is not None
    }
    # What a method cannot do, where that is asked for, and why.
    misfits: list[tuple[tuple[str, ...], str, bool, str]] = [
        (
            ("joint",),
            "student.reward_scale",
            may_be(recipe, search, "student.reward_scale", "gradient"),
            "gradient needs a reward model that is there before the student",
        ),
        (
            ("joint",),
            "reward.target",
            may_be(recipe, search, "reward.target", "advantage"),
            "advantage needs a value function that is learned before the student",
        ),
        (
            ("reward-in-teacher", "reward-in-both"),
            "student.reward_scale",
            may_be(recipe, search, "student.reward_scale", "gradient"),
            "gradient is the student's unit of the reward, which a teacher does not have",
        ),
        (
            ("reward-in-teacher", "reward-in-both"),
            "student.pessimism",
            "student.pessimism" in search or recipe.student.pessimism > 0,
            "above 0 is the student's alone",
        ),
    ]
    return problems + [
        f"rows.{index}: {rows[index]!r} cannot be had with {_where(search, path)}: {why}; change "
        "it, or leave the row out"
        for index, method in methods.items()
        for those, path, asked, why in misfits
        if asked and method in those
    ]


def _where(search: dict[str, Parameter], path: str) -> str:
    return f"search.{path}" if path in search else f"recipe.{path}"


def _check_point(
    recipe: Recipe,
    search: dict[str, Any],
    named: set[str],
    where: str,
    task: Task,
    point: PointName | dict[str, Scalar],
) -> list[str]:
    whose = "" if isinstance(point, dict) else f" ({point})"
    if not isinstance(point, dict):
        point = named_point(point, recipe, task, search)
    problems = []
    for path, value in point.items():
        why = _misplaced_value(path, value, point, search, named)
        if why:
            problems.append(f"{where}.{label(path)}: {why.format(value=f'{value!r}{whose}')}")
    if not problems and misfit(recipe, point):
        problems.append(f"{where}{whose}: {misfit(recipe, point)}")
    return problems


def _misplaced_value(
    path: str, value: Scalar, point: dict[str, Scalar], search: dict[str, Any], named: set[str]
) -> str | None:
    """Why a first trial cannot have a value at ``path``; the value itself is left as a field."""
    if path not in named:
        return "not searched; set it under recipe instead"
    if path not in search:
        return None  # told by itself
    parameter = search[path]
    if not isinstance(parameter, Parameter):
        return f"search.{label(path)} is fixed at {parameter!r}"
    for other, allowed in parameter.only_if.items():
        if other in point and point[other] not in allowed:
            return f"not searched with {label(other)} {point[other]!r}; leave it out"
    return None if contains(parameter, value) else f"{{value}} lies outside search.{label(path)}"
