"""The sweep as data: a YAML file, typed, and checked whole before anything starts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
)

from cluster.protocol import JobError, check_name
from ractd_core.config import (
    Config,
    Positive,
    Recipe,
)
from ractd_core.recipes import Family, override, recipe_for
from ractd_core.tasks import DatasetName, Task, expand_datasets, near, parse_dataset_name
from sweeps.rows import Row, check_rows, parse_row, rows_for
from sweeps.search_space import (
    Choices,
    Parameter,
    Scalar,
    SearchPath,
    check_values,
    contains,
    label,
    misfit,
    value_at,
    whole_space,
)
from sweeps.spec_parts import (
    BudgetSpec,
    DataSpec,
    EvaluationSpec,
    PrunerSpec,
    Resources,
    SamplerSpec,
    SelectionSpec,
)
from sweeps.validation import entry, problems_of, salvage, table, together

_SMALL_SPACE = 1000


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2, and not a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The plain values of safe YAML, with numbers as specs have them; raises yaml.YAMLError."""
    return _Loader(text).get_single_data()


class SpecError(ValueError):
    """Everything that is wrong with a spec, one problem per line with its path."""


def _name(value: str) -> str:
    try:
        return check_name(value)
    except JobError as error:
        raise ValueError(str(error)) from error


def _dataset(value: str) -> str:
    refusals = [name.refusal for name in expand_datasets(value) if name.refusal is not None]
    if refusals:
        raise ValueError("; ".join(refusals))
    return value


def _study(value: str) -> str:
    parts = urlsplit(value)
    if value != "journal" and parts.scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise ValueError(
            f"{value!r} is neither journal nor a database's URL such as sqlite:////shared/study.db "
            "or postgresql://host/database"
        )
    if parts.password is not None:
        raise ValueError(
            "the URL holds a password, which would lie on the storage for all to read; leave it "
            "out and give it in the environment (PGPASSWORD) or in ~/.pgpass"
        )
    return value


Dataset = Annotated[str, AfterValidator(_dataset)]


Objective = Literal["score", "seconds", "latency_ms"]
"""What a search improves: the selection score, and if asked beside it training time or latency."""

PointName = Literal["default", Family]
Point = Annotated[
    Annotated[PointName, Tag("named")] | Annotated[dict[SearchPath, Scalar], Tag("values")],
    Discriminator(lambda value: "values" if isinstance(value, dict) else "named"),
]
"""A trial to begin with: values of searched fields, or those that a recipe has for all of them.

``default`` is the task's recipe in this sweep, ``released`` and its like that of another family.
"""


class SweepSpec(Config):
    """A sweep: for each task, ``trials`` students searched over ``search``.

    ``tasks`` are datasets such as ``local/maze2d-umaze-v1`` or groups of them such as
    ``d4rl/gym-mujoco-9`` or ``minari/kitchen-*``. ``rows`` are compared with the winner: its
    ``teacher``, the student without reward (``ctd``) and without denoising too (``ctm``),
    ``regression`` or, outside mazes, ``bc``, and more by any number of network calls
    (:mod:`sweeps.rows`). Null means regression, teacher and ctd, and outside mazes bc, the teacher
    by 20 calls of DDIM, and ctd: its 158 at every step of an episode, where a maze's plan is made
    once, take hours on a CPU.

    ``family`` names the recipes that the tasks begin with (:mod:`ractd_core.recipes`); ``recipe``
    is what the sweep changes in all of them, in a nested mapping of the fields of
    :class:`ractd_core.config.Recipe`. Whether it fits each task is checked by :func:`parse_spec`.

    ``training_seeds`` students of different seeds make a trial. ``study`` is where Optuna's studies
    lie: in a ``journal`` file per task beside the records, or in the database of that URL.
    """

    name: Annotated[str, AfterValidator(_name)]
    tasks: Annotated[tuple[Dataset, ...], Field(min_length=1)]
    trials: Positive
    search: Annotated[dict[SearchPath, Parameter], Field(min_length=1)]
    first_trials: tuple[Point, ...] = ("default",)
    rows: tuple[Row, ...] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSpec = DataSpec()
    family: Family = "small"
    recipe: dict[str, Any] = Field(default_factory=dict)
    evaluation: EvaluationSpec = EvaluationSpec()
    training_seeds: Annotated[int, Field(ge=1, le=100)] = 1
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("score",)
    study: Annotated[str, AfterValidator(_study)] = "journal"
    selection: SelectionSpec = SelectionSpec()
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: Resources = Resources()

    @field_validator("tasks")
    @classmethod
    def _whole_groups(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Groups become their tasks, so that nothing else need know of groups."""
        names = [name for text in tasks for name in expand_datasets(text)]
        counts = Counter(name.task.name for name in names)
        twice = [task for task, count in counts.items() if count > 1]
        if twice:
            raise ValueError(
                f"{', '.join(twice)} named more than once; a sweep has one dataset per task"
            )
        return tuple(map(str, names))

    def recipe_of(self, dataset: DatasetName) -> Recipe:
        """The recipe of one task, before anything is searched."""
        return override(recipe_for(dataset.task, self.family), self.recipe)

    def planned_trials(self, dataset: DatasetName) -> int:
        """``trials``, or the number of points of a search space that has fewer for this task."""
        sizes = [len(p.choices) for p in self.search.values() if isinstance(p, Choices)]
        if len(sizes) < len(self.search) or math.prod(sizes) > _SMALL_SPACE:
            return self.trials
        points = whole_space(self.recipe_of(dataset), self.search)
        return min(self.trials, sum(1 for _ in points))

    def rows_of(self, dataset: DatasetName) -> tuple[Row, ...]:
        """The rows to compare the winner of one task with."""
        if self.rows is not None:
            return rows_for(dataset, self.rows)
        if dataset.task.domain == "maze2d":
            return ("regression", "teacher", "ctd")
        return ("bc", "teacher:ddim-20", "ctd")

    def datasets(self) -> list[DatasetName]:
        """The datasets that ``tasks`` names."""
        return [parse_dataset_name(text) for text in self.tasks]

    def first_points(self, dataset: DatasetName) -> list[dict[str, Scalar]]:
        """The trials of one task to begin with, by canonical path."""
        recipe = self.recipe_of(dataset)
        return [
            dict(point)
            if isinstance(point, dict)
            else _named_values(point, recipe, dataset.task, self.search)
            for point in self.first_trials
        ]


def _named_values(
    name: PointName, recipe: Recipe, task: Task, paths: Iterable[str]
) -> dict[str, Scalar]:
    """What the recipe that ``name`` stands for has at ``paths``; ``recipe`` is the sweep's own."""
    source = recipe if name == "default" else recipe_for(task, name)
    return {path: value_at(source, path) for path in paths}


def presets() -> dict[str, Path]:
    """The specs that come with the program, by name."""
    folder = Path(str(resources.files("sweeps").joinpath("presets")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_spec(source: str) -> SweepSpec:
    """Read and check a spec file, or the preset of that name.

    Raises :class:`SpecError` naming every problem with its path.
    """
    path = Path(source)
    if source in presets() and not path.is_file():
        path = presets()[source]
    if not path.is_file():
        known = list(presets())
        hint = near(source, known) or f"; presets: {', '.join(known)}"
        raise SpecError(f"{source}: no such spec file or preset{hint}")
    try:
        return parse_spec(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not a text file ({error})") from error


def parse_spec(text: str, where: str) -> SweepSpec:
    """As :func:`load_spec`, from YAML text; ``where`` names it in errors."""
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{where}: expected a mapping of keys, found {type(raw).__name__}")
    problems: list[str] = []
    spec: SweepSpec | None = None
    try:
        spec = SweepSpec.model_validate(raw)
    except ValidationError as error:
        problems += problems_of(error, SweepSpec)
    problems += _cross_checks(raw)
    if problems or spec is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError("\n  ".join([f"{where}: {count}; nothing was started", *problems]))
    return spec


def _cross_checks(raw: dict[str, Any]) -> list[str]:
    """Checks across keys, on whatever parts are valid by themselves, so that all come at once."""
    searched: dict[str, tuple[str, Parameter]] = {}
    named: set[str] = set()
    problems = []
    for name, parameter in table(raw, "search", {}).items():
        path = entry(SearchPath, name)
        if path in named:
            problems.append(f"search.{name}: {label(path)} is searched twice")
        named |= {path} - {None}
        checked = entry(Parameter, parameter)
        if path is not None and checked is not None:
            searched[name] = (path, checked)
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
    for name, (path, parameter) in searched.items():
        problems += [f"search.{name}: {why}" for why in check_values(recipe, path, parameter)]
    search = dict(searched.values())
    for index, raw_point in enumerate(table(raw, "first_trials", ["default"])):
        where = f"first_trials.{index}"
        point = entry(Point, raw_point)
        if point is not None:
            problems += _check_point(recipe, search, named, where, task, point)
    problems += _check_policy(recipe, search, table(raw, "rows", []), task)
    problems += _check_reward(recipe, search, table(raw, "rows", []), task)
    workers = salvage(Resources.model_validate, raw.get("resources"))
    for stage in ("teacher", "reward", "student"):
        count = getattr(workers, stage).workers
        batch = getattr(recipe, stage).optim.batch_size
        if batch % count:
            problems.append(
                f"resources.{stage}.workers: {count} workers cannot share batch_size {batch} evenly"
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
    if task.domain == "maze2d" and _may_be(recipe, search, path, "advantage"):
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
            _may_be(recipe, search, "student.reward_scale", "gradient"),
            "gradient needs a reward model that is there before the student",
        ),
        (
            ("joint",),
            "reward.target",
            _may_be(recipe, search, "reward.target", "advantage"),
            "advantage needs a value function that is learned before the student",
        ),
        (
            ("reward-in-teacher", "reward-in-both"),
            "student.reward_scale",
            _may_be(recipe, search, "student.reward_scale", "gradient"),
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


def _may_be(recipe: Recipe, search: dict[str, Parameter], path: str, value: Scalar) -> bool:
    """Whether some trial has ``value`` at ``path``."""
    return contains(search[path], value) if path in search else value_at(recipe, path) == value


def _where(search: dict[str, Parameter], path: str) -> str:
    return f"search.{path}" if path in search else f"recipe.{path}"


def _check_point(
    recipe: Recipe,
    search: dict[str, Parameter],
    named: set[str],
    where: str,
    task: Task,
    point: PointName | dict[str, Scalar],
) -> list[str]:
    whose = "" if isinstance(point, dict) else f" ({point})"
    if not isinstance(point, dict):
        point = _named_values(point, recipe, task, search)
    problems = []
    for path, value in point.items():
        if path not in named:
            problems.append(f"{where}.{label(path)}: not searched; set it under recipe instead")
        elif path in search and not contains(search[path], value):
            problems.append(
                f"{where}.{label(path)}: {value!r}{whose} lies outside search.{label(path)}"
            )
    if not problems and misfit(recipe, point):
        problems.append(f"{where}{whose}: {misfit(recipe, point)}")
    return problems


def dump_spec(spec: SweepSpec) -> str:
    """The whole spec, defaults included, as YAML that :func:`parse_spec` reads back."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
