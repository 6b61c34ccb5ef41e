"""What pydantic finds wrong with a file, as lines for people: all at once, each with its path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ractd_core.config import Config
from ractd_core.tasks import near
from sweeps.search_space import Choices, Range

T = TypeVar("T")

_BRANCHES = ("[key]", "choices", "range", "fixed", "named", "values", "number")
"""Parts that unions and key validators add to a location and that are not in the file."""


def problems_of(error: ValidationError, model: type[Config], where: str = "") -> list[str]:
    """One line per problem of a ``model`` that stands at the key ``where`` of the file."""
    items = error.errors()
    problems = []
    for item in items:
        location = item["loc"]
        inner = [other["loc"] for other in items if len(other["loc"]) > len(location)]
        if item["type"] == "too_short" and any(loc[: len(location)] == location for loc in inner):
            continue  # it is short because its items, reported by themselves, are wrong
        names = [where] * bool(where) + [str(part) for part in location]
        shown = ".".join(
            name for index, name in enumerate(names) if not (name in _BRANCHES and index)
        )
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            message = f"unknown key{near(names[-1], known) or '; known here: ' + ', '.join(known)}"
        elif item["type"] not in ("value_error", "missing"):
            message += f" (found {item['input']!r})"
        problems.append(f"{shown or 'spec'}: {message}")
    return list(dict.fromkeys(problems))


def _known_keys(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """The keys of the table at ``location``."""
    for part in location:
        if part in ("choices", "range"):
            model = Choices if part == "choices" else Range
        elif part in getattr(model, "model_fields", {}):
            model = model.model_fields[part].annotation
    return list(model.model_fields)


def salvage(validate: Callable[[dict[str, Any]], T], raw: Any) -> T:
    """What ``validate`` makes of the valid parts of ``raw``: one mistake must not hide another.

    It raises ValidationError for a table that is invalid and takes an empty one.
    """
    rest = copy.deepcopy(raw) if isinstance(raw, dict) else {}
    while True:
        try:
            return validate(rest)
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


def entry(annotation: Any, value: Any) -> Any:
    """``value`` as the annotation's type, None if it is not."""
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return None


def table(raw: dict[str, Any], key: str, default: Any) -> Any:
    """A part of the file if it is of the default's kind; what is not is reported elsewhere."""
    value = raw.get(key, default)
    return value if isinstance(value, type(default)) else type(default)()


def together(found: dict[str, list[str]]) -> list[str]:
    """The problems of several tasks, each once; where not all have it, it says which do."""
    whose: dict[str, list[str]] = {}
    for task, problems in found.items():
        for problem in dict.fromkeys(problems):
            whose.setdefault(problem, []).append(task)
    return [
        problem if len(tasks) == len(found) else f"{problem} (for {', '.join(tasks)})"
        for problem, tasks in whose.items()
    ]
