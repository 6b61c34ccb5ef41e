"""The search space as data: which field of the recipe is searched over which values.

A field is named by its path in the recipe (``student.optim.lr``) or by one of the paper's names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from ractd_core.config import Config, Recipe
from ractd_core.tasks import near

ALIASES = {
    "horizon": "window.horizon",
    "sigma": "student.reward_weight",
    "reward_weight": "student.reward_weight",
    "alpha": "student.ctm_weight",
    "ctm_weight": "student.ctm_weight",
    "beta": "student.dsm_weight",
    "dsm_weight": "student.dsm_weight",
}
LABELS = {
    "window.horizon": "horizon",
    "student.reward_weight": "reward_weight",
    "student.ctm_weight": "ctm_weight",
    "student.dsm_weight": "dsm_weight",
}
"""What records and the study call a path; other paths are called by themselves."""

_FIRST_FEW = 4
_ROWS_ALONE = {"regression.": "regression", "policy.guidance": "teacher-guided"}
"""The beginnings of paths that no trial reads, with the row of comparison that does."""


def label(path: str) -> str:
    """The name of a canonical path in records and in the study."""
    return LABELS.get(path, path)


def _leaves(model: type[Config], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for name, info in model.model_fields.items():
        kinds = [info.annotation, *get_args(info.annotation)]
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, Config)), None)
        paths += _leaves(nested, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return paths


FIELDS = _leaves(Recipe)
SEARCHABLE = [path for path in FIELDS if not path.startswith(tuple(_ROWS_ALONE))]


def canonical_path(name: str) -> str:
    """The recipe path that ``name`` stands for; ValueError with near names if nothing reads it."""
    path = ALIASES.get(name, name)
    if path in SEARCHABLE:
        return path
    for start, row in _ROWS_ALONE.items():
        if path.startswith(start):
            raise ValueError(f"{name!r} belongs to the {row} row; no trial reads it")
    return field_path(name, SEARCHABLE)


def field_path(name: str, known: Sequence[str] = FIELDS) -> str:
    """The path among ``known`` that ``name`` stands for; ValueError with near names if none is."""
    path = ALIASES.get(name, name)
    if path in known:
        return path
    raise ValueError(f"{name!r} is not a field of the recipe{near(name, [*ALIASES, *known])}")


SearchPath = Annotated[str, AfterValidator(canonical_path)]
Scalar = bool | int | float | str | None


class Choices(Config):
    """A categorical parameter."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    def samples(self, integer: bool) -> tuple[Scalar, ...]:
        """Values that must be valid for the whole parameter to be."""
        return self.choices


class Range(Config):
    """A number between ``low`` and ``high``, uniform or (``log``) uniform in its logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must begin above 0, found low {self.low}")
        return self

    def samples(self, integer: bool) -> tuple[Scalar, ...]:
        """Both ends and, of whole numbers, the first few: a search would draw those too."""
        if not integer:
            return (self.low, self.high)
        low, high = int(self.low), int(self.high)
        return (*range(low, min(high, low + _FIRST_FEW)), high)


def _shape(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    return "choices" if "choices" in given else "range"


Parameter = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_shape)
]


def apply(recipe: Recipe, values: dict[str, Scalar]) -> Recipe:
    """``recipe`` with the fields at canonical paths set; ValidationError if one does not fit."""
    dump = recipe.model_dump(mode="json")
    for path, value in values.items():
        *parents, leaf = path.split(".")
        table = dump
        for parent in parents:
            table = table[parent]
        table[leaf] = value
    return Recipe.model_validate(dump)


def value_at(recipe: Recipe, path: str) -> Scalar:
    """What ``recipe`` has at a canonical path."""
    found: Any = recipe
    for part in path.split("."):
        found = getattr(found, part)
    value: Scalar = found
    return value


def check_values(recipe: Recipe, path: str, parameter: Parameter) -> list[str]:
    """Why values of ``parameter`` do not fit the recipe at ``path``; empty if they do."""
    problems = []
    for value in parameter.samples(is_integer(recipe, path)):
        problem = misfit(recipe, {path: value})
        if problem:
            problems.append(f"value {value!r}: {problem}")
    return problems[:1] if isinstance(parameter, Range) else problems


def misfit(recipe: Recipe, values: dict[str, Scalar]) -> str | None:
    """Why ``values`` do not fit the recipe, or None if they do."""
    try:
        apply(recipe, values)
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return None


def whole_space(recipe: Recipe, search: dict[str, Any]) -> Iterator[dict[str, Scalar]]:
    """Every point of a space of choices that fits the recipe; nothing if a parameter is a range.

    Points are by the keys of ``search``, which must be canonical paths.
    """
    choices = [p.choices for p in search.values() if isinstance(p, Choices)]
    if not search or len(choices) < len(search):
        return
    for values in itertools.product(*choices):
        point = dict(zip(search, values, strict=True))
        if misfit(recipe, point) is None:
            yield point


def is_integer(recipe: Recipe, path: str) -> bool:
    """Whether the field at ``path`` takes whole numbers only."""
    try:
        apply(recipe, {path: 1.5})
    except ValidationError as error:
        return any(item["type"] == "int_from_float" for item in error.errors())
    return False


def contains(parameter: Parameter, value: Any) -> bool:
    """Whether ``value`` can be drawn from ``parameter``."""
    if isinstance(parameter, Choices):
        return value in parameter.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and parameter.low <= value <= parameter.high
