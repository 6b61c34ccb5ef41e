"""The search space as data: which field of the recipe is searched over which values.

A field is named by its path in the recipe (``student.optim.lr``) or by one of the paper's names.
What stands there is choices, a range, or one value, which is fixed for all trials. A parameter may
be conditional on others (``only_if``); where it is not active, the recipe's own value holds. A
trial is drawn in the order of :func:`parameters`, each one if :func:`is_active` says so by the
values drawn before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ractd_core.config import Config, PositiveFloat, Recipe
from ractd_core.tasks import near

ALIASES = {
    "horizon": "window.horizon",
    "sigma": "student.reward_weight",
    "reward_weight": "student.reward_weight",
    "alpha": "student.ctm_weight",
    "ctm_weight": "student.ctm_weight",
    "beta": "student.dsm_weight",
    "dsm_weight": "student.dsm_weight",
    "history": "window.history",
    "executed_actions": "policy.executed_actions",
}
LABELS = {
    "window.horizon": "horizon",
    "student.reward_weight": "reward_weight",
    "student.ctm_weight": "ctm_weight",
    "student.dsm_weight": "dsm_weight",
}
"""What records and the study call a path; other paths are called by themselves."""

_FIRST_FEW = 4
_GRID_TOLERANCE = 1e-8
"""In steps, as Optuna has it."""
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


SearchPath = Annotated[
    str,
    AfterValidator(canonical_path),
    WithJsonSchema({"type": "string", "enum": [*ALIASES, *SEARCHABLE]}),
]
Scalar = bool | int | float | str | None


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


_SCALAR = {"type": ["boolean", "number", "string", "null"]}
Allowed = Annotated[
    tuple[Scalar, ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}),
]
"""One value or several."""


class _Conditional(Config):
    """``only_if`` names searched parameters, and the values with which this one is searched too.

    All of them must hold, so where one of them is not active, this one is not either.
    """

    only_if: dict[SearchPath, Allowed] = Field(default_factory=dict)


class Choices(_Conditional):
    """A categorical parameter."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        twice = [value for index, value in enumerate(choices) if value in choices[:index]]
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} stands there twice; write it once")
        return choices

    def samples(self, integer: bool) -> tuple[Scalar, ...]:
        """Values that must be valid for the whole parameter to be."""
        return self.choices


class Range(_Conditional):
    """A number between ``low`` and ``high``, uniform or (``log``) uniform in its logarithm.

    ``step`` keeps to ``low`` and whole steps from it.
    """

    low: float
    high: float
    log: bool = False
    step: PositiveFloat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must begin above 0, found low {self.low}")
        if self.step is None:
            return self
        if self.log:
            raise ValueError("a log range has no step: leave out one of the two")
        if not self._on_grid(self.high):
            raise ValueError(
                f"high {self.high:g} must be a whole number of steps of {self.step:g} above low "
                f"{self.low:g}"
            )
        return self

    def samples(self, integer: bool) -> tuple[Scalar, ...]:
        """Both ends and, of whole numbers, the first few: a search would draw those too."""
        if not integer:
            return (self.low, self.high)
        broken = [end for end in (self.low, self.high, self.step or 1) if end % 1]
        if broken:
            return tuple(broken)  # each of which the field itself refuses
        return (*self.integers()[:_FIRST_FEW], int(self.high))

    def integers(self) -> range:
        """The values where the field takes whole numbers only."""
        return range(int(self.low), int(self.high) + 1, int(self.step or 1))

    def grid(self) -> tuple[float, ...]:
        """The values of a range of real numbers with a step, as Optuna rounds them."""
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = round((self.high - self.low) / float(step))
        return tuple(float(low + step * index) for index in range(count + 1))

    def has(self, value: float) -> bool:
        """Whether ``value`` can be drawn."""
        return self.low <= value <= self.high and (self.step is None or self._on_grid(value))

    def _on_grid(self, value: float) -> bool:
        steps = (value - self.low) / (self.step or 1.0)
        return abs(steps - round(steps)) < _GRID_TOLERANCE


def _shape(value: Any) -> str:
    if isinstance(value, bool | int | float | str | None):
        return "fixed"
    given = value if isinstance(value, dict | list) else getattr(value, "model_fields_set", ())
    return "choices" if "choices" in given or isinstance(value, list) else "range"


Parameter = Choices | Range
SearchEntry = Annotated[
    Annotated[Choices, Tag("choices")]
    | Annotated[Range, Tag("range")]
    | Annotated[Scalar, Tag("fixed")],
    Discriminator(_shape),
]
"""What stands at a path: a parameter, or the value that the path has in every trial."""


def parameters(search: Mapping[str, Any]) -> dict[str, Parameter]:
    """What is searched by canonical path, each parameter after those that it is conditional on.

    Raises ValueError, naming them, if parameters wait for each other.
    """
    waiting = {path: p for path, p in search.items() if isinstance(p, Parameter)}
    placed: dict[str, Parameter] = {}
    while waiting:
        ready = next(
            (path for path, p in waiting.items() if not p.only_if.keys() & waiting.keys()), None
        )
        if ready is None:
            raise ValueError(f"{', '.join(waiting)} wait for each other")
        placed[ready] = waiting.pop(ready)
    return placed


def fixed(search: Mapping[str, Any]) -> dict[str, Scalar]:
    """The values that hold for all trials, by canonical path."""
    return {path: value for path, value in search.items() if not isinstance(value, Parameter)}


def is_active(parameter: Parameter, values: Mapping[str, Scalar]) -> bool:
    """Whether ``parameter`` is searched, given the values of the active ones before it."""
    return all(
        other in values and values[other] in allowed for other, allowed in parameter.only_if.items()
    )


def active(search: Mapping[str, Any], values: Mapping[str, Scalar]) -> set[str]:
    """The paths that are searched in a trial with ``values``.

    These may hold more; what depends on a value that is not there is not active.
    """
    found: set[str] = set()
    for path, parameter in parameters(search).items():
        if is_active(parameter, {other: values[other] for other in values.keys() & found}):
            found.add(path)
    return found


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


def finite(recipe: Recipe, path: str, parameter: Parameter) -> Sequence[Scalar] | None:
    """All values of ``parameter``; None for a range of real numbers without a step."""
    if isinstance(parameter, Choices):
        return parameter.choices
    if is_integer(recipe, path):
        return parameter.integers()
    return parameter.grid() if parameter.step else None


def is_finite(recipe: Recipe, search: Mapping[str, Any]) -> bool:
    """Whether there is no range of real numbers in the space."""
    return all(finite(recipe, path, p) is not None for path, p in parameters(search).items())


def whole_space(recipe: Recipe, search: Mapping[str, Any]) -> Iterator[dict[str, Scalar]]:
    """Every point of a finite space that fits the recipe; nothing if it is not finite.

    Points are by canonical path and hold the active parameters alone.
    """
    points: Iterator[dict[str, Scalar]] = iter([{}] if is_finite(recipe, search) else [])
    for path, parameter in parameters(search).items():
        points = _spread(points, path, parameter, finite(recipe, path, parameter) or ())
    return (point for point in points if misfit(recipe, point) is None)


def _spread(
    points: Iterator[dict[str, Scalar]],
    path: str,
    parameter: Parameter,
    values: Sequence[Scalar],
) -> Iterator[dict[str, Scalar]]:
    """Each point with every value of one more parameter, or as it is where that is not active."""
    for point in points:
        if is_active(parameter, point):
            yield from ({**point, path: value} for value in values)
        else:
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
    return number and parameter.has(value)
