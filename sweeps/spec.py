"""The sweep as data: a YAML file, typed, and checked whole before anything starts."""

from __future__ import annotations

import copy
import csv
import math
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from cluster.protocol import JobError, check_name
from ractd_core.config import (
    Config,
    NonNegative,
    Positive,
    PositiveFloat,
    Recipe,
)
from ractd_core.data.generate import LocalRecipe
from ractd_core.tasks import DatasetName, expand_datasets, near, parse_dataset_name
from sweeps.rows import Row
from sweeps.search_space import (
    Choices,
    Parameter,
    Range,
    Scalar,
    SearchPath,
    check_values,
    contains,
    label,
    misfit,
    whole_space,
)

_SMALL_SPACE = 1000
SELECTION_SEED = 10_000
FINAL_SEED = 1_000_000
"""Selection and final evaluation draw their episode seeds from ranges that never meet."""


Model = TypeVar("Model", bound=Config)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2, and not a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


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


Dataset = Annotated[str, AfterValidator(_dataset)]


class DataSpec(Config):
    """How ``local/...`` datasets that are not there yet are generated.

    ``noisy`` is for mazes, ``training_steps`` (of SAC) for Gym-MuJoCo.
    """

    transitions: Annotated[int, Field(ge=1000)] = 100_000
    seed: Annotated[int, Field(ge=0)] = 0
    noisy: bool = False
    training_steps: Annotated[int, Field(ge=1000)] = 200_000

    def recipe(self) -> LocalRecipe:
        """As the data store takes it."""
        return LocalRecipe(self.transitions, self.seed, self.noisy, self.training_steps)


class EvaluationSpec(Config):
    """How many episodes are played when.

    ``episodes`` after every ``every`` student steps; ``selection_episodes`` with the last weights,
    whose mean is the objective; ``final_episodes`` with fresh seeds, for the table.
    """

    every: Positive = 50
    episodes: Positive = 25
    selection_episodes: Annotated[int, Field(ge=1, lt=FINAL_SEED - SELECTION_SEED)] = 50
    final_episodes: Positive = 100


class SamplerSpec(Config):
    """TPE, after ``startup_trials`` trials that are random or were given first."""

    startup_trials: Positive = 10


class PrunerSpec(Config):
    """Which unpromising trials are stopped early.

    ``median``: a trial whose best score so far is below the median of earlier trials' scores at the
    same step, once ``startup_trials`` have finished and after ``warmup_steps`` student steps.
    ``none`` stops none.
    """

    kind: Literal["median", "none"] = "median"
    startup_trials: Annotated[int, Field(ge=1)] = 4
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class StageResources(Config):
    """``workers`` Ray Train workers with ``cpus`` and ``gpus`` each; one runs in its own process.

    ``micro_batch`` rows of a worker's share go through the networks at a time (null: all), and
    ``compile`` compiles the networks, which pays off in long runs. None of this is part of a
    stage's key: it does not change its result.
    """

    workers: Positive = 1
    cpus: PositiveFloat = 1.0
    gpus: NonNegative = 0.0
    micro_batch: Positive | None = None
    compile: bool = False

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus != int(self.gpus) and (self.gpus > 1 or self.workers > 1):
            raise ValueError(
                f"gpus {self.gpus:g}: a fraction is possible for one worker, up to one GPU; "
                "several workers take whole GPUs each"
            )
        return self


class Resources(Config):
    """What each stage takes, and how many trials run at once (null: as many as fit)."""

    teacher: StageResources = StageResources()
    reward: StageResources = StageResources()
    student: StageResources = StageResources()
    concurrent_trials: Positive | None = None


Point = Annotated[
    Annotated[Literal["paper"], Tag("paper")] | Annotated[dict[SearchPath, Scalar], Tag("values")],
    Discriminator(lambda value: "values" if isinstance(value, dict) else "paper"),
]
"""A trial to begin with: values of searched fields, or ``paper``, the released configuration."""


class SweepSpec(Config):
    """A sweep: for each task, ``trials`` students searched over ``search``.

    ``tasks`` are datasets such as ``local/maze2d-umaze-v1`` or groups of them such as
    ``d4rl/gym-mujoco-9`` or ``minari/kitchen-*``. ``rows`` are compared with the winner: its
    ``teacher``, the student without reward (``ctd``) and without denoising too (``ctm``),
    ``regression``, and any of these by other numbers of network calls (:mod:`sweeps.rows`). Null
    means regression, teacher and ctd, the teacher by 20 calls of DDIM outside mazes: its 158 at
    every step of an episode, where a maze's plan is made once, take hours on a CPU.
    """

    name: Annotated[str, AfterValidator(_name)]
    tasks: Annotated[tuple[Dataset, ...], Field(min_length=1)]
    trials: Positive
    search: Annotated[dict[SearchPath, Parameter], Field(min_length=1)]
    first_trials: tuple[Point, ...] = ("paper",)
    rows: tuple[Row, ...] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSpec = DataSpec()
    recipe: Recipe = Recipe()
    evaluation: EvaluationSpec = EvaluationSpec()
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()
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

    @property
    def planned_trials(self) -> int:
        """``trials``, or the number of points of a search space that has fewer."""
        sizes = [len(p.choices) for p in self.search.values() if isinstance(p, Choices)]
        if len(sizes) < len(self.search) or math.prod(sizes) > _SMALL_SPACE:
            return self.trials
        return min(self.trials, sum(1 for _ in whole_space(self.recipe, self.search)))

    def rows_of(self, dataset: DatasetName) -> tuple[Row, ...]:
        """The rows to compare the winner of one task with."""
        if self.rows is not None:
            return self.rows
        plans = dataset.task.domain == "maze2d"
        return ("regression", "teacher" if plans else "teacher:ddim-20", "ctd")

    def datasets(self) -> list[DatasetName]:
        """The datasets that ``tasks`` names."""
        return [parse_dataset_name(text) for text in self.tasks]

    def first_points(self, task: str) -> list[dict[str, Scalar]]:
        """The trials to begin with, by canonical path; ``paper`` stands for the task's defaults."""
        return [
            {p: v for p, v in paper_defaults(task).items() if p in self.search}
            if point == "paper"
            else dict(point)
            for point in self.first_trials
        ]


def paper_defaults(task: str) -> dict[str, Scalar]:
    """Horizon and loss weights of the released configuration; empty for tasks it does not have."""
    text = resources.files("ractd_core").joinpath("paper.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        if row["task"] == task:
            weights = {
                f"student.{key}": float(row[key])
                for key in ("ctm_weight", "dsm_weight", "reward_weight")
            }
            return {"window.horizon": int(row["horizon"]), **weights}
    return {}


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
        raw = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise SpecError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{where}: expected a mapping of keys, found {type(raw).__name__}")
    problems: list[str] = []
    spec: SweepSpec | None = None
    try:
        spec = SweepSpec.model_validate(raw)
    except ValidationError as error:
        problems += _structural(error)
    problems += _cross_checks(raw)
    if problems or spec is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError("\n  ".join([f"{where}: {count}; nothing was started", *problems]))
    return spec


_BRANCHES = ("[key]", "choices", "range", "paper", "values")
"""Parts that unions and key validators add to a location and that are not in the file."""


def _structural(error: ValidationError) -> list[str]:
    items = error.errors()
    problems = []
    for item in items:
        location = item["loc"]
        inner = [other["loc"] for other in items if len(other["loc"]) > len(location)]
        if item["type"] == "too_short" and any(loc[: len(location)] == location for loc in inner):
            continue  # it is short because its items, reported by themselves, are wrong
        names = [str(part) for part in location]
        shown = ".".join(
            name for index, name in enumerate(names) if not (name in _BRANCHES and index)
        )
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            message = f"unknown key{near(names[-1], known) or '; known here: ' + ', '.join(known)}"
        elif item["type"] not in ("value_error", "missing"):
            message += f" (found {item['input']!r})"
        problems.append(f"{shown or 'spec'}: {message}")
    return list(dict.fromkeys(problems))


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys of the table at ``location``."""
    model: Any = SweepSpec
    for part in location:
        if part in ("choices", "range"):
            model = Choices if part == "choices" else Range
        elif part in getattr(model, "model_fields", {}):
            model = model.model_fields[part].annotation
    return list(model.model_fields)


def _salvage(model: type[Model], raw: Any) -> Model:
    """``model`` from whatever of ``raw`` is valid, so that one mistake does not hide another."""
    rest = copy.deepcopy(raw) if isinstance(raw, dict) else {}
    while True:
        try:
            return model.model_validate(rest)
        except ValidationError as error:
            for item in error.errors():
                table, parents = rest, item["loc"]
                for part in parents[:-1]:
                    inner = table.get(part) if isinstance(table, dict) else None
                    if not isinstance(inner, dict):
                        break
                    table, parents = inner, parents[1:]
                if parents:
                    table.pop(parents[0], None)
                else:
                    rest = {}


def _entry(annotation: Any, value: Any) -> Any:
    """``value`` as the annotation's type, None if it is not."""
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return None


def _table(raw: dict[str, Any], key: str, default: Any = None) -> Any:
    """A part of the file if it is of the default's kind; what is not is reported elsewhere."""
    value = raw.get(key, default)
    return value if isinstance(value, type(default)) else type(default)()


def _cross_checks(raw: dict[str, Any]) -> list[str]:
    """Checks across keys, on whatever parts are valid by themselves, so that all come at once."""
    recipe = _salvage(Recipe, raw.get("recipe"))
    search: dict[str, Parameter] = {}
    named: set[str] = set()
    problems = []
    for name, parameter in _table(raw, "search", {}).items():
        path = _entry(SearchPath, name)
        if path in named:
            problems.append(f"search.{name}: {label(path)} is searched twice")
        named |= {path} - {None}
        checked = _entry(Parameter, parameter)
        if path is not None and checked is not None:
            search[path] = checked
            problems += [f"search.{name}: {why}" for why in check_values(recipe, path, checked)]
    known = filter(lambda task: _entry(Dataset, task), _table(raw, "tasks", []))
    for task in (name.task.name for text in known for name in expand_datasets(text)):
        for index, point in enumerate(_table(raw, "first_trials", ["paper"])):
            where = f"first_trials.{index}"
            problems += _check_point(recipe, search, named, where, task, _entry(Point, point))
    workers = _salvage(Resources, raw.get("resources"))
    for stage in ("teacher", "reward", "student"):
        count = getattr(workers, stage).workers
        batch = getattr(recipe, stage).optim.batch_size
        if batch % count:
            problems.append(
                f"resources.{stage}.workers: {count} workers cannot share batch_size {batch} evenly"
            )
    return list(dict.fromkeys(problems))


def _check_point(
    recipe: Recipe,
    search: dict[str, Parameter],
    named: set[str],
    where: str,
    task: str,
    point: Any,
) -> list[str]:
    if point is None:
        return []
    whose = f" (the paper's for {task})" if point == "paper" else ""
    if point == "paper":
        defaults = paper_defaults(task)
        point = {path: value for path, value in defaults.items() if path in search}
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
