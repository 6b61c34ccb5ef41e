"""The presets: all load, plan, and fit the schema that editors check specs with; typos do not."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from ractd_core.config import Recipe
from ractd_core.recipes import recipe_for
from ractd_core.tasks import Task, all_tasks
from sweeps.dry_run import dry_run
from sweeps.dry_run_table import table
from sweeps.layout import SweepFolder
from sweeps.search_space import ALIASES, SEARCHABLE
from sweeps.spec import dump_spec, load_spec, parse_yaml, presets
from sweeps.spec_schema import spec_schema
from sweeps.step_times import Rate
from tests.sweeps.command import ractd

pytestmark = pytest.mark.usefixtures("project_home")

PRESETS = list(presets())
jsonschema = importlib.import_module("jsonschema")


def raw(name: str) -> dict[str, Any]:
    values: dict[str, Any] = parse_yaml(presets()[name].read_text(encoding="utf-8"))
    return values


def wrong(spec: Any) -> list[str]:
    """Where the schema says that a spec is wrong."""
    found = jsonschema.Draft202012Validator(spec_schema()).iter_errors(spec)
    return [".".join(map(str, error.absolute_path)) for error in found]


class OneSecond:
    """Every step and every episode takes a second."""

    def step(self, kind: str, recipe: Recipe, task: Task) -> Rate:
        return Rate(1.0, "measured here")

    def episode(self, recipe: Recipe, task: Task) -> float:
        return 1.0


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_is_for_and_what_it_costs(name: str) -> None:
    text = presets()[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert load_spec(name).name == name
    comment = text.partition("name:")[0]
    assert len(comment) > 80
    assert any(word in comment for word in ("CPU", "GPU", "cores"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_planned_for_every_task(name: str, tmp_path: Path) -> None:
    spec = load_spec(name)
    folder = SweepFolder(tmp_path, name)
    plan = dry_run(spec, folder, OneSecond(), folder.check_same)
    # What a machine lacks is its own matter: a GPU, or room.
    assert all(problem.startswith(("resources.", "storage ")) for problem in plan.problems)
    assert [task.dataset for task in plan.tasks] == list(spec.tasks)
    for task in plan.tasks:
        assert 1 <= task.trials <= spec.trials
        assert all(stage.distinct is not None for stage in task.stages), "stages are shared"
        assert task.hours is not None
        assert task.hours_alone is not None
        assert task.hours <= task.hours_alone
    assert table(plan)


@pytest.mark.parametrize("name", [n for n in PRESETS if load_spec(n).family == "released"])
def test_presets_of_the_papers_tables_begin_with_the_released_settings(name: str) -> None:
    spec = load_spec(name)
    for dataset in spec.datasets():
        student = recipe_for(dataset.task, "released").student
        first = spec.first_points(dataset)[0]
        assert first["student.reward_weight"] == student.reward_weight


def test_all_tasks_are_in_the_preset_of_all() -> None:
    assert {d.task.name for d in load_spec("all-d4rl").datasets()} == set(all_tasks())


# The schema


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_schema_as_written_and_as_frozen(name: str) -> None:
    assert wrong(raw(name)) == []
    assert wrong(parse_yaml(dump_spec(load_spec(name)))) == []


TYPOS: list[tuple[tuple[str, ...], Any, str]] = [
    (("trails",), 3, ""),
    (("evaluation", "evry"), 5, "evaluation"),
    (("search", "sigmma"), {"choices": [1]}, "search"),
    (("search", "regression.seed"), {"choices": [1]}, "search"),
    (("search", "sigma"), {"low": 0.0, "hig": 1.0}, "search.sigma"),
    (("search", "sigma"), {"choices": [0.0], "only_if": {"horizn": 1}}, "search.sigma"),
    (("recipe", "student", "optim", "stepz"), 3, "recipe.student.optim"),
    (("recipe", "teacher", "distance"), "l1", "recipe.teacher.distance"),
    (("pruner", "kind"), "meridian", "pruner.kind"),
    (("trials",), 0, "trials"),
    (("rows",), ["techer"], "rows"),
    (("first_trials",), [{"sigmma": 1.0}], "first_trials.0"),
]


@pytest.mark.parametrize(("place", "value", "where"), TYPOS)
def test_a_typo_does_not_fit_the_schema(place: tuple[str, ...], value: Any, where: str) -> None:
    spec = copy.deepcopy(raw("quickstart"))
    *parents, last = place
    part = spec
    for name in parents:
        part = part.setdefault(name, {})
    part[last] = value
    assert wrong(spec) == [where]


def test_an_editor_is_offered_every_path_and_alias_and_any_form_of_an_entry() -> None:
    schema = spec_schema()
    assert set(schema["properties"]["search"]["propertyNames"]["enum"]) == {*ALIASES, *SEARCHABLE}
    search = {
        "beta": 1.0,
        "student.trust_radius": None,
        "horizon": {"choices": [128, 160]},
        "alpha": {"low": 0.5, "high": 1.5, "step": 0.5, "only_if": {"horizon": 128}},
        "sigma": {"low": 1e-5, "high": 1, "log": True, "only_if": {"horizon": [128, 160]}},
    }
    assert wrong({**raw("quickstart"), "search": search}) == []


def test_every_table_says_what_it_means() -> None:
    schema = spec_schema()
    assert schema["description"]
    assert all(part.get("description") for part in schema["$defs"].values())


def test_the_command_prints_it() -> None:
    assert json.loads(ractd("sweep", "schema")) == spec_schema()
