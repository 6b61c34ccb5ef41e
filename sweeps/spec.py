"""The sweep as data: a YAML file, typed, and checked whole before anything starts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator

from cluster.protocol import JobError, check_name
from ractd_core.config import Config, Positive, Recipe
from ractd_core.recipes import Family, override, recipe_for
from ractd_core.tasks import DatasetName, expand_datasets, near, parse_dataset_name
from sweeps.object_store import StoreUri
from sweeps.rows import Row, rows_for
from sweeps.search_space import (
    Scalar,
    SearchEntry,
    SearchPath,
    apply,
    fixed,
    is_finite,
    whole_space,
)
from sweeps.spec_checks import cross_checks, named_point
from sweeps.spec_parts import (
    BudgetSpec,
    Dataset,
    DataSpec,
    EvaluationSpec,
    Objective,
    Point,
    PrunerSpec,
    Resources,
    SamplerSpec,
    SelectionSpec,
)
from sweeps.validation import problems_of


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2, and no key stands twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping; of a key that stands twice YAML would keep the last one in silence."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"{key.value} stands there twice", key.start_mark
                )
            seen.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Puts into quotes what the loader would take for a number: a sweep called 0e0."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
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


def _study(value: str) -> str:
    parts = urlsplit(value)
    asked = parse_qsl(parts.query, keep_blank_values=True)
    if parts.password is not None or any("password" in name.lower() for name, _ in asked):
        raise ValueError(
            "the URL holds a password, which would lie on the storage for all to read; leave it "
            "out and give it in the environment (PGPASSWORD) or in ~/.pgpass"
        )
    if value != "journal" and parts.scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise ValueError(
            f"{value!r} is neither journal nor a database's URL such as sqlite:////shared/study.db "
            "or postgresql://host/database"
        )
    return value


def _storage(value: str | None) -> str | None:
    if value is not None and "://" in value:
        StoreUri.parse(value)
    return value


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
    ``storage`` is the folder of stages and sweeps where ``--storage`` does not say; commands that
    take a sweep's name look for it where they are told.
    """

    name: Annotated[str, AfterValidator(_name)]
    tasks: Annotated[tuple[Dataset, ...], Field(min_length=1)]
    trials: Positive
    search: Annotated[dict[SearchPath, SearchEntry], Field(min_length=1)]
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
    storage: Annotated[str | None, AfterValidator(_storage)] = None
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
        recipe = override(recipe_for(dataset.task, self.family), self.recipe)
        return apply(recipe, fixed(self.search))

    def planned_trials(self, dataset: DatasetName) -> int:
        """``trials``, or the number of points of a search space that has fewer for this task."""
        recipe = self.recipe_of(dataset)
        if not is_finite(recipe, self.search):
            return self.trials
        points = whole_space(recipe, self.search)
        return sum(1 for _ in itertools.islice(points, self.trials))

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
            else named_point(point, recipe, dataset.task, self.search)
            for point in self.first_trials
        ]


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
    problems += cross_checks(raw)
    if problems or spec is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError("\n  ".join([f"{where}: {count}; nothing was started", *problems]))
    return spec


def dump_spec(spec: SweepSpec) -> str:
    """The whole spec, defaults included, as YAML that :func:`parse_spec` reads back."""
    table = spec.model_dump(mode="json")
    text: str = yaml.dump(table, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
